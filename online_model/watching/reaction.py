"""What is done about drift, whether it helped, and when it is taken back: a pure policy."""

from dataclasses import dataclass
from typing import Any

from headrace.online_model.watching.configuration import ReactionName
from headrace.online_model.watching.episodes import EpisodeChange
from headrace.schemas.drift_alerts import DriftReaction


@dataclass(frozen=True)
class Reaction:
    """What to do for an episode: `rate_scale` multiplies learning rates and `replay_share` is the replay's, both for `events`.

    `memory_keep` is the share of old evidence that the memories keep, 1 for all; `begun_ms` is when it was decided.
    """

    name: ReactionName
    episode_id: str
    begun_ms: int
    rate_scale: float = 1.0
    replay_share: float = 0.5
    memory_keep: float = 1.0
    events: int = 0


class Reactions:
    """Decides on reactions, measures them, and withdraws what did not help."""

    def __init__(self, *, only_tell: bool = False, most_an_hour: int = 4, cool_down_ms: int = 600_000) -> None:
        self.only_tell = only_tell
        self.most_an_hour = most_an_hour
        self.cool_down_ms = cool_down_ms

    def decide(self, change: EpisodeChange, quality: float, now_ms: int) -> Reaction | None:
        """Return what to do about a change, or None. `quality` is the share of hits among the first 20 right now."""
        return None

    def measure(self, quality: float, now_ms: int) -> list[tuple[str, DriftReaction]]:
        """Take in the quality now; return reactions that are settled (kept or withdrawn) with the episode that each belongs to."""
        return []

    def of(self, episode_id: str) -> list[DriftReaction]:
        """Return what was done for an episode, oldest first."""
        return []

    def saved(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON can hold it."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up what was saved."""
