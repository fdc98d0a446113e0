"""What the learner learns on: the newest weights, or after a rollback the stable ones."""

import logging

from headrace.online_model.version_chain import VersionChain
from headrace.online_model.weights import ModelCopy
from headrace.schemas import ModelUpdate
from headrace.streams.manifests import read_manifests
from headrace.streams.model_access import ModelAccess
from headrace.streams.release_log import ReleaseLog
from headrace.streams.stable_weights import StableWeights

log = logging.getLogger(__name__)


class StableVersionMissing(RuntimeError):
    """The stable version can be loaded neither from the weight store nor from Kafka, and nothing may build on what was withdrawn."""


class LearningBase:
    """Follows the decisions for one learner. Raises KafkaException where they cannot be read."""

    def __init__(self, bootstrap: str, client_id: str, access: ModelAccess | None = None) -> None:
        access = access or ModelAccess()
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._access = access
        self._log = ReleaseLog(bootstrap, client_id, access.trusted)
        self._stable = StableWeights(bootstrap, client_id, access.store, access.trusted)
        self._decisions = len(self._log.counted)

    @property
    def stable_version(self) -> int:
        """The stable version, whose weights must stay where they can be loaded; 0 before there is one."""
        return self._log.state.stable_version

    @property
    def stable_sha256(self) -> str:
        """The name of the stable version's weights; empty before there is one."""
        return self._log.state.stable_sha256

    def withdraws(self, version: int) -> bool:
        """Whether a version was withdrawn by a rollback."""
        return self._log.state.withdraws(version)

    def highest_version(self) -> int:
        """Return the highest version that must not be given again: after a rollback the newest manifest may name a lower one."""
        if not self._log.state.withdrawn:
            return self.stable_version
        known = [update.version for update in read_manifests(self._bootstrap, self._client_id, self._access.trusted)]
        return max(self._log.state.last_withdrawn, *known, 0)

    def at_start(self, version: int) -> tuple[ModelCopy, ModelUpdate] | None:
        """Return the stable weights and their manifest where the newest `version` was withdrawn or builds on what was.

        None where it stands. Raises StableVersionMissing.
        """
        if not self._log.state.withdrawn or version <= self.stable_version:
            return None
        chain = VersionChain()
        for update in read_manifests(self._bootstrap, self._client_id, self._access.trusted):
            chain.add(update)
        return None if chain.leads_to(version, self._log.state) else self._load()

    def look(self) -> tuple[ModelCopy, ModelUpdate] | None:
        """Return the stable weights and their manifest where there was a rollback since the last call; else None.

        Raises StableVersionMissing.
        """
        while self._log.poll(0):
            pass
        new, self._decisions = self._log.counted[self._decisions :], len(self._log.counted)
        return self._load() if any(release.action == "rollback" for release in new) else None

    def _load(self) -> tuple[ModelCopy, ModelUpdate]:
        state = self._log.state
        found = self._stable.load(state.stable_version, state.stable_sha256)
        if found is None:
            raise StableVersionMissing(
                f"version {state.stable_version} ({state.stable_sha256[:12]}) is neither in the weight store nor in Kafka; bring its "
                "snapshot back, or go back to a version that is there: headrace models rollback --to VERSION"
            )
        log.warning("learning goes on from the stable version", extra={"version": state.stable_version})
        return found
