"""Bringing rows back from their changelogs into an online store that has lost them.

The changelog's newest row of a shopper may be older than what its worker had stored: another worker that was paused may have
sent an older row after it. So after a restore the events of the last day are read again, and more where less was committed;
rows pass over what they hold. That also brings back the rows of visits, which have no changelog.

Each row says by a header which feature definitions made it. Rows of other definitions are passed over; where an entity has no
others, all retained events are read again in place of the last day's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from headrace.features.feast_layout import R, RowTable
from headrace.features.online_store import OnlineStore, RowWrite
from headrace.schemas import InvalidMessage, ItemRow, UserRow, decode, encode
from headrace.schemas.feature_rows import Row
from headrace.schemas.topics import DAY_MS, ITEM_FEATURES, USER_FEATURES, Topic
from headrace.schemas.wire import header
from headrace.streams import kafka

DEFINITIONS_HEADER = "headrace-definitions"
READ_AGAIN_MS = DAY_MS
ROWS_AT_ONCE = 2000


class ForeignStore(RuntimeError):
    """The online store holds rows of another Kafka, or of one that was emptied."""

    def __init__(self, source: str, position: int, high: int) -> None:
        super().__init__(
            f"the online store has taken in {source} up to offset {position}, but Kafka ends at {high}: it belongs to another Kafka, "
            "or that one was emptied; empty the Redis database too, or give Headrace one of its own (HEADRACE_REDIS)"
        )


@dataclass(frozen=True)
class Restored:
    """How many rows were found, and how many entities have none but such as other feature definitions made."""

    rows: int
    passed_over: int


def restore(
    bootstrap: str,
    store: OnlineStore,
    partition: int,
    *,
    definitions: str | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Restored:
    """Write the newest rows of one partition of both changelogs to the store, where it has none that are newer.

    Only rows made by `definitions` are taken, or such as do not say; all, where it is None. `progress` is told of each portion.
    Raises KafkaException, RedisError, StoreBehind.
    """
    consumer = kafka.consumer(bootstrap, "feature-restore")
    try:
        users = _restore(consumer, store, store.users, USER_FEATURES, UserRow, partition, definitions, progress)
        items = _restore(consumer, store, store.items, ITEM_FEATURES, ItemRow, partition, definitions, progress)
    finally:
        consumer.close()
    return Restored(users.rows + items.rows, users.passed_over + items.passed_over)


def tail_start(consumer: Consumer, place: TopicPartition, now_ms: int, everything: bool = False) -> int:
    """Return the offset from which events are read again after a restore: a day back, or what is committed where that is earlier.

    With `everything` that is the first that Kafka still has.
    """
    low, high = kafka.watermarks(consumer, place.topic, place.partition)
    if everything:
        return low
    [found] = consumer.offsets_for_times([TopicPartition(place.topic, place.partition, max(0, now_ms - READ_AGAIN_MS))], timeout=30.0)
    [committed] = consumer.committed([TopicPartition(place.topic, place.partition)], timeout=30.0)
    day_back = found.offset if found.offset >= 0 else high
    return max(low, min(day_back, committed.offset if committed.offset >= 0 else low))


def _restore(
    consumer: Consumer,
    store: OnlineStore,
    table: RowTable[R],
    topic: Topic,
    kind: type[R],
    partition: int,
    definitions: str | None,
    progress: Callable[[int], object],
) -> Restored:
    newest: dict[str, R] = {}
    foreign: set[str] = set()
    for record in _records(consumer, topic, partition):
        if record.value() is None:
            newest.pop(_key(record), None)
            foreign.discard(_key(record))
            continue
        made_by = header(record.headers(), DEFINITIONS_HEADER)
        if definitions is not None and made_by not in (None, definitions):
            foreign.add(_key(record))
            continue
        try:
            row = decode(kind, record.value(), record.headers())
        except InvalidMessage:
            continue
        key = table.key_of(row)
        held = newest.get(key)
        if held is None or reach(row) >= reach(held):
            newest[key] = row
    rows = list(newest.values())
    for begun in range(0, len(rows), ROWS_AT_ONCE):
        portion = rows[begun : begun + ROWS_AT_ONCE]
        _write_newer(store, table, portion)
        progress(len(portion))
    return Restored(len(rows), len(foreign - newest.keys()))


def reach(row: Row) -> int:
    """Return how far a row has come: of two rows of the same entity, the one that holds more events of a source has more of it."""
    # The first offset is 0, and must count for something.
    return sum(offset + 1 for offset in row.offsets.values())


def _write_newer(store: OnlineStore, table: RowTable[Any], rows: Sequence[Any]) -> None:
    missing = table.kind(**{table.kind.__struct_fields__[0]: "-"})
    waiting = [RowWrite(table, missing, row, encode(row)) for row in rows]
    while waiting:
        done = store.compare_and_set(waiting, {})
        refused = [write for write, was_done in zip(waiting, done, strict=True) if not was_done]
        held = store.read_checked([(table, table.key_of(write.after)) for write in refused], {})
        waiting = [
            RowWrite(table, missing if row is None else row, write.after, write.body)
            for write, row in zip(refused, held, strict=True)
            if row is None or reach(write.after) > reach(row)
        ]


def _records(consumer: Consumer, topic: Topic, partition: int) -> Iterator[Message]:
    """Yield the records of one partition of a changelog, up to what is there now."""
    low, high = kafka.watermarks(consumer, topic.name, partition)
    consumer.assign([TopicPartition(topic.name, partition, low)])
    position = low
    while position < high:
        for record in kafka.next_batch(consumer, 5000, 1.0):
            position = max(position, (record.offset() or 0) + 1)
            yield record
        [at] = consumer.position([TopicPartition(topic.name, partition)])
        # The last offsets may hold no record: those of transactions, or what compaction has removed.
        position = max(position, at.offset)


def _key(record: Message) -> str:
    key = record.key()
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)
