"""What the decisions on `model-releases` add up to: which version is stable, who gets the newest one, and what is withdrawn."""

from collections.abc import Iterable
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from headrace.schemas import ModelRelease

HASH_STEPS = 1 << 32


class ReleaseState(Struct, frozen=True, kw_only=True):
    """The outcome of the decisions that count so far. `newest` is the last of them; None before the first.

    `withdrawn` holds, for each rollback, the version gone back to and the last one withdrawn: what lies between is withdrawn for good,
    since version numbers only rise.
    """

    newest: ModelRelease | None = None
    withdrawn: tuple[tuple[int, int], ...] = ()

    def objection(self, release: ModelRelease) -> str | None:
        """Return why a decision does not count; None where it does.

        Only one that follows directly on the newest counts: of two made at once the later record is void for every reader. The first
        decision that a reader sees counts whatever its number, since older ones may have passed out of the topic.
        """
        if self.newest is None:
            return None
        if release.model != self.newest.model:
            return f"it is about model {release.model!r}, not {self.newest.model!r}"
        if release.sequence != self.newest.sequence + 1:
            return f"sequence {release.sequence} does not follow on {self.newest.sequence}"
        return None

    def after(self, release: ModelRelease) -> "ReleaseState":
        """Return the state once a decision that counts is taken in."""
        gone = self.withdrawn
        if release.action == "rollback" and release.withdrawn_to > release.stable_version:
            gone = (*gone, (release.stable_version, release.withdrawn_to))
        return replace(self, newest=release, withdrawn=gone)

    def withdraws(self, version: int) -> bool:
        """Whether a version was withdrawn by a rollback."""
        return any(kept < version <= last for kept, last in self.withdrawn)

    @property
    def stable_version(self) -> int:
        """The version that answers whoever is not on trial; 0 before the first decision."""
        return self.newest.stable_version if self.newest else 0

    @property
    def stable_sha256(self) -> str:
        """The name of the stable version's weights; empty before the first decision."""
        return self.newest.stable_sha256 if self.newest else ""

    @property
    def trial_share(self) -> float:
        """The share of shoppers who get the newest version: all before the first decision, none while pinned."""
        if self.newest is None:
            return 1.0
        return 0.0 if self.newest.pinned else self.newest.trial_share

    @property
    def last_withdrawn(self) -> int:
        """The highest version that was ever withdrawn; 0 where none was."""
        return max((last for _, last in self.withdrawn), default=0)


def folded(releases: Iterable[ModelRelease]) -> ReleaseState:
    """Return the state after those of the decisions that count."""
    state = ReleaseState()
    for release in releases:
        if state.objection(release) is None:
            state = state.after(release)
    return state


def is_on_trial(shopper_id: str, model: str, share: float) -> bool:
    """Whether a shopper is among the `share` of all who get the newest version; the same in every process, for each model anew."""
    digest = blake2b(f"{model}\n{shopper_id}".encode(errors="replace"), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * HASH_STEPS
