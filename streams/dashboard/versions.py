"""The chain of weights and the decisions about it, as far as the page shows them."""

from collections import deque

from msgspec.structs import replace

from headrace.online_model.release_state import ReleaseState
from headrace.schemas import ModelRelease, ModelUpdate, ReleaseOutcomes
from headrace.streams.dashboard.messages import Decision, LaneOutcome, Mark, Releases, VersionLine

MOST_VERSIONS = 60
MOST_DECISIONS = 60
OUTCOMES_MS = 10 * 60 * 1000
MOST_LANE_LINES = 30


class Versions:
    """The newest manifests, by version; a snapshot of a version that came as a delta is noted beside it."""

    def __init__(self) -> None:
        self._lines: dict[int, VersionLine] = {}
        self.newest_ms = 0

    def take(self, update: ModelUpdate) -> None:
        """Take in a manifest."""
        known = self._lines.get(update.version)
        whole = update.kind == "snapshot"
        if known is not None and whole:
            self._lines[update.version] = replace(known, whole=True)
            return
        self._lines.pop(update.version, None)
        self._lines[update.version] = VersionLine(
            version=update.version,
            whole=whole,
            created_ms=update.created_ms,
            trigger=update.trigger,
            learned_events=update.learned_events,
            payload_bytes=update.payload_bytes,
            holdout_loss=update.holdout_loss,
            live_holdout_loss=update.live_holdout_loss,
            metrics=update.metrics,
            sha256=update.weights_sha256[:12],
        )
        self.newest_ms = update.created_ms
        while len(self._lines) > MOST_VERSIONS:
            del self._lines[next(iter(self._lines))]

    def newest_loss(self) -> float | None:
        """Return the loss of the newest version on held-back events."""
        return next((line.holdout_loss for line in reversed(self._lines.values()) if line.holdout_loss is not None), None)

    def shown(self) -> list[VersionLine]:
        """Return the lines, the newest first."""
        return list(reversed(self._lines.values()))


class Decisions:
    """The newest releases that count, and what the recommenders report of the lanes."""

    def __init__(self) -> None:
        self._state = ReleaseState()
        self._newest: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self._outcomes: deque[ReleaseOutcomes] = deque(maxlen=6000)

    def take(self, release: ModelRelease) -> None:
        """Take in a decision; one whose turn was another's is void and passed over."""
        if self._state.objection(release) is not None:
            return
        self._state = self._state.after(release)
        self._newest.append(
            Decision(
                sequence=release.sequence,
                action=release.action,
                stable_version=release.stable_version,
                withdrawn_to=release.withdrawn_to,
                trial_share=release.trial_share,
                pinned=release.pinned,
                reason=release.reason,
                decided_by=release.decided_by,
                decided_ms=release.decided_ms,
            )
        )

    def report(self, outcomes: ReleaseOutcomes) -> None:
        """Take in what a recommender has seen."""
        self._outcomes.append(outcomes)

    def newest(self) -> Decision | None:
        """Return the decision that counts."""
        return self._newest[-1] if self._newest else None

    def shown(self, now_ms: int) -> Releases:
        """Return the decisions, newest first, and the lanes' outcomes of the last ten minutes."""
        while self._outcomes and self._outcomes[0].ended_ms < now_ms - OUTCOMES_MS:
            self._outcomes.popleft()
        sums: dict[tuple[str, int], list[int]] = {}
        for report in self._outcomes:
            for seen in report.versions:
                total = sums.setdefault((seen.lane, seen.version), [0, 0, 0])
                total[0] += seen.answered
                total[1] += seen.hits
                total[2] += seen.clicks
        lanes = sorted(sums.items(), key=lambda lane: lane[0][1], reverse=True)[:MOST_LANE_LINES]
        return Releases(
            reported=bool(self._newest),
            stable_version=self._state.stable_version,
            trial_share=self._state.trial_share,
            withdrawn=[[kept, last] for kept, last in self._state.withdrawn],
            decisions=list(reversed(self._newest)),
            outcomes=[
                LaneOutcome(lane=lane, version=version, answered=answered, hits=hits, clicks=clicks)
                for (lane, version), (answered, hits, clicks) in lanes
            ],
        )

    def marks(self) -> list[Mark]:
        """Return when stable versions changed hands; promotions are many, so only what a person should see is marked."""
        return [
            Mark(time_ms=one.decided_ms, kind=one.action, label=f"{one.action} {one.stable_version}", id=f"release-{one.sequence}")
            for one in self._newest
            if one.action in ("rollback", "pin", "unpin")
        ]
