"""The batch recomputation in DuckDB and the folds agree on every column, whatever the order, repeats and delays."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace.features.columns import ITEM_VIEW, ITEMS, SESSION_VIEW, SESSIONS, USER_VIEW, USERS
from headrace.features.feast_layout import RowTable
from headrace.features.item_row import changes_of, fold_item
from headrace.features.oracle import Unreached, add_events, add_named, add_reached, create_tables, expected_rows, settle, unreached
from headrace.features.place import REMEMBERED, Place
from headrace.features.row_check import Difference, feast_differences, row_differences
from headrace.features.session_row import fold_session
from headrace.features.user_row import fold_user
from headrace.features.windows import SIX_HOURS_MS, WINDOWS
from headrace.schemas import Click, Event, ItemRow, OrderLine, Purchase, SessionRow, UserRow, shopper_id
from headrace.schemas.feature_rows import Row

Arrival = tuple[Event, Place]

# Panes of every length begin here.
START_MS = 1_760_000_000_000 // SIX_HOURS_MS * SIX_HOURS_MS
TABLES: list[RowTable[Any]] = [
    RowTable(USERS, UserRow, lambda row: row.shopper_id, "test"),
    RowTable(ITEMS, ItemRow, lambda row: row.item_id, "test"),
    RowTable(SESSIONS, SessionRow, lambda row: row.session_id, "test"),
]
# A shopper's clicks and orders each lie in one partition; a visit and an item are shared by all of them.
PARTITION = {"ada": 0, "bob": 0, "session:s1": 1, "session:s2": 1}

PRICES = st.none() | st.integers(0, 400).map(lambda quarters: quarters / 4)
ITEM_IDS = st.sampled_from(["lamp", "chair", "vase"])


@st.composite
def logs(draw: st.DrawFn, longest: int = 40) -> list[Arrival]:
    """Events of several shoppers as they were published, with repeats, in four source partitions whose offsets have gaps."""
    published: list[Event] = []
    for number, time_ms in enumerate(draw(times(longest))):
        if published and draw(st.integers(0, 6)) == 0:
            again = draw(st.sampled_from(published))
            # The same id may come in another visit too, where nobody has seen it.
            published.append(again if draw(st.booleans()) else replace(again, session_id=draw(st.sampled_from(["s1", "s2"]))))
        else:
            published.append(_event(draw, number, time_ms))
    offsets: dict[str, int] = defaultdict(lambda: draw(st.integers(-1, 5)))
    log = []
    for number, event in enumerate(published):
        source = source_of(event)
        offsets[source] += draw(st.integers(1, 3))
        log.append((event, Place(source, offsets[source], published_ms=START_MS + draw(st.integers(0, 50)) + number)))
    return log


@st.composite
def times(draw: st.DrawFn, longest: int) -> list[int]:
    """Event times around the edges of a window's panes, and of the allowed lateness, in their order or not."""
    length_ms, count = draw(st.sampled_from(list(WINDOWS.values())))
    panes = st.sampled_from([0, 0, 1, 2, count - 1, count, count + 1]) | st.integers(0, 3 * count)
    edges = st.builds(lambda pane, ms: START_MS + pane * length_ms + ms, panes, st.sampled_from([-1, 0, 0, 0, 1]))
    # Lists without a least size are mostly short.
    drawn = draw(st.lists(edges, min_size=draw(st.integers(1, longest)), max_size=longest))
    return sorted(drawn) if draw(st.booleans()) else drawn


def _event(draw: st.DrawFn, number: int, time_ms: int) -> Event:
    user_id = draw(st.sampled_from(["ada", "bob", None]))
    session_id = draw(st.sampled_from(["s1", "s2"] + [None] * (user_id is not None)))
    told: dict[str, Any] = {"event_id": f"e{number}", "event_time_ms": time_ms, "user_id": user_id, "session_id": session_id}
    if draw(st.integers(0, 2)):
        category = draw(st.sampled_from([None, None, "", "garden", "Öfen", "\U0001f6cb"]))
        return Click(**told, item_id=draw(ITEM_IDS), action=draw(st.sampled_from(["view", "cart"])), price=draw(PRICES), category=category)
    lines = [
        OrderLine(item_id=draw(ITEM_IDS), quantity=draw(st.integers(1, 3)), unit_price=draw(PRICES)) for _ in range(draw(st.integers(1, 4)))
    ]
    return Purchase(**told, order_id=f"o{number}", lines=lines, currency="EUR", total=draw(PRICES))


def source_of(event: Event) -> str:
    return f"{'clicks' if isinstance(event, Click) else 'purchases'}/{PARTITION[shopper_id(event)]}"


def interleaved(log: Sequence[Arrival], random: Random) -> Iterator[Arrival]:
    """Yield the events as a worker might read them: each source in its order, sources in any."""
    waiting: dict[str, list[Arrival]] = defaultdict(list)
    for arrival in log:
        waiting[arrival[1].source].append(arrival)
    picks = [place.source for _, place in log]
    random.shuffle(picks)
    for source in picks:
        yield waiting[source].pop(0)


def folded(arrivals: Iterator[Arrival]) -> dict[str, dict[str, Row]]:
    """Return the rows by view and entity, as the worker's folds make them."""
    users: dict[str, UserRow] = {}
    items: dict[str, ItemRow] = {}
    sessions: dict[str, SessionRow] = {}
    for event, place in arrivals:
        if event.session_id is not None:
            visit = sessions.get(event.session_id, SessionRow(session_id=event.session_id))
            sessions[event.session_id] = fold_session(visit, event, place)
        shopper = shopper_id(event)
        old = users.get(shopper, UserRow(shopper_id=shopper))
        users[shopper] = new = fold_user(old, event, place)
        if new.repeated != old.repeated:
            continue
        for change in changes_of(event, place):
            items[change.item_id] = fold_item(items.get(change.item_id, ItemRow(item_id=change.item_id)), change)
    return {USER_VIEW: dict(users), ITEM_VIEW: dict(items), SESSION_VIEW: dict(sessions)}


def oracle_of(log: Sequence[Arrival], rows: Mapping[str, Mapping[str, Row]]) -> duckdb.DuckDBPyConnection:
    db = duckdb.connect()
    create_tables(db)
    add_events(db, log)
    for view, held in rows.items():
        add_reached(db, view, [(entity, row.offsets) for entity, row in held.items()])
    settle(db)
    return db


def differences(log: Sequence[Arrival], rows: Mapping[str, Mapping[str, Row]]) -> list[Difference]:
    """Return where rows differ from the oracle, both as JSON and in Feast's fields."""
    found: list[Difference] = []
    with oracle_of(log, rows) as db:
        for table in TABLES:
            view = table.view.name
            expected = dict(expected_rows(db, view))
            assert expected.keys() == rows[view].keys()
            for entity, row in rows[view].items():
                parts = table.fields(row)
                fields = dict(zip(parts[::2], parts[1::2], strict=True))
                found += row_differences(table, entity, table.row(fields[table.row_field]), expected[entity])
                found += feast_differences(table, entity, fields, expected[entity])
    return found


@given(logs(), st.randoms(use_true_random=False), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_folding_in_any_order_gives_the_columns_that_the_batch_gives(log: list[Arrival], random: Random, unread: int) -> None:
    read = list(interleaved(log, random))
    read = read[: max(1, len(read) - unread)]
    # The oracle knows all events, also those behind what the rows have reached.
    assert differences(random.sample(log, len(log)), folded(iter(read))) == []


@pytest.mark.parametrize("ids", [100, REMEMBERED - 1, REMEMBERED, REMEMBERED + 1, 140, 200])
def test_an_event_sent_again_is_passed_over_within_the_horizon_and_counted_beyond_it(ids: int) -> None:
    random = Random(ids)
    cycle = [
        (Click(event_id=f"e{n % ids}", event_time_ms=START_MS + n, item_id="lamp", user_id="ada", session_id="s1"), Place("clicks/0", n, n))
        for n in range(3 * ids)
    ]
    mixed = [(replace(event, event_id=f"e{random.randrange(ids)}"), place) for event, place in cycle * 2][: 6 * ids]
    mixed = [(event, Place("clicks/0", n, n)) for n, (event, _) in enumerate(mixed)]
    for log in (cycle, mixed):
        rows = folded(iter(log))
        assert differences(log, rows) == []
        [user] = rows[USER_VIEW].values()
        assert isinstance(user, UserRow)
        assert user.views + user.repeated == len(log)
        assert 0 < user.repeated < len(log) or ids > REMEMBERED


@given(logs(longest=15), st.randoms(use_true_random=False), st.data())
@settings(max_examples=25, deadline=None)
def test_a_row_that_misses_one_event_or_holds_one_twice_is_told(log: list[Arrival], random: Random, data: st.DataObject) -> None:
    rows = folded(iter(log))
    view = data.draw(st.sampled_from([USER_VIEW, ITEM_VIEW, SESSION_VIEW]))
    entity, row = data.draw(st.sampled_from(sorted(rows[view].items()) or [("", None)]))
    if row is None:
        return
    column = data.draw(st.sampled_from(["views", "carts", "purchases", "updated_ms", "seen_ms"]))
    rows[view][entity] = replace(row, **{column: getattr(row, column) + 1})
    assert {(one.entity, one.column) for one in differences(log, rows)} == {(entity, column), (entity, f"_row:{column}")} | (
        {(entity, "_ts")} if column == "seen_ms" else set()
    )


def test_rows_that_lack_events_are_named_with_what_they_must_have_reached() -> None:
    log: list[Arrival] = [
        (Click(event_id=f"e{n}", event_time_ms=START_MS, item_id="lamp", user_id=user), Place("clicks/0", n, 70 + n))
        for n, user in enumerate(["ada", "bob", "ada", "cyd", "ada"])
    ]
    rows = folded(iter(log[:1]))
    with oracle_of(log, rows) as db:
        add_named(db, ITEM_VIEW, [("lamp", "clicks/0", 0), ("vase", "clicks/0", 9)])
        assert list(unreached(db, USER_VIEW, {"clicks/0": 2})) == [
            Unreached("ada", {"clicks/0": 2}, 72),
            Unreached("bob", {"clicks/0": 1}, 71),
        ]
        assert list(unreached(db, ITEM_VIEW, {})) == [Unreached("vase", {"clicks/0": 9}, 0)]
        assert list(unreached(db, ITEM_VIEW, {"clicks/0": 3})) == [
            Unreached("lamp", {"clicks/0": 3}, 73),
            Unreached("vase", {"clicks/0": 9}, 0),
        ]
