"""Decisions that an operator asks for, on the command line or over HTTP: checked, signed, published, and waited for until they count."""

from collections.abc import Callable

from headrace.online_model.release_policy import ReleaseRules
from headrace.schemas import ModelRelease
from headrace.schemas.model_releases import Action
from headrace.schemas.model_updates import MODEL
from headrace.schemas.wire import now_ms
from headrace.streams.manifests import read_manifests
from headrace.streams.release_log import ReleaseLog, ReleasePublisher, publish_and_wait
from headrace.streams.signing import SigningKey, TrustedKeys


class NotDecidable(ValueError):
    """A decision that cannot be made; the text says why and what to do."""


class ReleaseRequests:
    """Makes decisions as `decided_by`. Each call reads where things stand. All raise NotDecidable, ReleaseVoid, KafkaException."""

    def __init__(
        self,
        bootstrap: str,
        decided_by: str,
        key: SigningKey | None = None,
        trusted: TrustedKeys | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._bootstrap = bootstrap
        self._decided_by = decided_by
        self._key = key
        self._trusted = trusted
        self._clock = clock

    def promote(self, version: int, reason: str) -> ModelRelease:
        """Make a version the stable one."""
        log, names, _ = self._look()
        if log.state.withdraws(version):
            raise NotDecidable(f"version {version} was withdrawn by a rollback; promote a later one, see: headrace models list")
        if version not in names:
            raise NotDecidable(
                f"version {version} was not published whole, or not in the time that model-updates keeps; promote one of: "
                f"{_some([whole for whole in names if not log.state.withdraws(whole)])}"
            )
        if version == log.state.stable_version:
            raise NotDecidable(f"version {version} is the stable one already")
        return self._decide(log, "promote", version, names[version], reason, share=_share(log))

    def rollback(self, reason: str, to: int | None = None) -> ModelRelease:
        """Go back to a version, the stable one unless told, and withdraw all later ones."""
        log, names, newest = self._look()
        state = log.state
        version = state.stable_version if to is None else to
        sha256 = state.stable_sha256 if version == state.stable_version and state.newest else names.get(version)
        if sha256 is None:
            raise NotDecidable(
                f"version {version} was not published whole, so it cannot be loaded; go back to one of: "
                f"{_some([whole for whole in names if not state.withdraws(whole)])}"
                if state.newest or to is not None
                else "no version is stable yet; name one with --to"
            )
        if state.withdraws(version):
            raise NotDecidable(f"version {version} was withdrawn by a rollback itself; go back to an earlier one")
        if version >= newest:
            raise NotDecidable(
                f"there is nothing after version {version} to withdraw; where it is itself bad, name an earlier one with --to"
            )
        return self._decide(log, "rollback", version, sha256, reason, share=ReleaseRules().probation_share, withdrawn_to=newest)

    def pin(self, reason: str) -> ModelRelease:
        """Let nothing but the stable version answer until `unpin`; nothing is promoted or rolled back meanwhile."""
        return self._mark(reason, pinned=True)

    def unpin(self, reason: str) -> ModelRelease:
        """Let versions on trial answer again."""
        return self._mark(reason, pinned=False)

    def _mark(self, reason: str, *, pinned: bool) -> ModelRelease:
        log, _, _ = self._look()
        newest = log.state.newest
        if newest is None:
            raise NotDecidable("no version is stable yet; start the release manager, or promote one first: headrace models promote VERSION")
        if newest.pinned == pinned:
            raise NotDecidable(f"version {newest.stable_version} is {'pinned already' if pinned else 'not pinned'}")
        action: Action = "pin" if pinned else "unpin"
        return self._decide(log, action, newest.stable_version, newest.stable_sha256, reason, share=_share(log), pinned=pinned)

    def _decide(
        self,
        log: ReleaseLog,
        action: Action,
        version: int,
        sha256: str,
        reason: str,
        *,
        share: float,
        withdrawn_to: int = 0,
        pinned: bool | None = None,
    ) -> ModelRelease:
        newest = log.state.newest
        release = ModelRelease(
            model=MODEL,
            sequence=newest.sequence + 1 if newest else 1,
            action=action,
            stable_version=version,
            stable_sha256=sha256,
            withdrawn_to=withdrawn_to,
            trial_share=share,
            pinned=newest.pinned if pinned is None and newest else bool(pinned),
            reason=reason[:1000],
            decided_by=self._decided_by,
            decided_ms=self._clock(),
            key_id=self._key.key_id if self._key else None,
        )
        try:
            publish_and_wait(log, ReleasePublisher(self._bootstrap, self._decided_by, self._key), release)
        finally:
            log.close()
        return release

    def _look(self) -> tuple[ReleaseLog, dict[int, str], int]:
        """Return the decisions, the names of the versions that were published whole, and the newest version."""
        log = ReleaseLog(self._bootstrap, self._decided_by, self._trusted)
        names: dict[int, str] = {}
        newest = 0
        for update in read_manifests(self._bootstrap, self._decided_by, self._trusted):
            newest = max(newest, update.version)
            if update.kind == "snapshot":
                names[update.version] = update.weights_sha256
        return log, names, newest


def _share(log: ReleaseLog) -> float:
    return log.state.newest.trial_share if log.state.newest else ReleaseRules().trial_share


def _some(versions: list[int]) -> str:
    return ", ".join(map(str, sorted(versions)[-5:])) or "(there is none)"
