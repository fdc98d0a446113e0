"""Batches, crashes, and two workers that both believe a partition to be theirs: the rows are those of a plain fold, on a real Redis."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.features.folding import Arrival, RowFolder
from headrace.features.item_row import changes_of, fold_item
from headrace.features.online_store import OnlineStore, StoreBehind, connect
from headrace.features.place import Place
from headrace.features.session_row import fold_session
from headrace.features.user_row import fold_user
from headrace.features.windows import HOUR_MS
from headrace.schemas import Click, Event, ItemChange, ItemRow, OrderLine, Purchase, SessionRow, UserRow, shopper_id

START_MS = 1_760_000_000_000
SOURCES = ("clicks/0", "purchases/0")
# Rows that are not at hand are taken for new always, if nearly all were, or never.
ASKED_BELOW = st.sampled_from([0.0, 0.8, 2.0])
SHOPPERS, ITEMS, SESSIONS = ("ada", "ben"), ("lamp", "chair", "vase"), ("s-1", "s-2", None)


@pytest.fixture(scope="module")
def store(redis_server: str) -> OnlineStore:
    return OnlineStore(connect(redis_server))


@st.composite
def logs(draw: st.DrawFn) -> list[Arrival]:
    """Events of some shoppers in two partitions, some sent twice, some late by hours, each at its place."""
    log: list[Arrival] = []
    offsets = dict.fromkeys(SOURCES, -1)
    for number in range(draw(st.integers(1, 25))):
        time_ms = START_MS + draw(st.integers(0, 6)) * HOUR_MS // 2 + number
        shopper, session = draw(st.sampled_from(SHOPPERS)), draw(st.sampled_from(SESSIONS))
        event: Event
        if draw(st.integers(0, 4)) == 0:
            lines = [OrderLine(item_id=item, unit_price=0.25) for item in draw(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=3))]
            event = Purchase(
                event_id=f"p{number}", event_time_ms=time_ms, order_id="o", lines=lines, currency="EUR", user_id=shopper, session_id=session
            )
        else:
            item = draw(st.sampled_from(ITEMS))
            event = Click(event_id=f"c{number}", event_time_ms=time_ms, item_id=item, price=0.5, user_id=shopper, session_id=session)
        for _ in range(1 + draw(st.booleans())):
            source = SOURCES[isinstance(event, Purchase)]
            offsets[source] += 1
            log.append((event, Place(source, offsets[source], 1000 + len(log))))
    return log


def reached(arrivals: Sequence[Arrival]) -> dict[str, int]:
    return {place.source: place.offset for _, place in arrivals}


def assert_rows_are_those_of_a_plain_fold(store: OnlineStore, log: Sequence[Arrival]) -> None:
    users: dict[str, UserRow] = {}
    items: dict[str, ItemRow] = {}
    visits: dict[str, SessionRow] = {}
    for event, place in log:
        key = shopper_id(event)
        old = users.get(key, UserRow(shopper_id=key))
        users[key] = new = fold_user(old, event, place)
        if event.session_id is not None:
            visit = visits.get(event.session_id, SessionRow(session_id=event.session_id))
            visits[event.session_id] = fold_session(visit, event, place)
        if new.repeated == old.repeated:
            for change in changes_of(event, place):
                items[change.item_id] = fold_item(items.get(change.item_id, ItemRow(item_id=change.item_id)), change)
    assert {row.shopper_id: row for row in store.scan_users()} == users
    assert {row.item_id: row for row in store.scan_items()} == items
    assert {row.session_id: row for row in store.scan_sessions()} == visits


@given(logs(), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
def test_any_batches_and_crashes_give_the_rows_of_a_plain_fold(store: OnlineStore, log: list[Arrival], data: st.DataObject) -> None:
    """A crash may come after the write, and changes of items may be sent and taken in more than once."""
    store.client.flushdb()
    asked_below = data.draw(ASKED_BELOW, label="asked below")
    folder = RowFolder(store, asked_below=asked_below)
    sent: list[ItemChange] = []
    taken_in = begun = 0
    while begun < len(log):
        size = data.draw(st.integers(1, 8), label="batch")
        batch = log[begun : begun + size]
        changes = sent[taken_in:]
        taken = folder.take_in(batch, changes, reached(batch))
        sent += [change for _, change in taken.changes]
        taken_in += len(changes)
        begun += size
        if data.draw(st.booleans(), label="crash"):
            folder = RowFolder(store, asked_below=asked_below)
            begun = data.draw(st.integers(0, min(begun, len(log))), label="committed")
            taken_in = data.draw(st.integers(0, taken_in), label="changes committed")
    folder.take_in([], sent[taken_in:], {})
    assert_rows_are_those_of_a_plain_fold(store, log)


@given(logs(), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
def test_two_workers_with_the_same_partition_in_hand_spoil_nothing(store: OnlineStore, log: list[Arrival], data: st.DataObject) -> None:
    """As when one was paused: each goes its own way through the log, with rows at hand that the other has written since."""
    store.client.flushdb()
    folders = [RowFolder(store, asked_below=data.draw(ASKED_BELOW, label="asked below")) for _ in range(2)]
    begun = [0, 0]
    sent: list[list[ItemChange]] = [[], []]
    while min(begun) < len(log):
        who = data.draw(st.integers(0, 1), label="who")
        size = data.draw(st.integers(1, 8), label="batch")
        batch = log[begun[who] : begun[who] + size]
        taken = folders[who].take_in(batch, [], reached(batch))
        sent[who] += [change for _, change in taken.changes]
        begun[who] += size
    folders[0].take_in([], sent[0], {})
    folders[1].take_in([], sent[1], {})
    assert_rows_are_those_of_a_plain_fold(store, log)


@given(logs(), st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
def test_nothing_is_built_on_a_row_that_the_store_has_lost(store: OnlineStore, log: list[Arrival], data: st.DataObject) -> None:
    store.client.flushdb()
    folder = RowFolder(store, asked_below=data.draw(ASKED_BELOW, label="asked below"))
    middle = data.draw(st.integers(1, len(log)), label="emptied after")
    folder.take_in(log[:middle], [], reached(log[:middle]))
    store.client.flushdb()
    rest = log[middle:]
    if rest:
        with pytest.raises(StoreBehind):
            folder.take_in(rest, [], reached(rest))
    with pytest.raises(StoreBehind):
        store.read_checked([], folder.expected)
    assert list(store.scan_users()) == []
    folder.start_from({})
    folder.take_in(log, [], reached(log))
    fresh = RowFolder(store)
    changes = [change for _, change in fresh.take_in(log, [], {}).changes]
    fresh.take_in([], changes, {})
    assert_rows_are_those_of_a_plain_fold(store, log)


def test_a_write_that_the_server_refuses_leaves_nothing_half_known(store: OnlineStore) -> None:
    store.client.flushdb()
    event = Click(event_id="e", event_time_ms=START_MS, item_id="lamp", user_id="ada")
    arrivals = [(event, Place("clicks/0", 0, 1))]
    folder = RowFolder(store)
    store.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.RedisError):
            folder.take_in(arrivals, [], {"clicks/0": 0})
    finally:
        store.client.config_set("maxmemory", "0")
    taken = folder.take_in(arrivals, [], {"clicks/0": 0})
    folder.take_in([], [change for _, change in taken.changes], {})
    assert (taken.counted, folder.expected) == (1, {"clicks/0": 0})
    assert_rows_are_those_of_a_plain_fold(store, arrivals)


def test_what_was_wrongly_taken_for_new_counts_as_what_it_is(store: OnlineStore) -> None:
    store.client.flushdb()
    first, second = (Click(event_id=name, event_time_ms=START_MS, item_id="lamp", user_id="ada", session_id="s-1") for name in ("1", "2"))
    RowFolder(store).take_in([(first, Place("clicks/0", 0, 1))], [], {"clicks/0": 0})
    folder = RowFolder(store, asked_below=0.0)
    # One that the row holds, one that was sent twice, and one that is news.
    arrivals = [(event, Place("clicks/0", offset, 1)) for offset, event in enumerate([first, first, second])]
    taken = folder.take_in(arrivals, [], {"clicks/0": 2})
    assert (taken.replayed, taken.repeated, taken.counted, taken.refused_writes) == (1, 1, 1, 0)
    assert [event.event_id for event, _ in taken.changes] == ["1", "2"]
    folder.take_in([], [change for _, change in taken.changes], {})
    assert_rows_are_those_of_a_plain_fold(store, arrivals)


class NotedStore(OnlineStore):
    """Notes what is asked of it."""

    asked = ""

    def read_checked(self, *given: Any) -> list[Any]:
        self.asked += "r"
        return super().read_checked(*given)

    def compare_and_set(self, *given: Any) -> list[bool]:
        self.asked += "w"
        return super().compare_and_set(*given)


def test_rows_are_not_asked_for_while_nearly_all_are_new(store: OnlineStore) -> None:
    store.client.flushdb()
    noted = NotedStore(store.client)

    def ways_of(folder: RowFolder, shoppers: range, source: str) -> Counter[str]:
        """Return how often which way was gone for an event of each of these shoppers."""
        ways: Counter[str] = Counter()
        for number in shoppers:
            noted.asked = ""
            event = Click(event_id=f"{source}-{number}", event_time_ms=START_MS, item_id="lamp", user_id=f"u-{number}")
            folder.take_in([(event, Place(source, number, 1))], [], {source: number})
            ways[noted.asked] += 1
        return ways

    folder = RowFolder(noted)
    ways = ways_of(folder, range(500), "clicks/0")
    assert ways == {"rw": ways["rw"], "w": ways["w"]}
    assert 200 < ways["rw"] < 400
    assert ways_of(folder, range(500, 600), "clicks/0") == {"w": 100}
    # These are there already, and not at hand: after some refused writes it asks first again.
    folder = RowFolder(noted)
    ways_of(folder, range(600, 1100), "clicks/0")
    ways = ways_of(folder, range(500), "clicks/1")
    assert ways == {"rw": ways["rw"], "wrw": ways["wrw"]}
    assert 10 < ways["wrw"] < 100
