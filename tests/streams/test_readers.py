"""The readers: every known layout becomes the same events each time, and a bad row is named with its place."""

import gzip
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas import Click, Event, InvalidMessage, OrderLine, Purchase, shopper_id, wire
from headrace.streams.readers import count_events, open_events
from headrace.streams.readers.order import interleave_sessions, merge_orders
from headrace.streams.readers.rows import SYNTHETIC_START_MS

ShopData = Callable[[str], Path]


def events_of(folder: Path, name: str, text: str, **options: Any) -> list[Event]:
    path = folder / name
    path.write_text(text)
    events = list(open_events(path, **options))
    assert count_events(path) == len(events)
    return events


def bought(number: int, item: str, **fields: Any) -> Purchase:
    base = {"event_id": f"f-{number}", "event_time_ms": 5, "order_id": "o", "currency": "XXX", "user_id": "u"}
    return Purchase(**(base | fields), lines=[OrderLine(item_id=item)])


@pytest.mark.parametrize(
    ("name", "count", "purchases"),
    [
        ("diginetica_clicks_purchases", 12_615, 224),
        ("diginetica_purchases", 12_764, 12_764),
        ("yoochoose_clicks", 83_846, 0),
        ("retailrocket_sessions", 685_984, 0),
        ("movielens_100k_ratings", 100_000, 0),
    ],
)
def test_a_published_file_is_read_whole(name: str, count: int, purchases: int, shop_data: ShopData) -> None:
    path = shop_data(f"{name}.csv.gz")
    events = list(open_events(path))
    assert len(events) == count_events(path)
    # Where the data is not at hand simulated events stand in for it.
    if path.suffix == ".gz":
        assert (len(events), sum(isinstance(event, Purchase) for event in events)) == (count, purchases)
    assert len({event.event_id for event in events}) == len(events)
    assert len({id(event) for event in events if event.user_id is None and event.session_id is None}) == 0


def test_each_row_of_the_prepared_clicks_and_purchases_is_one_event(tmp_path: Path) -> None:
    header = "timestamp_ms,type,session_id,user_id,item_id,order_id\n"
    events = events_of(tmp_path, "shop.csv", header + "1,click,s1,,a,\n2,purchase,s1,u7,a,o1\n2,purchase,s1,u7,b,o1\n")
    assert events == [
        Click(event_id="shop-1", event_time_ms=1, item_id="a", session_id="s1"),
        bought(2, "a", event_id="shop-2", event_time_ms=2, order_id="o1", user_id="u7", session_id="s1"),
        bought(3, "b", event_id="shop-3", event_time_ms=2, order_id="o1", user_id="u7", session_id="s1"),
    ]
    assert shopper_id(events[0]) == "session:s1"


def test_columns_may_stand_in_another_order_be_quoted_and_end_as_on_windows(tmp_path: Path) -> None:
    text = '\ufeffitem_id,"session_id",timestamp_ms\r\n"a,b",s1,5\r\n\r\n'
    assert events_of(tmp_path, "clicks.csv", text) == [Click(event_id="clicks-1", event_time_ms=5, item_id="a,b", session_id="s1")]


def test_retailrockets_own_layout(tmp_path: Path) -> None:
    text = "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n1433221332118,1,addtocart,7,\n"
    text += "1433221332119,1,transaction,7,4000\n1433221332119,1,transaction,8,4000\n1433221332119,2,transaction,8,4001\n"
    events = events_of(tmp_path, "events.csv", text)
    assert events[0] == Click(event_id="events-1", event_time_ms=1433221332117, item_id="355908", user_id="257597")
    assert isinstance(events[1], Click)
    assert events[1].action == "cart"
    assert [(e.event_id, [line.item_id for line in e.lines], e.currency) for e in events if isinstance(e, Purchase)] == [
        ("events-3", ["7", "8"], "XXX"),
        ("events-5", ["8"], "XXX"),
    ]


def test_yoochooses_own_layouts(tmp_path: Path) -> None:
    clicks = "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n"
    first, second = events_of(tmp_path, "yoochoose-clicks.dat", clicks)
    assert first == Click(event_id="yoochoose-clicks-1", event_time_ms=1396867869277, item_id="214536502", session_id="1")
    assert isinstance(second, Click)
    assert second.category == "S"
    buys = "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n420374,2014-04-06T18:44:58.314Z,214537850,0,0\n"
    buys += "420374,2014-04-06T18:44:58.325Z,214537850,10471,2\n"
    order, later = events_of(tmp_path, "yoochoose-buys.dat", buys)
    assert isinstance(order, Purchase)
    assert order.lines == [OrderLine(item_id="214537888", unit_price=12462.0), OrderLine(item_id="214537850")]
    assert isinstance(later, Purchase)
    assert later.lines == [OrderLine(item_id="214537850", quantity=2, unit_price=10471.0)]


@pytest.mark.parametrize("header", ["sessionId;userId;itemId;timeframe;eventdate", "session_id;user_id;item_id;timeframe;eventdate"])
def test_digineticas_own_views(tmp_path: Path, header: str) -> None:
    events = events_of(
        tmp_path, "train-item-views.csv", f"{header}\n1;NA;81766;526309;2016-05-09\n1;;31331;1031018;2016-05-09\n2;9;1;0;2016-05-10\n"
    )
    assert events[0] == Click(event_id="train-item-views-1", event_time_ms=1462752526309, item_id="81766", session_id="1")
    assert [event.user_id for event in events] == [None, None, "9"]
    assert events[2].event_time_ms == 1462838400000


def test_digineticas_own_purchases_become_orders_with_lines(tmp_path: Path) -> None:
    text = "sessionId;userId;timeframe;eventdate;ordernumber;itemId\n150;18278;17100868;2016-05-06;16421;25911\n"
    text += "150;18278;17100868;2016-05-06;16421;175722\n150;18278;17100868;2016-05-06;16422;1\n"
    first, second = events_of(tmp_path, "train-purchases.csv", text)
    assert isinstance(first, Purchase)
    assert [line.item_id for line in first.lines] == ["25911", "175722"]
    assert isinstance(second, Purchase)
    assert second.order_id == "16422"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.data", "196\t242\t3\t881250949\n"),
        ("ratings.dat", "196::242::3::881250949\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n196,242,3.5,881250949\n"),
    ],
)
def test_movielens_ratings_are_views(tmp_path: Path, name: str, text: str) -> None:
    [event] = events_of(tmp_path, name, text)
    assert event == Click(event_id=f"{name.split('.')[0]}-1", event_time_ms=881250949000, item_id="242", user_id="196")


def test_our_own_events_as_json_lines_come_back_as_they_were(tmp_path: Path) -> None:
    events = [Click(event_id="c", event_time_ms=1, item_id="a", session_id="s"), bought(1, "a")]
    text = "".join(wire.encode(event).decode() + "\n" for event in events)
    assert events_of(tmp_path, "own.jsonl", text) == events


def test_gzip_is_known_by_its_first_bytes_not_by_the_name(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_bytes(gzip.compress(b"timestamp_ms,session_id,item_id\n5,s,a\n"))
    assert [event.event_id for event in open_events(path)] == ["clicks-1"]


def test_a_damaged_gzip_file_names_the_line_at_which_it_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv.gz"
    whole = gzip.compress(b"timestamp_ms,session_id,item_id\n" + b"".join(b"%d,s,a\n" % number for number in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidMessage, match=r"clicks\.csv\.gz:\d+: the gzipped file breaks off"):
        list(open_events(path))


def test_an_empty_file_has_no_events(tmp_path: Path) -> None:
    assert events_of(tmp_path, "empty.csv", "") == []
    assert events_of(tmp_path, "header.csv", "timestamp_ms,session_id,item_id\n") == []


def test_an_unknown_layout_is_refused_at_once_with_those_that_are_known(tmp_path: Path) -> None:
    path = tmp_path / "what.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidMessage, match=r"what\.csv:1: one of these layouts.*RetailRocket events\.csv .*the value is 'a,b'"):
        open_events(path)


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        ("timestamp_ms,session_id,item_id", "soon,s,a", "f.csv:3 event_time_ms: .*'soon'"),
        ("timestamp_ms,session_id,item_id", "-4,s,a", "f.csv:3 event_time_ms: .*'-4'"),
        ("timestamp_ms,session_id,item_id", "4,s,", "f.csv:3 item_id: .*''"),
        ("timestamp_ms,session_id,item_id", "4,,a", "f.csv:3 .*user_id: a user_id, or for a guest a session_id"),
        ("timestamp_ms,session_id,item_id", "4,s", "f.csv:3 row: 3 columns .*, not 2; the value is '4,s'"),
        ("timestamp_ms,type,session_id,user_id,item_id,order_id", "4,look,s,,a,", "f.csv:3 type: click or purchase .*'look'"),
        ("timestamp_ms,type,session_id,user_id,item_id,order_id", "4,purchase,s,,a,", "f.csv:3 order_id: .*''"),
        ("timestamp,visitorid,event,itemid,transactionid", "4,1,sniff,2,", "f.csv:3 event: .*'sniff'"),
        ("sessionId;userId;itemId;timeframe;eventdate", "1;;2;x;2016-05-09", "f.csv:3 timeframe: .*'x'"),
        ("sessionId;userId;itemId;timeframe;eventdate", "1;;2;3;yesterday", "f.csv:3 eventdate: .*'yesterday'"),
        ("userId,movieId,rating,timestamp", "1,2,3,1.5", "f.csv:3 timestamp: .*'1.5'"),
    ],
)
def test_a_bad_row_is_named_with_file_line_field_and_value_or_skipped_and_counted(tmp_path: Path, header: str, row: str, told: str) -> None:
    good = {"timestamp_ms,s": "1,s,a", "timestamp_ms,t": "1,click,s,,a,", "timestamp,v": "1,1,view,2,", "sessionId;u": "1;;2;3;2016-05-09"}
    good_row = next((text for start, text in good.items() if header.startswith(start)), "1,2,3,4")
    path = tmp_path / "f.csv"
    path.write_text(f"{header}\n{good_row}\n{row}\n{good_row}\n")
    with pytest.raises(InvalidMessage, match=told):
        list(open_events(path))
    bad: list[InvalidMessage] = []
    assert [event.event_id for event in open_events(path, on_bad_row=bad.append)] == ["f-1", "f-3"]
    assert len(bad) == 1


def test_bytes_that_are_not_utf8_are_a_bad_row_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"timestamp_ms,session_id,item_id\n1,s,\xff\n2,s,b\n")
    bad: list[InvalidMessage] = []
    assert [event.event_id for event in open_events(path, on_bad_row=bad.append)] == ["f-2"]
    assert bad[0].field == "f.csv:2 row"


def test_a_bad_json_line_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"type":"purchase","event_id":"1"}\n{"type":"gift"}\n{oh\n')
    bad: list[InvalidMessage] = []
    assert list(open_events(path, on_bad_row=bad.append)) == []
    assert [error.field for error in bad] == ["own.jsonl:1 $", "own.jsonl:2 $.type", "own.jsonl:3 $"]


def test_the_same_file_is_read_alike_each_time_and_the_seed_changes_only_the_order(tmp_path: Path) -> None:
    path = tmp_path / "sessions.csv"
    rows = [f"{session},{place},{session * place}" for session in range(100) for place in range(3)]
    path.write_text("session,position,item_id\n" + "\n".join(rows))
    once, again, other = (list(open_events(path, seed=seed)) for seed in (1, 1, 2))
    assert once == again
    ids = [event.event_id for event in once]
    assert ids != [event.event_id for event in other]
    assert sorted(ids) == sorted(event.event_id for event in other) == sorted(f"sessions-{row}" for row in range(1, 301))
    assert [event.event_time_ms for event in once] == [SYNTHETIC_START_MS + 1000 * place for place in range(300)]


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 8), st.integers())
def test_interleaving_keeps_every_sessions_order_and_no_more_sessions_open_than_told(lengths: list[int], width: int, seed: int) -> None:
    source = [
        Click(event_id=f"{session}-{place}", event_time_ms=0, item_id="a", session_id=str(session))
        for session, length in enumerate(lengths)
        for place in range(length)
    ]
    drawn = [(str(event.session_id), event.event_id) for event in interleave_sessions(source, width, seed)]
    for session, events in groupby(sorted(drawn, key=lambda pair: int(pair[0])), key=lambda pair: pair[0]):
        assert [event_id for _, event_id in events] == [f"{session}-{place}" for place in range(lengths[int(session)])]
    assert len(drawn) == len(source)
    ends = {session: place for place, (session, _) in enumerate(drawn)}
    starts: dict[str, int] = {}
    for place, (session, _) in enumerate(drawn):
        starts.setdefault(session, place)
        assert sum(starts[known] <= place <= ends[known] for known in starts) <= width


@given(st.lists(st.sampled_from(["click", "o1", "o2"]), max_size=30))
def test_merging_keeps_every_line_once_and_joins_neighbours_only(kinds: list[str]) -> None:
    source: list[Event] = [
        Click(event_id=f"f-{number}", event_time_ms=5, item_id=str(number), user_id="u")
        if kind == "click"
        else bought(number, str(number), order_id=kind)
        for number, kind in enumerate(kinds)
    ]
    merged = list(merge_orders(source))
    items = [item for event in merged for item in ([event.item_id] if isinstance(event, Click) else [line.item_id for line in event.lines])]
    assert items == [str(number) for number in range(len(kinds))]
    clicks = kinds.count("click")
    runs = sum(1 for kind, _ in groupby(kinds) if kind != "click")
    assert len(merged) == clicks + runs


def test_an_order_of_more_lines_than_a_message_holds_is_split() -> None:
    merged = list(merge_orders(bought(number, "a") for number in range(2500)))
    assert [len(event.lines) for event in merged if isinstance(event, Purchase)] == [1000, 1000, 500]
    assert len({event.event_id for event in merged}) == 3
