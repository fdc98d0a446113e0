"""The alert bridge: from `drift-alerts` to an Alertmanager, to a chat, or to both.

An alert is committed once every target has taken it, so after a crash it comes again; a small file remembers what each target
has taken, so that it is not told twice. What a target does not take is tried again, after longer and longer pauses, while those
behind it wait in Kafka.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition
from msgspec import Struct

from headrace.schemas import DriftAlert, InvalidMessage, decode
from headrace.schemas.topics import DRIFT_ALERTS
from headrace.schemas.wire import now_ms
from headrace.streams import kafka, metrics
from headrace.streams.alert_messages import episode_of
from headrace.streams.alert_targets import NotDelivered, RefusedByTarget, Target
from headrace.streams.dead_letters import DeadLetters

log = logging.getLogger(__name__)

COMPONENT = "alert-bridge"
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
RENEW_EVERY_S = 60.0
# Whoever starts a bridge does not want to hear of last month.
MOST_LATE_MS = 6 * 3_600_000
# An episode of which nobody has said anything for so long will not be resolved by anyone.
FORGOTTEN_AFTER_MS = 24 * 3_600_000
REMEMBERED = 1000


class NoTarget(ValueError):
    """A bridge leads nowhere."""


class Episode(Struct):
    """An open episode: its first and its newest alert."""

    first: DriftAlert
    newest: DriftAlert


class Delivered(Struct):
    """What outlives a restart: `target alert_id` of the newest deliveries, and the open episodes."""

    taken: list[str] = []
    open: dict[str, Episode] = {}


class AlertBridge:
    """Consumes as a member of the group `alert-bridge`; of several bridges one works, since the topic has one partition."""

    def __init__(
        self,
        bootstrap: str,
        targets: Sequence[Target],
        folder: Path,
        instance: str = "",
        clock: Callable[[], int] = now_ms,
        *,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        """Raises NoTarget; OSError where `folder` cannot be written."""
        if not targets:
            raise NoTarget("no target for alerts is set; set HEADRACE_ALERTMANAGER_URL, HEADRACE_SLACK_WEBHOOK_FILE or both")
        self._targets = targets
        self._clock = clock
        self._first_wait_s = self._wait_s = first_wait_s
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "delivered.json"
        self._counted: set[tuple[str, str]] = set()
        self._kept = _read(self._file)
        for target in targets:
            # From the first scrape on, so that the first failure is seen to rise from 0.
            metrics.ALERTS_DELIVERED.labels(target.name)
            metrics.ALERTS_FAILED.labels(target.name)
        self._work: tuple[Message, DriftAlert] | None = None
        self._due_s = 0.0
        self._renewed_s = time.monotonic()
        self._owns = False
        self._dead_letters = DeadLetters(kafka.producer(bootstrap, COMPONENT), COMPONENT)
        self._consumer = kafka.consumer(bootstrap, COMPONENT, group=COMPONENT, instance=instance)
        self._consumer.subscribe([DRIFT_ALERTS.name], on_assign=self._assigned, on_revoke=self._gone, on_lost=self._gone)
        self._count_open()

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        """Work until `stop` is set. `ready` is set once the topic's partition is ours and no delivery has failed since."""
        try:
            while not stop.is_set():
                self.step(timeout_s=0.2)
                if self._owns and self._wait_s == self._first_wait_s:
                    ready.set()
                elif self._wait_s > self._first_wait_s:
                    ready.clear()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the group; what is not delivered stays for the next bridge."""
        self._consumer.close()

    def step(self, timeout_s: float) -> None:
        """Deliver the alert in hand if it is due, else take up the next, waiting up to `timeout_s` for it. Raises KafkaException."""
        if self._work is None or time.monotonic() < self._due_s:
            # While an alert is in hand the partition is paused: this only keeps the membership.
            for record in kafka.next_batch(self._consumer, 1, timeout_s):
                self._take_up(record)
        if self._work is not None and time.monotonic() >= self._due_s:
            self._deliver(*self._work)
        if self._owns and time.monotonic() - self._renewed_s >= RENEW_EVERY_S:
            self.renew()

    def renew(self) -> None:
        """Tell the targets again which episodes are open; a failure is told and waits for the next time."""
        self._renewed_s = time.monotonic()
        too_old_ms = self._clock() - FORGOTTEN_AFTER_MS
        for name, episode in list(self._kept.open.items()):
            if episode.newest.created_ms < too_old_ms:
                log.warning("an episode was never resolved and is forgotten", extra={"episode_id": name})
                del self._kept.open[name]
        self._keep()
        episodes = [(episode.first, episode.newest) for episode in self._kept.open.values()]
        for target in self._targets if episodes else ():
            try:
                target.renew(episodes, self._clock())
            except (NotDelivered, RefusedByTarget) as error:
                metrics.ALERTS_FAILED.labels(target.name).inc()
                log.warning("open episodes were not renewed", extra={"target": target.name, "reason": str(error)})

    def _take_up(self, record: Message) -> None:
        try:
            alert = decode(DriftAlert, record.value(), record.headers())
        except InvalidMessage as error:
            self._refuse(record, error)
            self._commit(record)
            return
        if alert.created_ms < self._clock() - MOST_LATE_MS:
            self._remember(alert)
            self._commit(record)
            return
        self._work, self._due_s = (record, alert), 0.0
        self._consumer.pause(self._consumer.assignment())

    def _deliver(self, record: Message, alert: DriftAlert) -> None:
        episode = self._kept.open.get(episode_of(alert))
        before = episode.newest if episode and episode.newest.alert_id != alert.alert_id else None
        for target in self._targets:
            name = f"{target.name} {alert.alert_id}"
            if name in self._kept.taken:
                continue
            try:
                target.send(alert, episode.first if episode else alert, before, self._clock())
            except NotDelivered as error:
                metrics.ALERTS_FAILED.labels(target.name).inc()
                self._due_s = time.monotonic() + self._wait_s
                log.error(
                    "an alert was not delivered and is tried again", extra=self._told(alert, target, error) | {"wait_s": self._wait_s}
                )
                self._wait_s = min(LONGEST_WAIT_S, 2 * self._wait_s)
                return
            except RefusedByTarget as error:
                metrics.ALERTS_FAILED.labels(target.name).inc()
                self._refuse(record, InvalidMessage("$", alert.alert_id, f"{target.name} refuses it: {error}"))
            else:
                metrics.ALERTS_DELIVERED.labels(target.name).inc()
                log.info("alert delivered", extra=self._told(alert, target))
            self._kept.taken = [*self._kept.taken, name][-REMEMBERED:]
            self._keep()
        self._wait_s = self._first_wait_s
        self._remember(alert)
        self._work = None
        self._commit(record)
        self._consumer.resume(self._consumer.assignment())

    def _remember(self, alert: DriftAlert) -> None:
        """Note an episode as open, or as over. An alert without an episode stands alone: nobody will resolve it."""
        name = episode_of(alert)
        if alert.state == "resolved" or alert.episode_id is None:
            self._kept.open.pop(name, None)
        elif name in self._kept.open:
            self._kept.open[name].newest = alert
        else:
            self._kept.open[name] = Episode(alert, alert)
        self._keep()

    def _refuse(self, record: Message, error: InvalidMessage) -> None:
        self._dead_letters.refuse(record, error)
        self._dead_letters.confirm()
        metrics.REFUSED.labels(COMPONENT).inc()

    def _commit(self, record: Message) -> None:
        self._consumer.commit(message=record, asynchronous=False)

    def _keep(self) -> None:
        """Write the file aside and rename it, so that a crash leaves the old one or the new one."""
        aside = self._file.with_suffix(".new")
        aside.write_bytes(msgspec.json.encode(self._kept))
        aside.replace(self._file)
        self._count_open()

    def _count_open(self) -> None:
        open_now: Counter[tuple[str, str]] = Counter(
            (episode.newest.signal, episode.newest.severity) for episode in self._kept.open.values()
        )
        # What has ended stays at 0: a series that vanishes looks like a part that has died.
        self._counted |= open_now.keys()
        for labels in self._counted:
            metrics.DRIFT_OPEN.labels(*labels).set(open_now[labels])

    def _told(self, alert: DriftAlert, target: Target, error: Exception | None = None) -> dict[str, object]:
        ids: dict[str, object] = {"alert_id": alert.alert_id, "episode_id": episode_of(alert), "state": alert.state, "target": target.name}
        return ids | ({} if error is None else {"reason": str(error)})

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._owns = bool(places)
        log.info("partitions assigned", extra={"partitions": [place.partition for place in places]})

    def _gone(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        # Whoever has the partition now delivers what is not committed.
        self._owns, self._work = False, None


def _read(file: Path) -> Delivered:
    """Return what was kept. A file that cannot be read is worth a warning, not an alert that nobody gets."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Delivered) if file.exists() else Delivered()
    except msgspec.DecodeError as error:
        log.warning("what was delivered before is not known; some may be told again", extra={"file": str(file), "reason": str(error)})
        return Delivered()
