"""The feature worker: from `clicks` and `purchases` to rows in the online store and on their changelogs. The hot path.

For each batch of records, in this order: fold into rows, write the rows to Redis, send changelog rows and item changes, and
only once those are acknowledged commit the offsets. Whatever point a crash comes at, the batch is read again, and the offset
in each row tells which events it holds already. Since the crash may have come between the write and the sending, the rows and
item changes of skipped events are sent again as well; who reads them knows them by the same offsets.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from msgspec import Struct
from msgspec.structs import replace

from headrace.features.item_row import changes_of, fold_item
from headrace.features.online_store import ITEM_VIEW, USER_VIEW, OnlineStore
from headrace.features.user_row import Place, fold_user
from headrace.schemas import (
    Cause,
    Click,
    Event,
    InvalidMessage,
    ItemChange,
    ItemRow,
    Purchase,
    UserRow,
    check_event,
    decode,
    encode,
    shopper_id,
)
from headrace.schemas.topics import CLICKS, ITEM_CHANGES, ITEM_FEATURES, PURCHASES, USER_FEATURES, Topic
from headrace.schemas.wire import now_ms
from headrace.streams import kafka, metrics
from headrace.streams.dead_letters import DeadLetters

log = logging.getLogger(__name__)

COMPONENT = "feature-worker"
LARGEST_BATCH = 500
PATIENCE_MS = 5
ITEM_LINGER_MS = 50
COMMIT_EVERY_S = 0.5
ROWS_KEPT = 200_000

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class FeatureWorker:
    """Consumes as a member of the group `feature-worker`; any number of workers share the partitions."""

    def __init__(self, bootstrap: str, store: OnlineStore, instance: str = "", clock: Callable[[], int] = now_ms) -> None:
        self._consumer = kafka.consumer(bootstrap, COMPONENT, group=COMPONENT, instance=instance, patience_ms=PATIENCE_MS)
        self._producer = kafka.producer(bootstrap, COMPONENT)
        # Nobody waits for item rows, so these gather for longer, into fewer requests.
        self._item_producer = kafka.producer(bootstrap, f"{COMPONENT}-items", **{"linger.ms": ITEM_LINGER_MS})
        self._dead_letters = DeadLetters(self._producer, COMPONENT)
        self._store = store
        self._clock = clock
        self._users: RowCache[UserRow] = RowCache(store.read_users, lambda key: UserRow(shopper_id=key))
        self._items: RowCache[ItemRow] = RowCache(store.read_items, lambda key: ItemRow(item_id=key))
        self._done: dict[tuple[str, int], int] = {}
        self._committed_at = time.monotonic()
        topics = [topic.name for topic in (CLICKS, PURCHASES, ITEM_CHANGES)]
        self._consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        """Work until `stop` is set; then commit and leave the group. `ready` is set once partitions are assigned."""
        try:
            while not stop.is_set():
                self.step(timeout_s=0.1)
                if self._consumer.assignment():
                    ready.set()
            self.commit()
        finally:
            self._consumer.close()

    def step(self, timeout_s: float) -> int:
        """Take in what has arrived, waiting up to `timeout_s` for the first record; return the number of records."""
        records = kafka.next_batch(self._consumer, LARGEST_BATCH, timeout_s)
        if records:
            self._take_in(records)
        self._producer.poll(0)
        self._item_producer.poll(0)
        if time.monotonic() - self._committed_at > COMMIT_EVERY_S:
            self.commit()
        return len(records)

    def commit(self) -> None:
        """Wait until all that was sent is acknowledged, then commit. Raises KafkaException where the broker does not answer."""
        self._committed_at = time.monotonic()
        if not self._done:
            return
        if self._producer.flush(30.0) or self._item_producer.flush(30.0):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "rows are not acknowledged after 30 s; their offsets stay uncommitted"))
        self._dead_letters.confirm()
        self._consumer.commit(offsets=[TopicPartition(*place, offset + 1) for place, offset in self._done.items()], asynchronous=False)
        self._done.clear()

    def _take_in(self, records: Sequence[Message]) -> None:
        events: list[tuple[Message, Place, Event]] = []
        changes: list[ItemChange] = []
        for record in records:
            try:
                if record.topic() == ITEM_CHANGES.name:
                    changes.append(decode(ItemChange, record.value(), record.headers()))
                else:
                    events.append((record, _place(record), self._event(record)))
            except InvalidMessage as error:
                self._dead_letters.refuse(record, error)
                metrics.REFUSED.labels(COMPONENT).inc()
        users = self._fold_events(events)
        items = self._fold_changes(changes)
        self._store.write(users, items)
        self._observe(events, len(users), len(items))
        self._send(events, users, items)
        for record in records:
            self._done[_partition(record)] = _offset(record)

    def _event(self, record: Message) -> Event:
        kind: type[Click] | type[Purchase] = Click if record.topic() == CLICKS.name else Purchase
        event: Event = decode(kind, record.value(), record.headers())
        check_event(event, self._clock())
        return event

    def _fold_events(self, events: Sequence[tuple[Message, Place, Event]]) -> list[UserRow]:
        self._users.load({shopper_id(event) for _, _, event in events})
        touched = {}
        for record, place, event in events:
            key = shopper_id(event)
            before = self._users[key]
            after = fold_user(before, event, place)
            counter = metrics.REPEATED if after is before else metrics.EVENTS
            counter.labels(record.topic()).inc()
            if after.cause is None:
                # A row that was read back: the online store does not keep what caused it.
                after = replace(after, cause=Cause(event_id=event.event_id, published_ms=place.published_ms))
            self._users[key] = touched[key] = after
        return list(touched.values())

    def _fold_changes(self, changes: Sequence[ItemChange]) -> list[ItemRow]:
        self._items.load({change.item_id for change in changes})
        touched = {}
        for change in changes:
            touched[change.item_id] = self._items[change.item_id] = fold_item(self._items[change.item_id], change)
        return list(touched.values())

    def _observe(self, events: Sequence[tuple[Message, Place, Event]], users: int, items: int) -> None:
        now = self._clock()
        for _, place, _ in events:
            metrics.FEATURE_FRESHNESS.observe(max(0, now - place.published_ms) / 1000)
        metrics.ROWS_WRITTEN.labels(USER_VIEW).inc(users)
        metrics.ROWS_WRITTEN.labels(ITEM_VIEW).inc(items)

    def _send(self, events: Sequence[tuple[Message, Place, Event]], users: Iterable[UserRow], items: Iterable[ItemRow]) -> None:
        traces = {shopper_id(event): record for record, _, event in events}
        for user in users:
            self._produce(self._producer, USER_FEATURES, user.shopper_id, user, traces[user.shopper_id])
        for record, place, event in events:
            for change in changes_of(event, place):
                self._produce(self._item_producer, ITEM_CHANGES, change.item_id, change, record)
        for item in items:
            self._produce(self._item_producer, ITEM_FEATURES, item.item_id, item, None)

    def _produce(self, producer: Producer, topic: Topic, key: str, message: Struct, cause: Message | None) -> None:
        attributes = [("traceparent", value) for name, value in _headers(cause) if name == "traceparent"]
        while True:
            try:
                producer.produce(topic.name, encode(message), key, headers=attributes, on_delivery=kafka.must_arrive)
                return
            except BufferError:
                producer.poll(0.05)

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        # Another worker may have written these rows since they were last ours.
        self._users.clear()
        self._items.clear()
        log.info("partitions assigned", extra={"partitions": [f"{place.topic}/{place.partition}" for place in places]})

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.commit()

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        # They belong to another worker by now, which reads on from what was committed.
        self._done.clear()
        log.warning("partitions lost", extra={"partitions": [f"{place.topic}/{place.partition}" for place in places]})


class RowCache(Generic[R]):
    """The newest rows by key, read from the online store when they are not at hand."""

    def __init__(self, read: Callable[[Sequence[str]], list[R | None]], empty: Callable[[str], R], limit: int = ROWS_KEPT) -> None:
        self._read = read
        self._empty = empty
        self._limit = limit
        self._rows: OrderedDict[str, R] = OrderedDict()

    def load(self, keys: Iterable[str]) -> None:
        """Make sure that the rows of these keys are at hand, reading the missing ones in one round trip."""
        while len(self._rows) > self._limit:
            self._rows.popitem(last=False)
        missing = [key for key in keys if key not in self._rows]
        for key, row in zip(missing, self._read(missing) if missing else [], strict=True):
            self._rows[key] = self._empty(key) if row is None else row

    def __getitem__(self, key: str) -> R:
        self._rows.move_to_end(key)
        return self._rows[key]

    def __setitem__(self, key: str, row: R) -> None:
        self._rows[key] = row

    def clear(self) -> None:
        """Forget all rows."""
        self._rows.clear()


def _place(record: Message) -> Place:
    topic, partition = _partition(record)
    return Place(f"{topic}/{partition}", _offset(record), max(0, record.timestamp()[1]))


def _partition(record: Message) -> tuple[str, int]:
    topic, partition = record.topic(), record.partition()
    if topic is None or partition is None:
        raise ValueError(f"a record without topic or partition: {record!r}")
    return topic, partition


def _offset(record: Message) -> int:
    offset = record.offset()
    if offset is None:
        raise ValueError(f"a record without offset: {record!r}")
    return offset


def _headers(record: Message | None) -> Iterable[tuple[str, str | bytes | None]]:
    found = record.headers() if record is not None else None
    return (found.items() if isinstance(found, dict) else found) or ()
