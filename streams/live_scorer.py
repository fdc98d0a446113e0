"""Two lanes of weights and a ranker that keep themselves up to date.

Weights come from `model-updates`, decisions from `model-releases`, mixture and ranking network from `ranking-weights`, what the memories
forget on drift from `memory-reactions`.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from headrace.online_model.lanes import Lanes, Ranked
from headrace.online_model.ranker import Foreseen, History, Ranker
from headrace.online_model.scorer import Scorer, score_with
from headrace.online_model.weights import BadUpdate, ModelCopy
from headrace.schemas import ModelUpdate, UserRow
from headrace.schemas.model_updates import MODEL
from headrace.schemas.wire import now_ms
from headrace.streams import metrics
from headrace.streams.lifetime import tell_always
from headrace.streams.memory_reactions import MemoryReactionFollower
from headrace.streams.micro_batches import MicroBatches
from headrace.streams.ranking_channel import RankingFollower
from headrace.streams.release_log import ReleaseLog
from headrace.streams.signing import TrustedKeys
from headrace.streams.stable_weights import StableWeights
from headrace.streams.weight_store import WeightStore
from headrace.streams.weights_channel import WeightsFollower

log = logging.getLogger(__name__)

SETTLE_AGAIN_S = 2.0
RECORDED, WARM_UP_BEST = 4, 50
MOST_TOGETHER = 8
# One batch holds the interpreter while the other is in native code; more would only take turns.
AT_ONCE = 2


def choose_device(wanted: str) -> str:
    """Return 'cuda' or 'cpu'; 'auto' takes a GPU where there is one. Raises ValueError where a GPU is asked for and none is there."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("HEADRACE_DEVICE is 'cuda', but torch sees no GPU; set it to 'auto' or 'cpu'")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def use_one_thread() -> None:
    """Keep torch and NumPy to one thread: the parts share the machine, and batches are small."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


class Asked(NamedTuple):
    """What a shopper asks for: the `k` items that follow a history, and the Transformer's own beside them where these are wanted."""

    history: History
    k: int
    shopper: str | None
    with_transformer: bool = False


class LiveScorer:
    """A ranker whose weights are swapped by threads of its own while it answers; a shopper's lane decides by which weights.

    With `trusted` keys only decisions that one of them has signed count. Whoever teaches the ranker's memories sets
    `reactions.memories_read` once they hold what was there at the start. From `store` a stable version is loaded that the updates at
    hand do not lead to; without it, from Kafka. It needs room for two left-right pairs (`lanes` has the figures).
    A swap calls `give_way` between its steps.
    """

    def __init__(
        self,
        bootstrap: str,
        client_id: str,
        device: str,
        *,
        trusted: TrustedKeys | None = None,
        store: WeightStore | None = None,
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        use_one_thread()
        self.lanes = Lanes(MODEL, choose_device(device), give_way=give_way)
        self.ranker = Ranker(self.lanes.trial)
        self.ranking = RankingFollower(bootstrap, client_id, self.ranker, trusted)
        self.reactions = MemoryReactionFollower(bootstrap, client_id, self.ranker, trusted)
        self._stop = threading.Event()
        self.releases = ReleaseLog(bootstrap, client_id, trusted)
        self.lanes.decide(self.releases.state)
        self._stable = StableWeights(bootstrap, client_id, store, trusted)
        self.follower = WeightsFollower(
            bootstrap, f"{client_id}-weights", self._swap, trusted=trusted, store=store, may_fork=self.lanes.may_fork
        )
        followed = {
            "weights": self._follow,
            "decisions on versions": self._follow_releases,
            "ranking weights": self._follow_ranking,
            "memory reactions": self._follow_reactions,
        }
        self._threads = [
            threading.Thread(target=self._keep_following, args=(what, follow), name=what, daemon=True) for what, follow in followed.items()
        ]
        self.failure: BaseException | None = None
        self._recorded: deque[History] = deque(maxlen=RECORDED)
        self._batches = MicroBatches(self._rank_each, at_once=AT_ONCE, most=MOST_TOGETHER)

    @property
    def scorer(self) -> Scorer:
        """The scorer of the trial lane, which holds the newest weights."""
        return self.lanes.trial

    def start(self) -> None:
        """Begin to follow the weights and the decisions."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop following; what is loaded goes on answering."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=10.0)

    def rank(self, histories: Sequence[History], k: int, shoppers: Sequence[str | None], *, with_transformer: bool = False) -> list[Ranked]:
        """Rank for each shopper by the weights of their lane (see `Ranker.rank`)."""
        self._recorded.extend(history for history in histories[-RECORDED:] if history)
        ranked = self.lanes.rank(self.ranker, histories, k, shoppers, with_transformer=with_transformer)
        for one in ranked:
            metrics.LANE_ANSWERS.labels(one.lane).inc()
        return ranked

    def rank_one(self, asked: Asked) -> Ranked:
        """Rank as `rank` does for one of many that ask at the same time, each in a thread of its own: they are ranked together."""
        return self._batches.ask(asked)

    def test_then_learn(self, rows: Sequence[UserRow]) -> list[Foreseen]:
        """Test and teach the mixture, each row by the weights of its shopper's lane (see `Ranker.test_then_learn`)."""
        return self.lanes.test_then_learn(self.ranker, rows)

    def _rank_each(self, asked: Sequence[Asked]) -> list[Ranked]:
        metrics.ASKED_TOGETHER.observe(len(asked))
        # What is wanted has a say in what is looked at, and nobody's answer may depend on what others want.
        alike: dict[tuple[int, bool], list[int]] = {}
        for place, one in enumerate(asked):
            alike.setdefault((one.k, one.with_transformer), []).append(place)
        ranked: dict[int, Ranked] = {}
        for (k, with_transformer), places in alike.items():
            theirs = [asked[place] for place in places]
            found = self.rank([one.history for one in theirs], k, [one.shopper for one in theirs], with_transformer=with_transformer)
            ranked.update(zip(places, found, strict=True))
        return [ranked[place] for place in range(len(asked))]

    def _keep_following(self, what: str, follow: Callable[[], None]) -> None:
        try:
            follow()
        except BaseException as error:
            # Kept for the owner's loop, which ends the process: what nobody follows would grow old in silence.
            self.failure = error
            log.exception("the %s are no longer followed", what)

    def _follow(self) -> None:
        self._settle()
        self.follower.run(self._stop)

    def _follow_releases(self) -> None:
        try:
            while not self._stop.is_set():
                if self.releases.poll(0.5 if self.lanes.is_settled else SETTLE_AGAIN_S):
                    newest = self.releases.state.newest
                    self.lanes.decide(self.releases.state)
                    log.info("decision taken in", extra={"action": newest.action, "stable": newest.stable_version} if newest else {})
                if not self.lanes.is_settled:
                    self._settle()
        finally:
            self.releases.close()

    def _follow_ranking(self) -> None:
        self.ranking.run(self._stop)

    def _follow_reactions(self) -> None:
        self.reactions.run(self._stop)

    def _settle(self) -> None:
        if self.lanes.settle(self._load):
            metrics.STABLE_VERSION.set(self.lanes.stable.version)
            if self.lanes.state.newest is not None:
                log.info("stable weights are there", extra={"version": self.lanes.stable.version, "trial": self.lanes.trial.version})

    def _load(self, version: int, sha256: str) -> ModelCopy | None:
        found = self._stable.load(version, sha256)
        return found[0] if found else None

    def _warm_up(self, copy: ModelCopy, questions: int) -> None:
        """Answer the newest recorded questions, so that whoever asks first does not wait for what is made at the first use.

        Raises BadUpdate where the answers are no numbers.
        """
        graphed = copy.graphed_scoring(WARM_UP_BEST)
        if graphed is not None:
            graphed.make_ready(WARM_UP_BEST)
        recorded = list(self._recorded)[-questions:]
        if not all(np.isfinite(scored.best_logits).all() for scored in score_with(copy, recorded, best=WARM_UP_BEST)):
            raise BadUpdate("answers to recorded questions are not finite numbers")

    def _swap(self, update: ModelUpdate, payload: bytes) -> None:
        # A delta leaves in place what a whole snapshot has to make anew.
        questions = 1 if update.kind == "delta" else RECORDED
        if not self.lanes.take(update, payload, lambda copy: self._warm_up(copy, questions), lambda: self._tell_age(update)):
            return
        metrics.SWAPS.inc()
        metrics.MODEL_VERSION.set(update.version)
        tell_always(model_version=update.version)
        log.info("weights swapped", extra={"version": update.version, "kind": update.kind, "sha256": update.weights_sha256[:12]})

    def _tell_age(self, update: ModelUpdate) -> None:
        """Observe how old the update, and what it has learned from, is at the moment from which it answers."""
        if not self.follower.caught_up.is_set():
            # What was published before this process began says nothing of how fast it is.
            return
        now = now_ms()
        metrics.WEIGHTS_DELAY.observe(max(0, now - update.created_ms) / 1000)
        for published_ms in update.learned_published_ms:
            metrics.WEIGHTS_FRESHNESS.observe(max(0, now - published_ms) / 1000)
