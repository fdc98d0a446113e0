"""The feature worker: from `clicks` and `purchases` to rows in the online store and on their changelogs. The hot path.

For each batch of records, in this order: fold into rows, write the rows to Redis, send changelog rows and item changes, and
only once those are acknowledged commit the offsets. Whatever point a crash comes at, the batch is read again, and the offset
in each row tells which events it holds already. Since the crash may have come between the write and the sending, the rows and
item changes of such events are sent again as well; who reads them knows them by the same offsets.

Redis itself may lose what was written last, or all. Its positions tell (`features/online_store.py`), and the worker then reads
again from where they stand, or where they are gone restores the rows of its partitions first (`restore.py`). While Redis
refuses or is away, the worker waits: what is published is safe in Kafka.

Shoppers' events go first. Item changes, which follow from them and which nobody waits for, are worked off a few at a time while
no event is there, or many at once where many have gathered: then most of them touch the same rows.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from headrace.features.fingerprint import fingerprint
from headrace.features.folding import Arrival, RowFolder, Taken
from headrace.features.online_store import OnlineStore, StoreBehind
from headrace.features.place import REMEMBERED
from headrace.schemas import Event, InvalidMessage, ItemChange, check_event, decode, encode, shopper_id
from headrace.schemas.topics import CLICKS, ITEM_CHANGES, ITEM_FEATURES, PURCHASES, USER_FEATURES, Topic
from headrace.schemas.wire import Headers, header, now_ms
from headrace.streams import kafka, metrics, tracing
from headrace.streams.acknowledged_commits import AcknowledgedCommits
from headrace.streams.dead_letters import DeadLetters
from headrace.streams.lag import lag_by_topic
from headrace.streams.record_places import event_of, place_of, source_of
from headrace.streams.restore import DEFINITIONS_HEADER
from headrace.streams.starting_places import StartingPlaces

log = logging.getLogger(__name__)

COMPONENT = "feature-worker"
LARGEST_BATCH = 2000
# An event waits for so many item changes at most, unless more are waiting than can be worked off a few at a time.
CHANGES_A_STEP, MOST_CHANGES_WAITING = 16, 4000
USER_LINGER_MS, ITEM_LINGER_MS = 20, 50
COMMIT_EVERY_S = 0.5
CHECK_EVERY_S = 1.0
SAMPLED = 200
STORE_WAIT_S = 0.5
SOURCES = (CLICKS, PURCHASES, ITEM_CHANGES)


class DefinitionsChanged(RuntimeError):
    """The rows in the store were made by other feature definitions than those of this version."""

    def __init__(self, ours: str, theirs: str) -> None:
        super().__init__(
            f"the rows in the online store were made by feature definitions {theirs}, this version makes {ours}; "
            "make them anew beside the old ones with: headrace replay --into 1, and then: headrace features switch 1"
        )


class FeatureWorker:
    """Consumes as a member of the group `feature-worker`; any number of workers share the partitions."""

    def __init__(
        self,
        bootstrap: str,
        store: OnlineStore,
        instance: str = "",
        clock: Callable[[], int] = now_ms,
        definitions: str | None = None,
        *,
        from_events: bool = False,
    ) -> None:
        """With `from_events` all retained events are read again after a restore, not those of the last day alone."""
        # Each partition gets requests of its own: rows that gather for longer, in fewer requests, leave the broker more time for events.
        self._producer = kafka.producer(bootstrap, COMPONENT, **{"linger.ms": USER_LINGER_MS})
        # Nobody waits for item rows, so these gather for longer yet. A change never times out by itself, since
        # a later one that came through would tell the item's row that it has taken in all before it.
        self._item_producer = kafka.producer(bootstrap, f"{COMPONENT}-items", **{"linger.ms": ITEM_LINGER_MS, "delivery.timeout.ms": 0})
        self._dead_letters = DeadLetters(self._producer, COMPONENT)
        # What is read again after a crash is always among the events by which a row knows what it counted.
        self._commits = AcknowledgedCommits(REMEMBERED, self._dead_letters.confirm)
        # News is fetched at once. A fetch that finds none is soon over, since newly assigned partitions wait behind it.
        settings: dict[str, Any] = {"on_commit": self._commits.committed, "fetch.wait.max.ms": 100}
        self._consumer = kafka.consumer(bootstrap, COMPONENT, group=COMPONENT, instance=instance, **settings)
        self._store = store
        self._clock = clock
        self._definitions = definitions or fingerprint()
        self._starting = StartingPlaces(bootstrap, COMPONENT, store, self._definitions, clock, from_events=from_events)
        self._folder = RowFolder(store)
        self._committed_at = self._checked_at = time.monotonic()
        self._owned: list[TopicPartition] = []
        self._changes_waiting: deque[Message] = deque()
        self._placed = False
        self._behind: set[str] = set()
        self._store_is_down = False
        self._claim()
        self._consumer.subscribe([topic.name for topic in SOURCES], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        """Work until `stop` is set; then commit and leave the group. `ready` is set once partitions are assigned."""
        try:
            while not stop.is_set():
                self.step(timeout_s=0.1)
                if self._store_is_down:
                    ready.clear()
                    stop.wait(STORE_WAIT_S)
                elif self._placed:
                    ready.set()
            self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the group without a commit."""
        self._consumer.close()

    def step(self, timeout_s: float) -> int:
        """Take in what has arrived, waiting up to `timeout_s` for the first record; return how many records were taken in.

        A store that refuses or does not answer, or has lost rows, is tried again at the next step, from what is committed on.
        Raises KafkaException, DefinitionsChanged, ForeignStore: whoever runs the worker starts another.
        """
        try:
            if self._owned and not self._placed:
                self._find_places()
            records = kafka.next_batch(self._consumer, LARGEST_BATCH, 0.0 if self._changes_waiting else timeout_s)
            if not self._placed:
                # Partitions were assigned just now, and where to begin is not known yet.
                return 0
            taken_in = self._take_in_all(records)
            self._producer.poll(0)
            self._item_producer.poll(0)
            now_s = time.monotonic()
            if now_s - self._committed_at > COMMIT_EVERY_S:
                self._committed_at = now_s
                self._close_stretch()
            self._commits.commit_ready(self._consumer)
            if now_s - self._checked_at > CHECK_EVERY_S:
                self._check()
        except StoreBehind as error:
            log.warning("the store is behind", extra={"reason": str(error)})
            metrics.STORE_BEHIND.inc()
            self._behind = set(error.sources)
            self._begin_anew()
            return 0
        except redis.RedisError as error:
            self._told_of_store(error)
            self._begin_anew()
            return 0
        self._told_of_store(None)
        return taken_in

    def commit(self) -> None:
        """Wait until all that was sent is acknowledged, then commit. Raises KafkaException where the broker does not answer."""
        if self._producer.flush(30.0) or self._item_producer.flush(30.0):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "rows are not acknowledged after 30 s; their offsets stay uncommitted"))
        if not self._commits.commit_all(self._consumer):
            # The next poll tells what is ours.
            self._forget()

    def _close_stretch(self) -> None:
        if not self._commits.close_stretch():
            self.commit()

    def _take_in_all(self, records: Sequence[Message]) -> int:
        """Take in the events among the records, and as many of the item changes that wait as it is time for; return how many."""
        events: list[Message] = []
        waiting = self._changes_waiting
        for record in records:
            (waiting if record.topic() == ITEM_CHANGES.name else events).append(record)
        for part in self._portions(events):
            self._take_in(part)
        if due := changes_due(len(waiting), bool(events)):
            self._take_in([waiting.popleft() for _ in range(due)])
        return len(events) + due

    def _portions(self, events: Sequence[Message]) -> Iterable[Sequence[Message]]:
        """Yield records of events in portions, with a new stretch between them where one has enough of one shopper."""
        begun = 0
        for number, record in enumerate(events):
            if self._commits.is_full_after((record.topic() or "", record.key() or b"")):
                yield events[begun : number + 1]
                begun = number + 1
                self._close_stretch()
        if begun < len(events):
            yield events[begun:]

    def _take_in(self, records: Sequence[Message]) -> None:
        arrivals: list[Arrival] = []
        causes: dict[str, Message] = {}
        followed: list[tuple[str, Message]] = []
        changes: list[ItemChange] = []
        reached: dict[str, int] = {}
        for record in records:
            place = place_of(record)
            reached[place.source] = place.offset
            try:
                if record.topic() == ITEM_CHANGES.name:
                    changes.append(decode(ItemChange, record.value(), record.headers()))
                else:
                    event = self._event(record)
                    arrivals.append((event, place))
                    causes[shopper := shopper_id(event)] = record
                    if tracing.is_on() and tracing.is_followed(header(record.headers(), "traceparent")):
                        followed.append((shopper, record))
            except InvalidMessage as error:
                self._dead_letters.refuse(record, error)
                metrics.REFUSED.labels(COMPONENT).inc()
        started_s, started_ns = time.perf_counter(), time.time_ns()
        taken = self._folder.take_in(arrivals, changes, reached)
        metrics.FEATURE_WRITE.observe(time.perf_counter() - started_s)
        self._observe(arrivals, taken)
        self._send(taken, causes, _folded_spans(followed, started_ns, len(records)))
        self._commits.done(reached)

    def _event(self, record: Message) -> Event:
        event = event_of(record)
        check_event(event, self._clock())
        return event

    def _observe(self, arrivals: Sequence[Arrival], taken: Taken) -> None:
        now = self._clock()
        # Of a large batch a sample tells the same, at a fraction of the cost.
        for _, place in arrivals[:: len(arrivals) // SAMPLED + 1]:
            metrics.FEATURE_FRESHNESS.observe(max(0, now - place.published_ms) / 1000)
        metrics.EVENTS.inc(taken.counted)
        metrics.REPLAYED.inc(taken.replayed)
        metrics.REPEATED.inc(taken.repeated)
        metrics.LATE.inc(taken.late)
        metrics.WRITES_REFUSED.inc(taken.refused_writes)
        for view, rows in taken.rows_written.items():
            metrics.ROWS_WRITTEN.labels(view).inc(rows)

    def _send(self, taken: Taken, causes: dict[str, Message], spans: dict[str, str]) -> None:
        """Send rows and changes, each with the trace of the event that caused it: a followed one where there is one."""

        traces = {shopper: spans.get(shopper) or header(cause.headers(), "traceparent") for shopper, cause in causes.items()}
        for key, (_, body) in taken.users.items():
            self._produce(self._producer, USER_FEATURES, key, body, traces.get(key))
        for event, change in taken.changes:
            self._produce(self._item_producer, ITEM_CHANGES, change.item_id, encode(change), traces.get(shopper_id(event)))
        for key, (_, body) in taken.items.items():
            self._produce(self._item_producer, ITEM_FEATURES, key, body, None)

    def _produce(self, producer: Producer, topic: Topic, key: str, body: bytes, trace: str | None) -> None:
        attributes: Headers = [] if trace is None else [("traceparent", trace)]
        if topic is not ITEM_CHANGES:
            attributes.append((DEFINITIONS_HEADER, self._definitions))
        stretch = self._commits.current
        while True:
            try:
                producer.produce(topic.name, body, key, headers=attributes, on_delivery=stretch.answered)
                stretch.waiting += 1
                return
            except BufferError:
                producer.poll(0.05)

    def _claim(self) -> None:
        held = self._store.claim_definitions(self._definitions)
        if held != self._definitions:
            raise DefinitionsChanged(self._definitions, held)

    def _check(self) -> None:
        """Look whether the store still holds what was written to it, though nothing may be there to be written."""
        self._checked_at = time.monotonic()
        self._tell_lag()
        self._claim()
        self._store.read_checked([], self._folder.expected)

    def _tell_lag(self) -> None:
        """Set the metric of lag from what the client knows already; the broker is not asked."""
        for topic, records in lag_by_topic(self._consumer, (topic.name for topic in SOURCES)).items():
            metrics.FEATURE_LAG.labels(topic).set(records)

    def _find_places(self) -> None:
        """Begin at what is committed, or before it where the store has not come so far; restore what it has lost altogether."""
        self._store.take_up()
        self._claim()
        places, positions = self._starting.find(self._owned, self._behind)
        # Another worker may have written the rows since they were last ours.
        self._folder.start_from(positions)
        self._consumer.assign(places)
        self._behind = set()
        self._placed = True

    def _begin_anew(self) -> None:
        """Take back what is not committed, and find out again where to begin."""
        self._placed = False
        self._changes_waiting.clear()
        self._commits.forget()

    def _told_of_store(self, error: redis.RedisError | None) -> None:
        """Say once that the store is down, and once that it is there again."""
        if (error is not None) != self._store_is_down:
            if error is not None:
                log.error("the store refuses or does not answer; what is published waits in Kafka", extra={"reason": str(error)})
            else:
                log.warning("the store is there again")
        self._store_is_down = error is not None
        metrics.STORE_DOWN.set(self._store_is_down)

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._owned = places
        self._begin_anew()
        log.info("partitions assigned", extra={"partitions": sorted(map(source_of, places))})

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.commit()
        self._forget()

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        # They belong to another worker by now, which reads on from what was committed.
        self._forget()
        log.warning("partitions lost", extra={"partitions": sorted(map(source_of, places))})

    def _forget(self) -> None:
        self._owned, self._behind = [], set()
        self._begin_anew()
        self._folder.start_from({})


def changes_due(waiting: int, events_came: bool) -> int:
    """Return how many of the waiting item changes to work off now: none beside events, unless too many have gathered."""
    if waiting >= MOST_CHANGES_WAITING:
        return waiting
    return 0 if events_came else min(waiting, max(CHANGES_A_STEP, waiting // 8))


def _folded_spans(followed: Iterable[tuple[str, Message]], started_ns: int, records: int) -> dict[str, str]:
    """Note a span for each followed event that was just folded and stored; return its `traceparent` by shopper, the newest's."""
    spans: dict[str, str] = {}
    for shopper, record in followed:
        attributes = {"messaging.system": "kafka", "messaging.destination.name": record.topic() or "", "headrace.batch_records": records}
        done = tracing.note(
            "fold and store", header(record.headers(), "traceparent"), started_ns, time.time_ns(), kind="consumer", attributes=attributes
        )
        if done is not None:
            spans[shopper] = done
    return spans
