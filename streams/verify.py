"""Checking every row of the online store against the raw events, recomputed in batch by other code than that which made the rows.

Rows are compared at their own offsets, so that it does not matter that events flow meanwhile. What a row must have reached is
told by the store's positions, which are read before the rows; and for the rows of items, which are fed through the topic
`item-changes`, by that topic's position and by what the workers have committed: all changes of committed events were sent.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition
from msgspec import Struct

from headrace.features import oracle
from headrace.features.columns import ITEM_VIEW, SESSION_VIEW, USER_VIEW
from headrace.features.feast_layout import RowTable
from headrace.features.online_store import OnlineStore
from headrace.features.place import Place
from headrace.features.row_check import Difference
from headrace.features.row_comparison import Comparison
from headrace.features.shadow import read_shadow
from headrace.schemas import Event, InvalidMessage, ItemChange, check_event, decode
from headrace.schemas.dead_letters import DeadLetter
from headrace.schemas.topics import CLICKS, DEAD_LETTERS, ITEM_CHANGES, PURCHASES
from headrace.schemas.wire import MAX_FUTURE_MS, now_ms
from headrace.streams import kafka
from headrace.streams.feature_worker import COMPONENT
from headrace.streams.log_reading import LogReader
from headrace.streams.record_places import event_of, place_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Stage, how much of it is done, how much there is; 0 where that is not known.
Progress = Callable[[str, int, int], object]
ROWS_AT_ONCE = 500
CATCH_UP_S = 3.0
# A row that another worker wrote at the same time is written again within moments after its position has moved.
SETTLE_S = 0.25
_EVENTS = (CLICKS, PURCHASES)
_STORE = "store"


class VerifyReport(Struct):
    """How many rows of each kind were compared, and with how many events; what was found, and `shown` the first differences.

    `unverifiable` counts rows that differ, or have no events, and may hold events which Kafka no longer has.
    """

    users: int
    items: int
    sessions: int
    differences: int
    unverifiable: int
    events: int
    seconds: float
    shown: list[Difference]


def verify(
    bootstrap: str,
    store: OnlineStore,
    *,
    limit: int = 20,
    group: str | None = COMPONENT,
    progress: Progress = lambda stage, done, total: None,
) -> VerifyReport:
    """Return how the store's rows compare with the raw events; at most `limit` differences are in `shown`.

    `group` is the consumer group whose workers feed the store, which must have reached what that has committed. None stands for
    a shadow store, which a replay has filled. Raises KafkaException, KafkaSilent, redis.RedisError.
    """
    started_s = time.monotonic()
    with _database() as db, closing(LogReader(bootstrap, "feature-verify")) as log:
        check = _Verification(bootstrap, store, log, Comparison(db, limit), group, progress)
        check.look_at_positions()
        check.read_rows()
        events = check.read_events()
        check.compare()
        found = check.comparison
        return VerifyReport(
            users=found.compared[USER_VIEW],
            items=found.compared[ITEM_VIEW],
            sessions=found.compared[SESSION_VIEW],
            differences=found.differences,
            unverifiable=found.unverifiable,
            events=events,
            seconds=time.monotonic() - started_s,
            shown=found.shown,
        )


class _Verification:
    """The steps of one verification, in their order."""

    def __init__(
        self, bootstrap: str, store: OnlineStore, log: LogReader, comparison: Comparison, group: str | None, progress: Progress
    ) -> None:
        self.comparison = comparison
        self._store, self._log, self._group, self._progress = store, log, group, progress
        self._committed = {} if group is None else _committed(bootstrap, group, list(log.stretches(_EVENTS)))
        # A store that was replayed from some time on holds no events from before.
        shadow = read_shadow(store)
        self._begins: dict[str, int] = {}
        if shadow is not None and shadow.from_ms is not None:
            present = log.stretches(_EVENTS)
            since = log.first_since(list(present), shadow.from_ms)
            self._begins = {source: since.get(source, high) for source, (_, high) in present.items()}
        self._bounds: dict[str, dict[str, int]] = {}

    def look_at_positions(self) -> None:
        """Find out what rows must have reached. All that is read of the store later is no older than these positions."""
        fed = self._changes_are_in()
        held = self._store.positions(list(self._log.stretches((*_EVENTS, ITEM_CHANGES))))
        self._check_positions(held)
        time.sleep(SETTLE_S)
        written = {source: at for source, at in held.items() if at is not None}
        committed = {source: offset - 1 for source, offset in self._committed.items()}
        if self._group is None:
            shadow = read_shadow(self._store)
            committed, fed = written, shadow is not None and shadow.finished_ms is not None
        else:
            self._read_changes(held)
        self._bounds = {USER_VIEW: written, SESSION_VIEW: written, ITEM_VIEW: committed if fed else {}}

    def read_rows(self) -> None:
        """Read all rows of the store."""
        for table in self._tables():
            view, client, done = table.view.name, self._store.client, 0
            self.comparison.add_rows(table, [])
            keys = client.scan_iter(match=table.pattern, count=ROWS_AT_ONCE)
            while part := list(islice(keys, ROWS_AT_ONCE)):
                with client.pipeline(transaction=False) as pipe:
                    for key in part:
                        pipe.hgetall(key)
                    hashes: list[dict[bytes, bytes]] = pipe.execute()
                # A visit may have run out since its key was scanned.
                self.comparison.add_rows(table, [(table.entity(key), fields) for key, fields in zip(part, hashes, strict=True) if fields])
                done += len(part)
                self._progress(f"reading {view}", done, 0)

    def read_events(self) -> int:
        """Read all events that the rows can hold, and return how many there were."""
        stretches = self._log.stretches(_EVENTS)
        self.comparison.lost_below = {source: low for source, (low, _) in stretches.items() if low > self._begins.get(source, 0)}
        stretches = {source: (max(low, self._begins.get(source, 0)), high) for source, (low, high) in stretches.items()}
        clock_ms, events = now_ms(), 0
        doubtful: list[tuple[Event, Place]] = []
        for records in self._log.records(stretches, partial(self._progress, "reading events")):
            arrivals: list[tuple[Event, Place]] = []
            for record in records:
                place = place_of(record)
                try:
                    event = event_of(record)
                    check_event(event, clock_ms)
                except InvalidMessage:
                    continue
                # What lay in the future when it was published was refused then, though its time may have come since.
                (doubtful if event.event_time_ms > place.published_ms + MAX_FUTURE_MS else arrivals).append((event, place))
            events += len(arrivals)
            oracle.add_events(self.comparison.db, arrivals)
        if doubtful and self._group is not None:
            refused = self._refused()
            accepted = [arrival for arrival in doubtful if (arrival[1].source, arrival[1].offset) not in refused]
            events += len(accepted)
            oracle.add_events(self.comparison.db, accepted)
        return events

    def compare(self) -> None:
        """Recompute all rows, and count what differs and what is missing."""
        self._progress("recomputing", 0, 1)
        oracle.settle(self.comparison.db)
        self._progress("recomputing", 1, 1)
        for table in self._tables():
            self.comparison.check_missing(table, self._bounds[table.view.name], now_ms())
            self.comparison.check_rows(table, partial(self._progress, f"comparing {table.view.name}"))

    def _tables(self) -> tuple[RowTable[Any], ...]:
        return self._store.users, self._store.items, self._store.sessions

    def _changes_are_in(self) -> bool:
        """Whether all changes of committed events have come to the rows of items; they may be on their way for a moment."""
        ends = {source: high for source, (low, high) in self._log.stretches((ITEM_CHANGES,)).items() if high > low}
        deadline_s = time.monotonic() + CATCH_UP_S
        while self._committed:
            held = self._store.positions(list(ends))
            if all(_after(held[source]) >= high for source, high in ends.items()):
                return True
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.05)
        return False

    def _check_positions(self, held: Mapping[str, int | None]) -> None:
        """A store that is behind what was committed has lost rows; one that is ahead of Kafka belongs to another."""
        for source, offset in self._committed.items():
            if _after(held.get(source)) < offset:
                self.comparison.differ(Difference(_STORE, source, "position", offset - 1, held.get(source)))
        for source, (_, high) in self._log.stretches((*_EVENTS, ITEM_CHANGES)).items():
            if _after(held.get(source)) > high:
                self.comparison.differ(Difference(_STORE, source, "position", f"below Kafka's end at {high}", held.get(source)))

    def _read_changes(self, held: Mapping[str, int | None]) -> None:
        """Note which events the rows of items were given, up to the positions of the topic that gives them."""
        stretches = {source: (low, min(high, _after(held[source]))) for source, (low, high) in self._log.stretches((ITEM_CHANGES,)).items()}
        for records in self._log.records(stretches, partial(self._progress, "reading item changes")):
            places = []
            for record in records:
                try:
                    change = decode(ItemChange, record.value(), record.headers())
                except InvalidMessage:
                    continue
                if change.offset >= self._begins.get(change.source, 0):
                    places.append((change.item_id, change.source, change.offset))
            oracle.add_named(self.comparison.db, ITEM_VIEW, places)

    def _refused(self) -> set[tuple[str, int]]:
        """Return the places of all records that the feature workers have refused."""
        places = set()
        for records in self._log.records(self._log.stretches((DEAD_LETTERS,)), partial(self._progress, "reading dead letters")):
            for record in records:
                try:
                    letter = decode(DeadLetter, record.value(), record.headers())
                except InvalidMessage:
                    continue
                if letter.component == COMPONENT:
                    places.add((f"{letter.topic}/{letter.partition}", letter.offset))
        return places


@contextmanager
def _database() -> Iterator["DuckDBPyConnection"]:
    """A DuckDB database that may grow beyond memory, and is gone afterwards."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="headrace-verify-") as folder, duckdb.connect(str(Path(folder) / "rows.duckdb")) as db:
        db.execute("SET preserve_insertion_order = false")
        yield db


def _committed(bootstrap: str, group: str, sources: list[str]) -> dict[str, int]:
    """Return by source the first offset that the group has not committed."""
    client = kafka.consumer(bootstrap, "feature-verify", group=group)
    try:
        places = [TopicPartition(topic, int(number)) for topic, _, number in (source.rpartition("/") for source in sources)]
        held = client.committed(places, timeout=30.0)
        return {f"{place.topic}/{place.partition}": place.offset for place in held if place.offset > 0}
    finally:
        client.close()


def _after(position: int | None) -> int:
    """Return the first offset that a position does not cover."""
    return 0 if position is None else position + 1
