"""One alert for each episode: findings that come together are one, which begins, goes on, and ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace.online_model.watching.configuration import Configuration, ReactionName, Severity, Watch
from headrace.online_model.watching.explaining import SegmentLevels
from headrace.online_model.watching.fingerprints import KnownDrifts, StepProfile
from headrace.online_model.watching.plane import Finding, Moved, Plane
from headrace.schemas import DriftAlert
from headrace.schemas.drift_alerts import AlertState, DriftCause, DriftKind, DriftReaction

CHECKED_EVERY = 16
STILL = 3.0
LONGEST_WAIT = 4
MOST_CAUSES = 20


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


@dataclass
class _Moving:
    """A signal that moved in an episode: where it stood before, and how clearly it moved at most."""

    plane: str
    column: int
    label: str
    watch: str
    before: float
    after: float
    score: float
    since_ms: int


@dataclass
class _Episode:
    """An episode under way. Blocks are those of the plane that began it; `since_step` counts the blocks of the steps' profile."""

    episode_id: str
    plane: str
    watch: str
    p_value: float
    window: int
    began: int
    last_found: int
    last_told: int
    last_checked: int
    since_step: int
    # By plane: how many blocks it had seen when the episode began.
    began_at: dict[str, int] = field(default_factory=dict)
    moving: dict[str, _Moving] = field(default_factory=dict)
    known: str | None = None


class Episodes:
    """Puts findings together to episodes, one at a time: whatever moves while one is under way belongs to it.

    An episode ends when nothing was found for a while and the levels that moved stand still, where they were or elsewhere. What is
    found soon after its end opens it again.
    """

    def __init__(self, configuration: Configuration, planes: Mapping[str, Plane], levels: SegmentLevels, steps: StepProfile) -> None:
        self._configuration = configuration
        self._planes = planes
        self._levels = levels
        self._steps = steps
        self._known = KnownDrifts()
        self._current: _Episode | None = None
        self._last: tuple[_Episode, int] | None = None
        self._watches: dict[str, Watch] = {watch.name: watch for watch in configuration.watches}

    def follow(self, name: str, findings: Sequence[Finding], time_ms: int) -> list[EpisodeChange]:
        """Take in what a plane found, and whether it moved on; return what has changed."""
        plane = self._planes[name]
        changes = []
        for finding in findings:
            if self._current is None:
                changes += self._begin(name, plane, finding)
            else:
                self._join(name, plane, finding)
        episode = self._current
        if episode is not None and episode.plane == name and plane.tests.blocks - episode.last_checked >= CHECKED_EVERY:
            episode.last_checked = plane.tests.blocks
            changes += self._check(episode, plane, time_ms)
        return changes

    def is_moving(self, watch: str) -> bool:
        """Whether the watch's signal moves in an episode that is under way."""
        return self.moving_since(watch) is not None

    def moving_since(self, watch: str) -> int | None:
        """Return the event time since which the watch's signal moves, None where it does not."""
        times = [each.since_ms for each in self._current.moving.values() if each.watch == watch] if self._current is not None else []
        return min(times, default=None)

    def saved(self) -> dict[str, Any]:
        """Return what is remembered, as JSON can hold it."""
        return {
            "current": msgspec.to_builtins(self._current),
            "last": msgspec.to_builtins(self._last),
            "known": self._known.saved(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self._current = msgspec.convert(saved["current"], _Episode | None)
        self._last = msgspec.convert(saved["last"], tuple[_Episode, int] | None)
        self._known.restore(saved["known"])

    def _begin(self, name: str, plane: Plane, finding: Finding) -> list[EpisodeChange]:
        lead = finding.found[0]
        now = plane.tests.blocks
        window = lead.window // plane.block
        reopened = self._reopened(name, finding, now)
        if reopened is not None:
            self._current = reopened
            self._join(name, plane, finding)
            reopened.last_checked = now
            # It may be another drift of the same signals: what is surprising from now on tells.
            reopened.since_step = self._steps.blocks - window
            return []
        self._current = _Episode(
            f"{lead.watch.name}-{finding.time_ms}"[:128],
            name,
            lead.watch.name,
            lead.p_value,
            lead.window,
            now,
            now,
            now,
            now,
            self._steps.blocks - window,
            began_at={other: each.tests.blocks for other, each in self._planes.items()},
        )
        self._take_in(self._current, name, plane, [*finding.found, *finding.beside])
        plane.begin_anew(window)
        return [self._change(self._current, plane, "started", finding.time_ms)]

    def _reopened(self, name: str, finding: Finding, now: int) -> _Episode | None:
        """Return the last episode where it ended a moment ago and one of its signals moves again."""
        if self._last is None:
            return None
        episode, ended = self._last
        size = self._planes[episode.plane].block
        if episode.plane != name or (now - ended) * size > self._configuration.group_events:
            return None
        self._last = None
        return episode if any(moved.label in episode.moving for moved in finding.found) else None

    def _join(self, name: str, plane: Plane, finding: Finding) -> None:
        episode = self._current
        assert episode is not None
        episode.last_found = self._planes[episode.plane].tests.blocks
        self._take_in(episode, name, plane, finding.found)
        plane.begin_anew(max(moved.window for moved in finding.found) // plane.block)

    def _take_in(self, episode: _Episode, name: str, plane: Plane, moved: Sequence[Moved]) -> None:
        for each in moved:
            known = episode.moving.get(each.label)
            if known is None:
                episode.moving[each.label] = _Moving(
                    name, each.column, each.label, each.watch.name, each.before, each.after, each.score, each.since_ms
                )
                plane.frozen[each.column] = True
            elif abs(each.score) > abs(known.score):
                known.score, known.after = each.score, each.after

    def _check(self, episode: _Episode, plane: Plane, time_ms: int) -> list[EpisodeChange]:
        now, size = plane.tests.blocks, plane.block
        if episode.known is None:
            profiles = self._steps.around(episode.since_step)
            if profiles is not None:
                episode.known = self._known.like(*profiles, besides=episode.episode_id)
                if episode.known is not None:
                    episode.last_told = now
                    return [self._change(episode, plane, "ongoing", time_ms)]
        settled = max(2 * CHECKED_EVERY, self._configuration.settled_events // self._configuration.block)
        waited = now - episode.last_found
        if waited >= settled and (self._stands_still(episode, settled) or waited >= LONGEST_WAIT * settled):
            return [self._end(episode, plane, settled, time_ms)]
        if (now - episode.last_told) * size >= self._configuration.ongoing_events * size // self._configuration.block:
            episode.last_told = now
            return [self._change(episode, plane, "ongoing", time_ms)]
        return []

    def _stands_still(self, episode: _Episode, settled: int) -> bool:
        """Whether no signal's level differs between the older and the newer half of the last `settled` blocks."""
        for name, plane in self._planes.items():
            columns = [each.column for each in episode.moving.values() if each.plane == name]
            now = plane.tests.blocks
            middle, begin = now - settled // 2, now - settled
            if columns and begin > 0 and (abs(plane.difference(columns, (begin, middle), (middle, now))) > STILL).any():
                return False
        return True

    def _end(self, episode: _Episode, plane: Plane, settled: int, time_ms: int) -> EpisodeChange:
        profiles = self._steps.around(episode.since_step)
        if profiles is not None:
            self._known.learn(episode.episode_id, profiles[1])
        told = self._change(episode, plane, "resolved", time_ms)
        for name, other in self._planes.items():
            columns = [each.column for each in episode.moving.values() if each.plane == name]
            if columns or name == episode.plane:
                other.settle(columns, min(settled, other.tests.blocks))
            else:
                # Whatever moved there was this drift too.
                other.begin_anew(other.tests.blocks - episode.began_at.get(name, 0))
        self._current, self._last = None, (episode, plane.tests.blocks)
        return told

    def _change(self, episode: _Episode, plane: Plane, state: AlertState, time_ms: int) -> EpisodeChange:
        ranked = sorted(episode.moving.values(), key=lambda each: -abs(each.score))
        lead = episode.moving.get(episode.watch) or ranked[0]
        watch = self._watches[episode.watch]
        if state != "started":
            for each in ranked:
                other = self._planes[each.plane]
                shown = other.shown(each.column)
                each.after = other.levels(shown)[0]
        total = sum(each.score**2 for each in ranked)
        causes = [
            DriftCause(
                signal=each.label,
                share=each.score**2 / total,
                level_before=each.before,
                level_after=each.after,
                segment=dict(self._watches[each.watch].segment),
            )
            for each in ranked
        ]
        segments = [
            msgspec.structs.replace(cause, share=cause.share * lead.score**2 / total)
            for cause in self._levels.causes(watch.signal, lead.since_ms)
        ]
        causes = sorted([*causes, *segments], key=lambda cause: -cause.share)[:MOST_CAUSES]
        return EpisodeChange(
            episode_id=episode.episode_id,
            state=state,
            kind=watch.kind,
            severity=watch.severity,
            signal=watch.signal,
            detector=watch.detector,
            level_before=lead.before,
            level_after=lead.after,
            window=episode.window,
            observations=plane.observations,
            since_ms=lead.since_ms,
            time_ms=time_ms,
            p_value=episode.p_value,
            reaction=watch.reaction,
            segment=dict(watch.segment),
            signals=tuple(each.label for each in ranked),
            causes=tuple(causes),
            known_episode=episode.known,
        )


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
