"""A scorer and a ranker that keep themselves up to date: weights from `model-updates`, memories from `user-features`."""

import logging
import threading

from headrace.online_model.ranker import Ranker
from headrace.online_model.scorer import Scorer
from headrace.schemas import ModelUpdate
from headrace.schemas.wire import now_ms
from headrace.streams import metrics
from headrace.streams.weights_channel import WeightsFollower

log = logging.getLogger(__name__)


def choose_device(wanted: str) -> str:
    """Return 'cuda' or 'cpu'; 'auto' takes a GPU where there is one. Raises ValueError where a GPU is asked for and none is there."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("HEADRACE_DEVICE is 'cuda', but torch sees no GPU; set it to 'auto' or 'cpu'")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def use_one_thread() -> None:
    """Keep torch to one thread: the parts share the machine, and batches are small."""
    import torch

    torch.set_num_threads(1)


class LiveScorer:
    """A ranker whose weights are swapped by a thread of its own while it answers."""

    def __init__(self, bootstrap: str, client_id: str, device: str) -> None:
        use_one_thread()
        self.scorer = Scorer(device=choose_device(device))
        self.ranker = Ranker(self.scorer)
        self._stop = threading.Event()
        self.follower = WeightsFollower(bootstrap, f"{client_id}-weights", self._swap)
        self._thread = threading.Thread(target=self._follow, name="weights", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to follow the weights."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following; what is loaded goes on answering."""
        self._stop.set()
        self._thread.join(timeout=10.0)

    def _follow(self) -> None:
        try:
            self.follower.run(self._stop)
        except BaseException as error:
            # Kept for the owner's loop, which ends the process: weights that nobody follows would grow old in silence.
            self.failure = error
            log.exception("the weights are no longer followed")

    def _swap(self, update: ModelUpdate, payload: bytes) -> None:
        if update.version == self.scorer.version and update.weights_sha256 == self.scorer.sha256:
            return
        self.scorer.apply(update, payload)
        metrics.SWAPS.inc()
        metrics.MODEL_VERSION.set(update.version)
        if self.follower.caught_up.is_set():
            # What was published before this process began says nothing of how fast it is.
            now = now_ms()
            metrics.WEIGHTS_DELAY.observe(max(0, now - update.created_ms) / 1000)
            for published_ms in update.learned_published_ms:
                metrics.WEIGHTS_FRESHNESS.observe(max(0, now - published_ms) / 1000)
        log.info("weights swapped", extra={"version": update.version, "kind": update.kind, "sha256": update.weights_sha256[:12]})
