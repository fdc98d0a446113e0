"""An item's row is a fold of change records that may be sent more than once, and its decayed counts are a plain sum."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.features.item_row import HALF_LIFE_MS, changes_of, fold_item
from headrace.features.place import Place
from headrace.features.windows import decay
from headrace.schemas import Click, ItemChange, ItemRow, OrderLine, Purchase

START_MS = 1_760_000_000_000
SOURCES = ("clicks/0", "clicks/1", "purchases/0")


@st.composite
def change_logs(draw: st.DrawFn) -> list[ItemChange]:
    """One item's changes in the order of arrival, from partitions that each keep their order; events may be late by days."""
    offsets = dict.fromkeys(SOURCES, -1)
    log = []
    for _ in range(draw(st.integers(0, 25))):
        source = draw(st.sampled_from(SOURCES))
        offsets[source] += draw(st.integers(1, 3))
        kind = "purchase" if source.startswith("purchases") else draw(st.sampled_from(["view", "cart"]))
        log.append(
            ItemChange(
                item_id="lamp",
                kind=kind,
                quantity=draw(st.integers(1, 5)) if kind == "purchase" else 1,
                event_time_ms=START_MS + draw(st.integers(0, 5 * HALF_LIFE_MS)),
                source=source,
                offset=offsets[source],
                price=draw(st.none() | st.floats(0, 100)),
                category=draw(st.none() | st.sampled_from(["light", "seat"])),
            )
        )
    return log


def folded(log: list[ItemChange], row: ItemRow | None = None) -> ItemRow:
    row = row or ItemRow(item_id="lamp")
    for change in log:
        row = fold_item(row, change)
    return row


@given(change_logs(), st.data())
@settings(max_examples=200, deadline=None)
def test_changes_sent_again_after_any_crashes_change_nothing(log: list[ItemChange], data: st.DataObject) -> None:
    """The worker that sends crashes and sends again from where it had committed; the one that receives does so too."""
    sent: list[ItemChange] = []
    done = 0
    while done < len(log):
        reached = data.draw(st.integers(done + 1, len(log)), label="sender crashes after")
        again = data.draw(st.integers(0, done), label="sends again from")
        sent += log[again:reached]
        done = reached
    crash = data.draw(st.integers(0, len(sent)), label="receiver crashes after")
    again = data.draw(st.integers(0, crash), label="reads again from")
    assert folded(sent[again:], folded(sent[:crash])) == folded(log)


@given(change_logs())
@settings(max_examples=200, deadline=None)
def test_decayed_counts_are_the_sum_over_all_events_seen_from_the_newest(log: list[ItemChange]) -> None:
    row = folded(log)
    now_ms = max((change.event_time_ms for change in log), default=0)
    assert row.updated_ms == now_ms
    for kind, value in (("view", row.decayed_views), ("purchase", row.decayed_purchases)):
        direct = sum(0.5 ** ((now_ms - change.event_time_ms) / HALF_LIFE_MS) for change in log if change.kind == kind)
        assert value == pytest.approx(direct, rel=1e-9, abs=1e-12)


@given(change_logs())
@settings(max_examples=200, deadline=None)
def test_plain_counts_are_those_of_the_changes_and_what_is_known_last_stays(log: list[ItemChange]) -> None:
    row = folded(log)
    kinds = [change.kind for change in log]
    assert (row.views, row.carts, row.purchases) == (kinds.count("view"), kinds.count("cart"), kinds.count("purchase"))
    assert row.units == sum(change.quantity for change in log if change.kind == "purchase")
    prices = [(change.event_time_ms, change.price) for change in log if change.price is not None]
    assert row.price == max(prices, default=(0, None))[1]
    assert (row.lowest_price, row.highest_price) == (min((p for _, p in prices), default=None), max((p for _, p in prices), default=None))
    assert row.category == max(((change.event_time_ms, change.category) for change in log if change.category), default=(0, None))[1]


def test_a_count_halves_each_day_and_fades_to_nothing_without_an_error() -> None:
    assert decay(0, HALF_LIFE_MS) == 1.0
    assert decay(HALF_LIFE_MS, HALF_LIFE_MS) == 0.5
    assert decay(2 * HALF_LIFE_MS, HALF_LIFE_MS) == 0.25
    assert decay(2**53, HALF_LIFE_MS) == 0.0


def test_an_order_makes_one_change_for_each_item_with_its_quantity_added() -> None:
    lines = [OrderLine(item_id="lamp", quantity=2, unit_price=9.5), OrderLine(item_id="chair"), OrderLine(item_id="lamp")]
    order = Purchase(event_id="e", event_time_ms=START_MS, order_id="o", lines=lines, currency="EUR", user_id="ada")
    lamp, chair = changes_of(order, Place("purchases/2", 7, published_ms=1))
    assert (lamp.item_id, lamp.quantity, lamp.price, lamp.amount, lamp.source, lamp.offset) == ("lamp", 3, 9.5, 19.0, "purchases/2", 7)
    assert (chair.item_id, chair.quantity, chair.price, chair.kind) == ("chair", 1, None, "purchase")


def test_a_click_makes_one_change_with_all_that_it_tells() -> None:
    click = Click(event_id="e", event_time_ms=START_MS, item_id="lamp", session_id="s", action="cart", price=9.5, category="light")
    [change] = changes_of(click, Place("clicks/1", 4, published_ms=1))
    assert change == ItemChange(
        item_id="lamp", kind="cart", event_time_ms=START_MS, source="clicks/1", offset=4, published_ms=1, price=9.5, category="light"
    )
