"""Watching for drift in the learner: signals go to the watchtower, changes of episodes to `drift-alerts`, reactions to `drift_actions`.

It runs in the training thread. What other threads see is queued, and taken in between two rounds.
"""

import logging
import math
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import convert, to_builtins
from msgspec.structs import replace

from headrace.online_model.fine_tuning import Round
from headrace.online_model.watching.configuration import Configuration, load_configuration
from headrace.online_model.watching.episodes import EpisodeChange, alert_of
from headrace.online_model.watching.reaction import Reactions
from headrace.online_model.watching.signals import Batch, Observation
from headrace.online_model.watching.watchtower import Watchtower
from headrace.schemas import DriftAlert, ReleaseOutcomes, encode
from headrace.schemas.drift_alerts import DriftReaction
from headrace.schemas.topics import DRIFT_ALERTS
from headrace.schemas.wire import headers
from headrace.streams import kafka, metrics
from headrace.streams.drift_actions import DriftActions
from headrace.streams.drift_memory import DriftMemory
from headrace.streams.drift_quality import Quality
from headrace.streams.drift_signals import RoundSignals
from headrace.streams.drift_states import DriftStates
from headrace.streams.shopper_histories import NewSteps

log = logging.getLogger(__name__)

MEASURE_EVERY_MS = 1000
TELL_STATES_EVERY_MS = 5000
SAVE_EVERY_MS = 30_000
MOST_QUEUED = 10_000
MOST_EPISODES_KEPT = 50
STALE_MS = 60_000


@dataclass(frozen=True)
class Watching:
    """How the learner watches: the watches, the file in which it remembers over restarts, and what it may do.

    `retrain` is the command that trains from the offline store; without it, and with `only_tell`, nothing is run.
    """

    configuration: Configuration = field(default_factory=load_configuration)
    memory: Path | None = None
    only_tell: bool = False
    retrain: str = ""

    @property
    def reacts(self) -> bool:
        """Whether anything is done about drift."""
        return not (self.only_tell or self.configuration.only_tell)


class DriftWatch:
    """Takes in signals, tells of episodes, and lets reactions begin and end. `tick` belongs into each turn of the learner's loop."""

    def __init__(
        self,
        bootstrap: str,
        component: str,
        watching: Watching,
        actions: DriftActions,
        model_version: Callable[[], int],
        clock: Callable[[], int],
        reactions: Reactions | None = None,
    ) -> None:
        self.tower = Watchtower(watching.configuration)
        self.quality = Quality()
        self._signals = RoundSignals(self.quality.take_hits)
        self._component = component
        self._actions = actions
        self._reactions = reactions or Reactions(only_tell=not watching.reacts)
        self._memory = DriftMemory(watching.memory, watching.configuration) if watching.memory is not None else None
        self._model_version = model_version
        self._clock = clock
        self._started_ms = clock()
        self._producer = kafka.producer(bootstrap, f"{component}-alerts")
        self._states = DriftStates(self._producer, component, watching.configuration)
        self._queue: queue.SimpleQueue[Batch | Observation] = queue.SimpleQueue()
        # The newest alert of each episode, and the reactions that a person has to carry out.
        self._newest: dict[str, DriftAlert] = {}
        self._proposed: set[tuple[str, str]] = set()
        self._last_ms = {"measure": 0, "states": 0, "save": self._started_ms}
        self._take_up()

    def heard(self, outcomes: ReleaseOutcomes) -> None:
        """Take in what a recommender reports, from any thread; what is from before the start says nothing of now."""
        if outcomes.ended_ms < self._started_ms - STALE_MS:
            return
        self.quality.heard(outcomes)
        for version in outcomes.versions:
            if version.answered:
                share = min(1.0, version.clicks / version.answered)
                segment = {"lane": version.lane, "version": str(version.version)}
                self.hand_over(Observation("online_clicks", share, outcomes.ended_ms, segment))

    def hand_over(self, seen: Batch | Observation) -> None:
        """Take in what another thread has seen; what comes while much waits already is dropped."""
        if self._queue.qsize() < MOST_QUEUED:
            self._queue.put(seen)

    def learned(self, newest: Sequence[NewSteps], learned: Round) -> None:
        """Take in a round's events."""
        self.quality.learned(learned.losses)
        batch = self._signals.batch(newest, learned)
        self._actions.learned(len(batch))
        self._changed(self.tower.observe(batch))
        self.tick()

    def tick(self) -> None:
        """Take in what other threads have seen, and do what is due."""
        for _ in range(self._queue.qsize()):
            seen = self._queue.get()
            self._changed(self.tower.observe(seen) if isinstance(seen, Batch) else self.tower.observe_one(seen))
        if self._is_due("measure", MEASURE_EVERY_MS):
            self._measure()
        if self._is_due("states", TELL_STATES_EVERY_MS):
            self._states.tell(self.tower.state(), self._model_version(), self._clock())
        if self._is_due("save", SAVE_EVERY_MS):
            self._save()

    def close(self) -> None:
        """Save, and let go of Kafka."""
        self._save()
        self._producer.flush(5.0)

    def _changed(self, changes: Sequence[EpisodeChange]) -> None:
        for change in changes:
            self._tell(change)
        if changes:
            # At once: whoever takes up here must not tell of it again.
            self._save()

    def _tell(self, change: EpisodeChange) -> None:
        now_ms = self._clock()
        before = self._newest.get(change.episode_id)
        words = before.reaction if before is not None else "only told"
        if change.state == "started":
            words = self._react(change, now_ms)
        alert = alert_of(
            change,
            model_version=self._model_version(),
            created_ms=now_ms,
            reaction=words[:1024],
            reactions=self._reactions_of(change.episode_id),
            picture=f"/#drift/{change.episode_id}",
        )
        finite = [0.0 if not math.isfinite(level) else level for level in (alert.level_before, alert.level_after)]
        self._publish(replace(alert, level_before=finite[0], level_after=finite[1]))

    def _react(self, change: EpisodeChange, now_ms: int) -> str:
        reaction = self._reactions.decide(change, self.quality.now(now_ms) or 0.0, now_ms)
        if reaction is None or reaction.name == "only_tell":
            return "only told"
        done = self._actions.begin(reaction, f"drift of {change.signal} ({change.episode_id})")
        if done.state == "proposed":
            self._proposed.add((change.episode_id, reaction.name))
        log.warning("reaction", extra={"reaction": reaction.name, "episode": change.episode_id, "state": done.state, "done": done.words})
        return done.words

    def _measure(self) -> None:
        """Let reactions be judged by the quality now, deepen where it collapses, and tell of those that are settled or go deeper."""
        now_ms = self._clock()
        quality = self.quality.now(now_ms)
        if quality is None:
            return
        settled = self._reactions.measure(quality, now_ms)
        for episode_id, reaction in settled:
            if reaction.state == "withdrawn":
                self._actions.end(reaction.name, episode_id)
            figures = {"before": reaction.quality_before, "at": reaction.quality_at, "after": reaction.quality_after}
            log.info("reaction settled", extra={"reaction": reaction.name, "episode": episode_id, "state": reaction.state, **figures})
        deeper = self._deepen(quality, now_ms)
        for episode_id in dict.fromkeys([*(episode for episode, _ in settled), *deeper]):
            newest = self._newest.get(episode_id)
            if newest is not None:
                state = "ongoing" if newest.state == "started" else newest.state
                name = f"{newest.alert_id}-measured-{now_ms}"[:128]
                words = "; ".join([newest.reaction, *deeper.get(episode_id, ())])[:1024]
                told = self._reactions_of(episode_id)
                self._publish(replace(newest, alert_id=name, state=state, reaction=words, reactions=told, created_ms=now_ms))
        if settled or deeper:
            self._save()

    def _deepen(self, quality: float, now_ms: int) -> dict[str, list[str]]:
        """Let reactions go further where the quality has collapsed; return what was done, in words, by episode."""
        done: dict[str, list[str]] = {}
        for reaction in self._reactions.deepen(quality, now_ms):
            deepened = self._actions.deepen(reaction)
            done.setdefault(reaction.episode_id, []).append(deepened.words)
            about = {"reaction": reaction.name, "episode": reaction.episode_id, "state": deepened.state, "done": deepened.words}
            log.warning("reaction deepened", extra=about)
        return done

    def _reactions_of(self, episode_id: str) -> list[DriftReaction]:
        return [
            replace(one, state="proposed") if (episode_id, one.name) in self._proposed else one for one in self._reactions.of(episode_id)
        ]

    def _publish(self, alert: DriftAlert) -> None:
        tags = headers(alert, event_id=alert.alert_id, time_ms=alert.created_ms, source=self._component)
        self._producer.produce(DRIFT_ALERTS.name, encode(alert), alert.signal, headers=tags, on_delivery=kafka.must_arrive)
        self._producer.flush(30.0)
        metrics.DRIFT_ALERTS.labels(alert.signal).inc()
        if alert.episode_id is not None:
            self._newest.pop(alert.episode_id, None)
            self._newest[alert.episode_id] = alert
            while len(self._newest) > MOST_EPISODES_KEPT:
                del self._newest[next(iter(self._newest))]
        log.warning(
            "drift",
            extra={
                "signal": alert.signal,
                "state": alert.state,
                "episode": alert.episode_id,
                "before": alert.level_before,
                "after": alert.level_after,
                "causes": [cause.signal for cause in alert.causes[:3]],
            },
        )

    def _is_due(self, what: str, every_ms: int) -> bool:
        now_ms = self._clock()
        # A clock that is set back must not silence anything.
        if abs(now_ms - self._last_ms[what]) < every_ms:
            return False
        self._last_ms[what] = now_ms
        return True

    def _save(self) -> None:
        if self._memory is None:
            return
        content = {
            "tower": self.tower.saved(),
            "reactions": self._reactions.saved(),
            "alerts": [to_builtins(alert) for alert in self._newest.values()],
            "proposed": sorted(self._proposed),
        }
        try:
            self._memory.save(content)
        except OSError as error:
            log.warning("what is watched could not be saved", extra={"reason": str(error)})

    def _take_up(self) -> None:
        saved: dict[str, Any] | None = self._memory.load() if self._memory is not None else None
        if saved is None:
            return
        self.tower.restore(saved["tower"])
        self._reactions.restore(saved["reactions"])
        for told in saved["alerts"]:
            alert = convert(told, DriftAlert)
            self._newest[alert.episode_id or alert.alert_id] = alert
        self._proposed = {(episode, name) for episode, name in saved["proposed"]}
        log.info("watching goes on", extra={"episodes": len(self._newest)})
