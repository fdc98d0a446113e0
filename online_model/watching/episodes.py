"""One alert for each episode: findings that come together are one, which begins, goes on, and ends."""

from dataclasses import dataclass, field

from headrace.online_model.watching.configuration import ReactionName, Severity
from headrace.schemas import DriftAlert
from headrace.schemas.drift_alerts import AlertState, DriftCause, DriftKind, DriftReaction


@dataclass(frozen=True)
class EpisodeChange:
    """An episode of drift has begun, goes on, or has ended.

    `signal` is the one that moved furthest, from `level_before` to `level_after` over the newest `window` values of `observations`.
    `since_ms` is the event time at which it began to move, `time_ms` that of this change. `causes` are ranked, strongest first.
    `known_episode` names an earlier episode after which the shop looked alike; `reaction` is what the watch's line asks for.
    """

    episode_id: str
    state: AlertState
    kind: DriftKind
    severity: Severity
    signal: str
    detector: str
    level_before: float
    level_after: float
    window: int
    observations: int
    since_ms: int
    time_ms: int
    p_value: float
    reaction: ReactionName
    segment: dict[str, str] = field(default_factory=dict)
    signals: tuple[str, ...] = ()
    causes: tuple[DriftCause, ...] = ()
    known_episode: str | None = None


def alert_of(
    change: EpisodeChange,
    *,
    model_version: int,
    created_ms: int,
    reaction: str,
    reactions: list[DriftReaction] | None = None,
    picture: str | None = None,
) -> DriftAlert:
    """Return the message that tells of a change; `reaction` says in words what was done."""
    return DriftAlert(
        alert_id=f"{change.episode_id}-{change.state}-{change.observations}",
        signal=change.signal,
        detector=change.detector,
        severity=change.severity,
        level_before=change.level_before,
        level_after=change.level_after,
        window=change.window,
        observations=change.observations,
        model_version=model_version,
        event_time_ms=change.time_ms,
        created_ms=created_ms,
        reaction=reaction,
        episode_id=change.episode_id,
        state=change.state,
        kind=change.kind,
        segment=change.segment,
        since_ms=change.since_ms,
        p_value=change.p_value,
        signals=list(change.signals),
        causes=list(change.causes),
        known_episode=change.known_episode,
        reactions=reactions or [],
        picture=picture,
    )
