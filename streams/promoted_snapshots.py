"""Puts each stable version into the weight store, so that it can be gone back to when Kafka has dropped its bytes.

Beside it, in the folder `compressed`, lie smaller files of the same version, in 8 and in 4 bits, as `headrace compress` makes them.
"""

import logging
import threading
import time
from collections.abc import Callable

from confluent_kafka import KafkaException

from headrace.online_model.compression.methods import compressed_siblings
from headrace.online_model.weights import ModelCopy, snapshot_payload
from headrace.streams.stable_weights import StableWeights
from headrace.streams.weight_store import WeightStore
from headrace.streams.weights_channel import WeightsPublisher

log = logging.getLogger(__name__)

# Kafka has the deltas for days: a version that is stable for seconds only need not be made whole.
PAUSE_S = 60.0
COMPRESSED, COMPRESSED_KEPT = "compressed", 10


class PromotedSnapshots:
    """Looks each time `see` is called, and does the work in a thread of its own: making a version again takes a second."""

    def __init__(
        self,
        publisher: WeightsPublisher,
        stable: StableWeights,
        clock_s: Callable[[], float] = time.monotonic,
        store: WeightStore | None = None,
    ) -> None:
        self._store_of_files = store
        self._publisher = publisher
        self._stable = stable
        self._clock_s = clock_s
        self._due_s = clock_s()
        self._stored = ""
        self._thread: threading.Thread | None = None

    def see(self, version: int, sha256: str) -> None:
        """Store this version, if it is another one than before and the last was not stored a moment ago."""
        if not version or sha256 == self._stored or self._clock_s() < self._due_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._due_s = self._clock_s() + PAUSE_S
        self._thread = threading.Thread(target=self._store, args=(version, sha256), name="promoted", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for what is being stored."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _store(self, version: int, sha256: str) -> None:
        try:
            found = self._stable.load(version, sha256)
            if found is not None:
                copy, update = found
                # A snapshot of that version is there already where it was loaded from one.
                if update.kind == "snapshot" or self._publisher.store_snapshot(update, snapshot_payload(copy)):
                    self._stored = sha256
                    self._put_compressed(copy, version, sha256)
                    log.info("the stable version is in the weight store", extra={"version": version})
        except (KafkaException, OSError) as error:
            log.warning("the stable version is not in the weight store yet", extra={"version": version, "reason": str(error)})

    def _put_compressed(self, copy: ModelCopy, version: int, sha256: str) -> None:
        """Put the smaller files beside the snapshot, and take those of old versions away."""
        store = self._store_of_files
        if store is None:
            return
        siblings = compressed_siblings(copy)
        for method, content in siblings.items():
            store.put_file(f"{COMPRESSED}/{version:012d}-{sha256[:16]}-{method}.safetensors", content)
        for path in store.files(COMPRESSED)[: -COMPRESSED_KEPT * len(siblings)]:
            store.delete_file(path)
