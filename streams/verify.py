"""Checking every row of the online store against the raw events, recomputed in batch by other code than that which made the rows.

Rows are compared at their own offsets, so that it does not matter that events flow meanwhile. What a row must have reached is
told by the store's positions, which are read before the rows; and for the rows of items, which are fed through the topic
`item-changes`, by that topic's position and by what the workers have committed: all changes of committed events were sent.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from msgspec import Struct

from headrace.features import oracle
from headrace.features.columns import SESSION_VIEW
from headrace.features.feast_layout import RowTable
from headrace.features.online_store import OnlineStore
from headrace.features.place import REMEMBERED, Place
from headrace.features.row_check import Difference, columns_of, feast_differences, row_differences
from headrace.schemas import Click, Event, InvalidMessage, ItemChange, Purchase, UserRow, check_event, decode
from headrace.schemas.dead_letters import DeadLetter
from headrace.schemas.feature_rows import Row
from headrace.schemas.topics import CLICKS, DEAD_LETTERS, ITEM_CHANGES, PURCHASES, Topic
from headrace.schemas.wire import MAX_FUTURE_MS, now_ms
from headrace.streams import kafka
from headrace.streams.feature_worker import COMPONENT

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Stage, how much of it is done, how much there is; 0 where that is not known.
Progress = Callable[[str, int, int], object]
RECORDS_AT_ONCE = 5000
ROWS_AT_ONCE = 500
SILENCE_S = 60.0
CATCH_UP_S = 3.0
# A row that another worker wrote at the same time is written again within moments after its position has moved.
SETTLE_S = 0.25
_STORE = "store"
_NOTHING = "nothing"


class VerifyReport(Struct):
    """What was compared and found. `unverifiable` counts rows that may hold events which Kafka no longer has, and differ."""

    users: int = 0
    items: int = 0
    sessions: int = 0
    differences: int = 0
    unverifiable: int = 0
    events: int = 0
    seconds: float = 0.0
    shown: list[Difference] = []


class KafkaSilent(TimeoutError):
    """Records that Kafka said it has did not come."""

    def __init__(self, places: Sequence[tuple[str, int]]) -> None:
        named = ", ".join(f"{topic}/{number}" for topic, number in places)
        super().__init__(f"nothing more came of {named} within {SILENCE_S:g} s; is the broker up? Verify again once it answers")


@dataclass
class _Check:
    """What all steps of one verification share. `low` and `high` hold by source the first offset in Kafka and the one after the last."""

    bootstrap: str
    store: OnlineStore
    db: "DuckDBPyConnection"
    progress: Progress
    limit: int
    report: VerifyReport = field(default_factory=VerifyReport)
    low: dict[str, int] = field(default_factory=dict)
    high: dict[str, int] = field(default_factory=dict)
    broken: set[tuple[str, str]] = field(default_factory=set)
    found: set[tuple[str, str]] = field(default_factory=set)

    def differ(self, difference: Difference) -> None:
        self.report.differences += 1
        if len(self.report.shown) < self.limit:
            self.report.shown.append(difference)


def verify(
    bootstrap: str,
    store: OnlineStore,
    *,
    limit: int = 20,
    group: str | None = COMPONENT,
    progress: Progress = lambda stage, done, total: None,
) -> VerifyReport:
    """Return how the store's rows compare with the raw events; at most `limit` differences are in `shown`.

    The store must have reached what the consumer group `group` has committed; None asks nothing of a store that no group feeds.
    Raises KafkaException, KafkaSilent, redis.RedisError.
    """
    started_s = time.monotonic()
    with _database() as db:
        check = _Check(bootstrap, store, db, progress, limit)
        committed = _committed(bootstrap, group)
        fed = _items_are_fed(check, committed)
        positions = store.positions([*_sources(bootstrap, (CLICKS, PURCHASES, ITEM_CHANGES))])
        _check_positions(check, positions, committed)
        time.sleep(SETTLE_S)
        _read_changes(check, positions)
        for table in (store.users, store.items, store.sessions):
            _read_rows(check, table)
        _read_events(check)
        progress("recomputing", 0, 1)
        oracle.settle(db)
        progress("recomputing", 1, 1)
        written = {source: at for source, at in positions.items() if at is not None}
        for table in (store.users, store.items, store.sessions):
            bounds = written
            if table is store.items:
                bounds = {source: offset - 1 for source, offset in committed.items()} if fed else {}
            _check_missing(check, table, bounds)
            _compare(check, table)
        check.report.seconds = time.monotonic() - started_s
        return check.report


@contextmanager
def _database() -> Iterator["DuckDBPyConnection"]:
    """A DuckDB database that may grow beyond memory, and is gone afterwards."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="headrace-verify-") as folder, duckdb.connect(str(Path(folder) / "rows.duckdb")) as db:
        db.execute("SET preserve_insertion_order = false")
        oracle.create_tables(db)
        db.execute('CREATE TABLE found ("view" VARCHAR, entity VARCHAR, fields BLOB)')
        yield db


def _sources(bootstrap: str, topics: Sequence[Topic]) -> Mapping[str, tuple[str, int]]:
    """Return all partitions of the topics by their name as a source."""
    client = kafka.consumer(bootstrap, "feature-verify")
    try:
        return {f"{topic.name}/{number}": (topic.name, number) for topic in topics for number in kafka.partitions(client, topic)}
    finally:
        client.close()


def _committed(bootstrap: str, group: str | None) -> dict[str, int]:
    """Return by source the first offset that the group has not committed."""
    if group is None:
        return {}
    sources = _sources(bootstrap, (CLICKS, PURCHASES))
    client = kafka.consumer(bootstrap, "feature-verify", group=group)
    try:
        held = client.committed([TopicPartition(*place) for place in sources.values()], timeout=30.0)
        return {f"{place.topic}/{place.partition}": place.offset for place in held if place.offset >= 0}
    finally:
        client.close()


def _watermarks(bootstrap: str, topics: Sequence[Topic]) -> dict[str, tuple[int, int]]:
    client = kafka.consumer(bootstrap, "feature-verify")
    try:
        return {source: kafka.watermarks(client, *place) for source, place in _sources(bootstrap, topics).items()}
    finally:
        client.close()


def _items_are_fed(check: _Check, committed: Mapping[str, int]) -> bool:
    """Whether all changes of committed events have come to the rows of items; they may be on their way for a moment."""
    ends = {source: high for source, (low, high) in _watermarks(check.bootstrap, (ITEM_CHANGES,)).items() if high > low}
    deadline_s = time.monotonic() + CATCH_UP_S
    while committed:
        held = check.store.positions([*ends])
        if all(_after(held[source]) >= high for source, high in ends.items()):
            return True
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return False


def _after(position: int | None) -> int:
    """Return the first offset that a position does not cover."""
    return 0 if position is None else position + 1


def _check_positions(check: _Check, positions: Mapping[str, int | None], committed: Mapping[str, int]) -> None:
    """A store that is behind what was committed has lost rows; one that is ahead of Kafka belongs to another."""
    for source, offset in committed.items():
        held = positions.get(source)
        if offset > 0 and (held is None or held < offset - 1):
            check.differ(Difference(_STORE, source, "position", offset - 1, held))
    for source, (_, high) in _watermarks(check.bootstrap, (CLICKS, PURCHASES, ITEM_CHANGES)).items():
        held = positions.get(source)
        if held is not None and held >= high:
            check.differ(Difference(_STORE, source, "position", f"below Kafka's end at {high}", held))


def _read_changes(check: _Check, positions: Mapping[str, int | None]) -> None:
    """Note which events the rows of items were given, up to the positions of the topic that gives them."""
    ends = {
        source: (low, min(high, _after(positions[source]))) for source, (low, high) in _watermarks(check.bootstrap, (ITEM_CHANGES,)).items()
    }
    for records in _records(check, "reading item changes", (ITEM_CHANGES,), ends):
        places = []
        for record in records:
            try:
                change = decode(ItemChange, record.value(), record.headers())
            except InvalidMessage:
                continue
            places.append((change.item_id, change.source, change.offset))
        oracle.add_named(check.db, check.store.items.view.name, places)


def _read_rows(check: _Check, table: RowTable[Any]) -> None:
    """Keep all rows of a table in DuckDB, and how far each has come."""
    client, view = check.store.client, table.view.name
    keys = client.scan_iter(match=table.pattern, count=ROWS_AT_ONCE)
    done = 0
    while part := list(islice(keys, ROWS_AT_ONCE)):
        with client.pipeline(transaction=False) as pipe:
            for key in part:
                pipe.hgetall(key)
            hashes: list[dict[bytes, bytes]] = pipe.execute()
        reached, kept = [], []
        for key, fields in zip(part, hashes, strict=True):
            entity = table.entity(key)
            # Scanning may name a key twice; a visit may have run out meanwhile.
            if not fields or (view, entity) in check.found:
                continue
            check.found.add((view, entity))
            kept.append((view, entity, msgspec.msgpack.encode(fields)))
            row = _row(table, fields)
            if row is None:
                check.broken.add((view, entity))
            else:
                reached.append((entity, row.offsets))
        _keep(check.db, kept)
        oracle.add_reached(check.db, view, reached)
        done += len(part)
        check.progress(f"reading {view}", done, 0)


def _read_events(check: _Check) -> None:
    ends = _watermarks(check.bootstrap, (CLICKS, PURCHASES))
    check.low = {source: low for source, (low, _) in ends.items()}
    check.high = {source: high for source, (_, high) in ends.items()}
    clock_ms = now_ms()
    doubtful: list[tuple[Event, Place]] = []
    for records in _records(check, "reading events", (CLICKS, PURCHASES), ends):
        arrivals: list[tuple[Event, Place]] = []
        for record in records:
            try:
                event, place = _event(record), _place(record)
                check_event(event, clock_ms)
            except InvalidMessage:
                continue
            # What lay in the future when it was published was refused then, though it would not be now.
            (doubtful if event.event_time_ms > place.published_ms + MAX_FUTURE_MS else arrivals).append((event, place))
        check.report.events += len(arrivals)
        oracle.add_events(check.db, arrivals)
    if doubtful:
        refused = _refused(check)
        oracle.add_events(check.db, [arrival for arrival in doubtful if (arrival[1].source, arrival[1].offset) not in refused])


def _refused(check: _Check) -> set[tuple[str, int]]:
    """Return the places of all records that the feature workers have refused."""
    places = set()
    for records in _records(check, "reading dead letters", (DEAD_LETTERS,), _watermarks(check.bootstrap, (DEAD_LETTERS,))):
        for record in records:
            try:
                letter = decode(DeadLetter, record.value(), record.headers())
            except InvalidMessage:
                continue
            if letter.component == COMPONENT:
                places.add((f"{letter.topic}/{letter.partition}", letter.offset))
    return places


def _check_missing(check: _Check, table: RowTable[Any], bounds: Mapping[str, int]) -> None:
    """Report rows that are not there, or have not come as far as they must."""
    view = table.view.name
    oldest_ms = now_ms() - table.view.ttl_s * 1000
    for lacking in oracle.unreached(check.db, view, bounds):
        entity = view, lacking.entity
        if entity in check.broken:
            continue
        if entity in check.found:
            check.differ(Difference(view, lacking.entity, "offsets", f"at least {lacking.offsets}", "an older row"))
        elif view != SESSION_VIEW or lacking.published_ms > oldest_ms:
            # The row of a visit runs out, and one that nobody may read any more need not be there.
            check.differ(Difference(view, lacking.entity, "_row", f"a row that has reached {lacking.offsets}", _NOTHING))


def _compare(check: _Check, table: RowTable[Any]) -> None:
    view = table.view.name
    total = sum(name == view for name, _ in check.found)
    found = _stored(check.db, view)
    expected = chain(oracle.expected_rows(check.db.cursor(), view), [("", None)])
    entity, columns = next(expected)
    for done, (stored, fields) in enumerate(found):
        row = _row(table, fields)
        if row is None:
            check.differ(Difference(view, stored, "_row", f"a {table.kind.__name__} as JSON", fields.get(table.row_field)))
        elif columns is None or stored != entity:
            _check_unfounded(check, table, stored, row, fields)
        else:
            _check_row(check, table, stored, row, fields, columns)
            entity, columns = next(expected)
        if done % ROWS_AT_ONCE == 0:
            check.progress(f"comparing {view}", done, total)
    check.progress(f"comparing {view}", total, total)
    setattr(check.report, _COUNTED[table.kind.__name__], total)


def _check_row(check: _Check, table: RowTable[Any], entity: str, row: Row, fields: Mapping[bytes, bytes], columns: oracle.Expected) -> None:
    differences = [*row_differences(table, entity, row, columns), *feast_differences(table, entity, fields, columns)]
    if differences and not _is_whole(check, row):
        # Part of its events is gone from Kafka; that Feast's fields say what the row's JSON says can be told all the same.
        check.report.unverifiable += 1
        differences = [*feast_differences(table, entity, fields, columns_of(row))]
    for difference in differences:
        check.differ(difference)


def _check_unfounded(check: _Check, table: RowTable[Any], entity: str, row: Row, fields: Mapping[bytes, bytes]) -> None:
    """A row of whose events Kafka has none: they are older than what it keeps, or there never were any."""
    if row.offsets and all(offset < check.low.get(source, 0) for source, offset in row.offsets.items()):
        check.report.unverifiable += 1
        for difference in feast_differences(table, entity, fields, columns_of(row)):
            check.differ(difference)
    else:
        check.differ(Difference(table.view.name, entity, "_row", "no row, since it has no events", row.offsets))


def _is_whole(check: _Check, row: Row) -> bool:
    """Whether Kafka still has all events of a row. Those of a shopper with few are all remembered in the row, with their offsets."""
    for source in row.offsets:
        low = check.low.get(source, 0)
        if low == 0:
            continue
        if not isinstance(row, UserRow):
            return False
        recent = row.recent.get(source, b"")
        remembered = [int.from_bytes(recent[at + 8 : at + 16], "little") for at in range(0, len(recent), 16)]
        if not remembered or len(remembered) >= REMEMBERED or min(remembered) < low:
            return False
    return True


def _stored(db: "DuckDBPyConnection", view: str) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    cursor = db.cursor().execute('SELECT entity, fields FROM found WHERE "view" = $view ORDER BY entity', {"view": view})
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        for entity, fields in rows:
            yield entity, msgspec.msgpack.decode(fields, type=dict[bytes, bytes])


def _keep(db: "DuckDBPyConnection", kept: Sequence[tuple[str, str, bytes]]) -> None:
    import pyarrow as pa

    if kept:
        views, entities, fields = zip(*kept, strict=True)
        portion = pa.table(
            {"view": pa.array(views, pa.string()), "entity": pa.array(entities, pa.string()), "fields": pa.array(fields, pa.binary())}
        )
        db.register("kept", portion)
        db.execute("INSERT INTO found SELECT * FROM kept")
        db.unregister("kept")


def _row(table: RowTable[Any], fields: Mapping[bytes, bytes]) -> Any:
    try:
        return table.row(fields.get(table.row_field))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _records(check: _Check, stage: str, topics: Sequence[Topic], ends: Mapping[str, tuple[int, int]]) -> Iterator[list[Message]]:
    """Yield the records of the topics, by source from the first offset of `ends` up to before the second, in portions."""
    names = _sources(check.bootstrap, topics)
    waiting = {names[source]: high for source, (low, high) in ends.items() if high > low}
    if not waiting:
        return
    total, done = sum(high - low for low, high in ends.values() if high > low), 0
    consumer = kafka.consumer(check.bootstrap, "feature-verify", None, **_TELLS_ENDS)
    try:
        consumer.assign([TopicPartition(*names[source], low) for source, (low, high) in ends.items() if high > low])
        heard_s = time.monotonic()
        while waiting:
            records = _portion(consumer, waiting)
            done += len(records)
            check.progress(stage, done, total)
            yield records
            if records:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > SILENCE_S:
                raise KafkaSilent([*waiting])
        check.progress(stage, total, total)
    finally:
        consumer.close()


def _portion(consumer: Consumer, waiting: dict[tuple[str, int], int]) -> list[Message]:
    """Return the next records below the ends in `waiting`, and take out of it the partitions that are through."""
    records = []
    for record in consumer.consume(RECORDS_AT_ONCE, 0.2):
        error, place, offset = record.error(), (record.topic() or "", record.partition() or 0), record.offset() or 0
        if error is not None:
            # The end of a partition may lie behind offsets that hold no record, such as those of transactions.
            if error.code() == KafkaError._PARTITION_EOF:
                waiting.pop(place, None)
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)
            continue
        high = waiting.get(place, 0)
        if offset < high:
            records.append(record)
        if offset >= high - 1:
            waiting.pop(place, None)
    return records


def _event(record: Message) -> Event:
    kind: type[Click] | type[Purchase] = Click if record.topic() == CLICKS.name else Purchase
    event: Event = decode(kind, record.value(), record.headers())
    return event


def _place(record: Message) -> Place:
    return Place(f"{record.topic()}/{record.partition()}", record.offset() or 0, max(0, record.timestamp()[1]))


_TELLS_ENDS: dict[str, Any] = {"enable.partition.eof": True}
_COUNTED = {"UserRow": "users", "ItemRow": "items", "SessionRow": "sessions"}
