"""Alerts of drift, folded into episodes."""

from collections.abc import Sequence

from msgspec.structs import replace

from headrace.schemas import DriftAlert
from headrace.streams.dashboard.messages import Drift, Episode, Mark

MOST_EPISODES = 40
# An alert outside of any episode is never resolved; after this time it is history.
LONE_ALERT_MS = 3 * 60 * 1000
FORGOTTEN_MS = 24 * 3600 * 1000


class Episodes:
    """Takes alerts in the order of their topic, and keeps the newest episodes."""

    def __init__(self) -> None:
        self._newest: dict[str, Episode] = {}
        self._lone: set[str] = set()

    def take(self, alert: DriftAlert) -> None:
        """Take in one alert: it begins an episode, or tells how one goes on."""
        key = alert.episode_id or alert.alert_id
        before = self._newest.pop(key, None)
        if alert.episode_id is None:
            self._lone.add(key)
        self._newest[key] = Episode(
            episode_id=key,
            signal=alert.signal,
            signals=alert.signals or [alert.signal],
            state=alert.state,
            kind=alert.kind,
            severity=alert.severity,
            detector=alert.detector,
            segment=alert.segment,
            started_ms=before.started_ms if before else alert.created_ms,
            since_ms=alert.since_ms or (before.since_ms if before else None),
            told_ms=alert.created_ms,
            level_before=alert.level_before,
            level_after=alert.level_after,
            p_value=alert.p_value,
            model_version=before.model_version if before else alert.model_version,
            reaction=alert.reaction,
            causes=alert.causes or (before.causes if before else []),
            reactions=alert.reactions or (before.reactions if before else []),
            known_episode=alert.known_episode,
            picture=alert.picture,
        )
        while len(self._newest) > MOST_EPISODES:
            dropped = next(iter(self._newest))
            del self._newest[dropped]
            self._lone.discard(dropped)

    def going_on(self, now_ms: int) -> list[Episode]:
        """Return the episodes that have begun and not ended, the one that began last first."""
        return [episode for episode in self._by_start() if self._goes_on(episode, now_ms)]

    def drift(self, now_ms: int) -> Drift:
        """Return what is shown; an alert outside of any episode counts as resolved after three minutes."""
        shown = [episode if self._goes_on(episode, now_ms) else _ended(episode) for episode in self._by_start()]
        return Drift(going_on=sum(episode.state != "resolved" for episode in shown), episodes=shown)

    def marks(self) -> list[Mark]:
        """Return where each episode began."""
        return [
            Mark(time_ms=episode.started_ms, kind="drift", label=f"drift: {episode.signal}", id=episode.episode_id)
            for episode in self._newest.values()
        ]

    def _by_start(self) -> Sequence[Episode]:
        return sorted(self._newest.values(), key=lambda episode: -episode.started_ms)

    def _goes_on(self, episode: Episode, now_ms: int) -> bool:
        limit_ms = LONE_ALERT_MS if episode.episode_id in self._lone else FORGOTTEN_MS
        return episode.state != "resolved" and now_ms - episode.told_ms < limit_ms


def _ended(episode: Episode) -> Episode:
    return replace(episode, state="resolved")
