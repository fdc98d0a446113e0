"""A shopper's row is a fold of the event log that no replay can change."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace.features.place import Place
from headrace.features.user_row import HISTORY_LENGTH, counted, fold_user
from headrace.features.windows import HOUR_MS
from headrace.schemas import Click, Event, OrderLine, Purchase, UserRow, encode

Delivery = tuple[Event, Place]

ITEMS = st.sampled_from(["lamp", "chair", "table", "vase"])
START_MS = 1_760_000_000_000
SOURCES = ("clicks/0", "purchases/0")


def click(number: int, item: str, action: str, time_ms: int, price: float | None = None) -> Event:
    kind = "cart" if action == "cart" else "view"
    return Click(event_id=f"e{number}", event_time_ms=time_ms, item_id=item, user_id="ada", action=kind, price=price)


def order(number: int, items: list[str], time_ms: int) -> Event:
    lines = [OrderLine(item_id=item, quantity=place + 1, unit_price=0.25) for place, item in enumerate(items)]
    return Purchase(event_id=f"e{number}", event_time_ms=time_ms, order_id=f"o{number}", lines=lines, currency="EUR", user_id="ada")


@st.composite
def logs(draw: st.DrawFn, longest: int = 30) -> list[Delivery]:
    """A shopper's events in the order of arrival, with gaps in the offsets where other shoppers' events lie."""
    offsets = dict.fromkeys(SOURCES, -1)
    log: list[Delivery] = []
    for number in range(draw(st.integers(0, longest))):
        bought = draw(st.booleans())
        time_ms = draw(st.integers(0, 10_000))
        event = (
            order(number, draw(st.lists(ITEMS, min_size=1, max_size=4)), time_ms)
            if bought
            else click(number, draw(ITEMS), draw(st.sampled_from(["view", "cart"])), time_ms)
        )
        source = SOURCES[bought]
        offsets[source] += draw(st.integers(1, 3))
        log.append((event, Place(source, offsets[source], published_ms=1000 + number)))
    return log


def folded(log: list[Delivery], row: UserRow | None = None) -> UserRow:
    row = row or UserRow(shopper_id="ada")
    for event, place in log:
        row = fold_user(row, event, place)
    return row


def steps(log: list[Delivery]) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    for event, _ in log:
        if isinstance(event, Click):
            found.append((event.item_id, event.action, event.event_time_ms))
        else:
            found += [(line.item_id, "purchase", event.event_time_ms) for line in event.lines]
    return found


@st.composite
def untidy_logs(draw: st.DrawFn) -> list[Delivery]:
    """As `logs`, with events that come twice under other offsets, and times that reach over days."""
    log: list[Delivery] = []
    for event, place in draw(logs()):
        time_ms = START_MS + draw(st.integers(0, 3 * 24) | st.just(70)) * HOUR_MS // 2
        log.append((replace(event, event_time_ms=time_ms), place))
        if draw(st.integers(0, 5)) == 0:
            log.append((log[draw(st.integers(0, len(log) - 1))][0], place))
    offsets = dict.fromkeys(SOURCES, -1)
    numbered = []
    for event, _ in log:
        source = SOURCES[isinstance(event, Purchase)]
        offsets[source] += 1
        numbered.append((event, Place(source, offsets[source], published_ms=1000 + len(numbered))))
    return numbered


def bare(row: UserRow) -> UserRow:
    """The row without what tells of the order in which partitions were read."""
    return replace(
        row, cause=None, offsets=dict(sorted(row.offsets.items())), decayed_views=0, decayed_carts=0, decayed_purchases=0, decayed_spend=0
    )


@given(untidy_logs(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_the_order_in_which_partitions_are_read_leaves_no_trace(log: list[Delivery], random: Random) -> None:
    by_source = {source: [entry for entry in log if entry[1].source == source] for source in SOURCES}
    picks = [place.source for _, place in log]
    random.shuffle(picks)
    row, other = folded(log), folded([by_source[source].pop(0) for source in picks])
    assert bare(row) == bare(other)
    assert (row.decayed_views, row.decayed_spend) == pytest.approx((other.decayed_views, other.decayed_spend), rel=1e-9, abs=1e-12)


@given(untidy_logs(), st.data())
@settings(max_examples=200, deadline=None)
def test_events_sent_twice_count_once_and_are_told_apart_after_a_replay(log: list[Delivery], data: st.DataObject) -> None:
    row, once = folded(log), []
    for event, place in log:
        if (event.event_id, place.source) not in {(other.event_id, there.source) for other, there in once}:
            once.append((event, place))
    assert row.views + row.carts + row.purchases == len(once)
    assert row.repeated == len(log) - len(once)
    for event, place in log:
        assert counted(row, event, place) == ((event, place) in once)


def test_an_event_later_than_the_watermark_stays_out_of_the_windows_alone() -> None:
    times = [0, 2 * HOUR_MS, HOUR_MS - 1, HOUR_MS]
    row = folded([(click(n, "lamp", "view", START_MS + ms), Place("clicks/0", n, 0)) for n, ms in enumerate(times)])
    assert (row.views, row.late, row.steps) == (4, 1, 4)
    assert sum(pane.views for pane in row.panes) == 3
    assert [entry.time_ms - START_MS for entry in row.history] == sorted(times)


@given(logs(), st.data())
@settings(max_examples=200, deadline=None)
def test_replays_after_any_crashes_change_nothing(log: list[Delivery], data: st.DataObject) -> None:
    row = UserRow(shopper_id="ada")
    done = 0
    while done < len(log):
        reached = data.draw(st.integers(done + 1, len(log)), label="crash after")
        row = folded(log[done:reached], row)
        # What was committed may lie anywhere before the crash, for each partition by itself.
        again = data.draw(st.integers(0, reached), label="read again from")
        row = folded(log[again:reached], row)
        done = reached
    assert row == folded(log)


@given(logs(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_a_replay_that_mixes_the_partitions_differently_changes_nothing(log: list[Delivery], random: Random) -> None:
    row = folded(log)
    by_source = {source: [entry for entry in log if entry[1].source == source] for source in SOURCES}
    picks = [place.source for _, place in log]
    random.shuffle(picks)
    again = [by_source[source].pop(0) for source in picks]
    assert folded(again, row) is row


@given(logs())
@settings(max_examples=200, deadline=None)
def test_history_is_in_the_order_of_event_times_and_counts_are_those_of_the_events(log: list[Delivery]) -> None:
    # Sorting is stable: what happened at the same time stays in the order of arrival, purchases last.
    row, expected = folded(log), sorted(steps(log), key=lambda step: (step[2], step[1] == "purchase"))
    assert [(entry.item_id, entry.kind, entry.time_ms) for entry in row.history] == expected[-HISTORY_LENGTH:]
    assert row.steps == len(expected)
    kinds = [kind for _, kind, _ in expected]
    assert (row.views, row.carts) == (kinds.count("view"), kinds.count("cart"))
    assert row.purchases == sum(isinstance(event, Purchase) for event, _ in log)
    assert row.views + row.carts + row.purchases == len(log)
    assert row.updated_ms == max((event.event_time_ms for event, _ in log), default=0)
    for source in SOURCES:
        assert row.offsets.get(source) == max((place.offset for _, place in log if place.source == source), default=None)


@given(logs(), logs())
@settings(max_examples=50, deadline=None)
def test_a_fold_leaves_the_row_it_was_given_alone(first: list[Delivery], second: list[Delivery]) -> None:
    row = folded(first)
    before = encode(row)
    folded(second, row)
    assert encode(row) == before


def test_history_holds_the_last_fifty_steps_and_steps_count_on() -> None:
    log = [(click(number, f"item-{number}", "view", number), Place("clicks/0", number, 0)) for number in range(120)]
    row = folded(log)
    assert [entry.item_id for entry in row.history] == [f"item-{number}" for number in range(70, 120)]
    assert (row.steps, row.views) == (120, 120)


def test_an_order_longer_than_the_history_leaves_its_last_lines() -> None:
    row = folded([(order(1, [f"item-{number}" for number in range(80)], 5), Place("purchases/0", 0, 0))])
    assert len(row.history) == HISTORY_LENGTH
    assert row.history[-1].item_id == "item-79"
    assert (row.steps, row.purchases) == (80, 1)


def test_the_cause_is_the_newest_event_taken_in_and_not_one_that_came_again() -> None:
    first, second = (click(1, "lamp", "view", 5), Place("clicks/0", 3, 70)), (click(2, "chair", "view", 4), Place("clicks/0", 4, 80))
    row = folded([first, second, first])
    assert row.cause is not None
    assert (row.cause.event_id, row.cause.published_ms) == ("e2", 80)
    assert row.updated_ms == 5
