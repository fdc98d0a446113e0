"""Loading the weights of a certain version: from the weight store, or from Kafka as far as its topics reach back."""

import logging
import time

from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import BadUpdate, ModelCopy
from headrace.schemas import ModelUpdate
from headrace.streams.signing import TrustedKeys
from headrace.streams.weight_store import WeightStore
from headrace.streams.weights_channel import WeightsFollower

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 30.0


class StableWeights:
    """Loads versions for one purpose, `client_id`."""

    def __init__(self, bootstrap: str, client_id: str, store: WeightStore | None = None, trusted: TrustedKeys | None = None) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._store = store
        self._trusted = trusted

    def load(self, version: int, sha256: str, shape: TransformerShape | None = None) -> tuple[ModelCopy, ModelUpdate] | None:
        """Return the weights of a version and the manifest that led to them; None, and a line in the log, where they cannot be had."""
        found = self._from_store(version, sha256, shape) or self._from_kafka(version, sha256, shape)
        if found is None:
            log.warning("a version cannot be loaded", extra={"version": version, "sha256": sha256[:12]})
        return found

    def _from_store(self, version: int, sha256: str, shape: TransformerShape | None) -> tuple[ModelCopy, ModelUpdate] | None:
        if self._store is None:
            return None
        copy = ModelCopy(shape)
        try:
            stored = self._store.snapshot(version)
            if stored is None or stored[0].weights_sha256 != sha256:
                return None
            copy.apply(*stored)
        except (OSError, BadUpdate) as error:
            log.warning("the weight store gives no such version", extra={"version": version, "reason": str(error)})
            return None
        return copy, stored[0]

    def _from_kafka(self, version: int, sha256: str, shape: TransformerShape | None) -> tuple[ModelCopy, ModelUpdate] | None:
        copy = ModelCopy(shape)
        found: list[ModelUpdate] = []

        def take(update: ModelUpdate, payload: bytes) -> None:
            if not found and update.version <= version:
                copy.apply(update, payload)
                if (copy.version, copy.sha256) == (version, sha256):
                    found.append(update)

        follower = WeightsFollower(
            self._bootstrap, f"{self._client_id}-load", take, from_version=version, trusted=self._trusted, store=self._store
        )
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        try:
            while not found and not follower.caught_up.is_set() and time.monotonic() < deadline:
                follower.step(0.1)
        finally:
            follower.close()
        return (copy, found[0]) if found else None
