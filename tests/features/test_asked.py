"""What depends on the time of asking, as tables of rows and expected values, and as properties."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.features.asked import (
    ASKED_VIEWS,
    CATEGORIES_TOLD,
    ITEM_NOW,
    SESSION_NOW,
    USER_ITEM,
    USER_NOW,
    AskedView,
    age_ms,
    item_now,
    session_now,
    taste_of_user,
    user_item,
    user_now,
)
from headrace.features.columns import ITEMS, SESSIONS, USERS
from headrace.features.stored_rows import StoredItem, StoredSession, StoredUser
from headrace.features.taste import PAUSE_MS
from headrace.features.windows import DAY_MS, HOUR_MS, MINUTE_MS, WINDOWS, add_to_panes, window, windows
from headrace.schemas import HistoryEntry, ItemRow, Pane, SessionRow, UserRow, encode

NOW_MS = 1_760_000_400_000
TABLES: dict[str, AskedView] = {view.name: view for view in ASKED_VIEWS}


def step(ago_s: float, item: str = "lamp", kind: Any = "view", price: float | None = None, category: str | None = None) -> HistoryEntry:
    return HistoryEntry(item, kind, NOW_MS - round(ago_s * 1000), price, category)


def shopper(*history: HistoryEntry, **told: Any) -> UserRow:
    return UserRow(shopper_id="ada", history=list(history), **{"updated_ms": NOW_MS, "seen_ms": NOW_MS} | told)


def item(**told: Any) -> ItemRow:
    return ItemRow(item_id="lamp", **{"updated_ms": NOW_MS, "seen_ms": NOW_MS} | told)


def of_user(row: UserRow | None, asked_ms: int = NOW_MS) -> dict[str, Any]:
    return named(USER_NOW, user_now(row, asked_ms))


def of_item(row: ItemRow | None, asked_ms: int = NOW_MS) -> dict[str, Any]:
    return named(ITEM_NOW, item_now(row, asked_ms))


def of_session(row: SessionRow | None, asked_ms: int = NOW_MS) -> dict[str, Any]:
    return named(SESSION_NOW, session_now(row, asked_ms))


def of_both(user: UserRow | None, item: ItemRow | None, item_id: str = "lamp", asked_ms: int = NOW_MS) -> dict[str, Any]:
    return named(USER_ITEM, user_item(user, item, item_id, asked_ms))


def named(view: AskedView, values: Any) -> dict[str, Any]:
    return dict(zip([column.name for column in view.columns], values, strict=True))


def comparable(value: Any) -> Any:
    """Return a value in which NaN equals itself."""
    return [None if part != part else part for part in value] if isinstance(value, list) else value


PANES = [
    Pane(NOW_MS - 6 * DAY_MS, 100, 10, 1, 7.5),
    Pane(NOW_MS - 20 * HOUR_MS, 20, 2, 0, 0.0),
    Pane(NOW_MS - 30 * MINUTE_MS, 3, 1, 1, 2.5),
]


@pytest.mark.parametrize(
    ("later_ms", "views", "carts", "purchases", "amounts"),
    [
        (0, [3, 23, 123], [1, 3, 13], [1, 1, 2], [2.5, 2.5, 10.0]),
        (HOUR_MS, [0, 23, 123], [0, 3, 13], [0, 1, 2], [0.0, 2.5, 10.0]),
        (12 * HOUR_MS, [0, 3, 123], [0, 1, 13], [0, 1, 2], [0.0, 2.5, 10.0]),
        (3 * DAY_MS, [0, 0, 23], [0, 0, 3], [0, 0, 1], [0.0, 0.0, 2.5]),
        (8 * DAY_MS, [0, 0, 0], [0, 0, 0], [0, 0, 0], [0.0, 0.0, 0.0]),
    ],
)
def test_windows_end_at_the_time_of_asking(
    later_ms: int, views: list[int], carts: list[int], purchases: list[int], amounts: list[float]
) -> None:
    expected = {"views": views, "carts": carts, "purchases": purchases}
    for told, amount in (
        (of_user(shopper(panes=PANES), NOW_MS + later_ms), "spend"),
        (of_item(item(panes=PANES), NOW_MS + later_ms), "revenue"),
    ):
        for name, values in (expected | {amount: amounts}).items():
            assert [told[f"{name}_{key}"] for key in WINDOWS] == values, name


def test_the_taste_weighs_kinds_and_halves_in_a_week() -> None:
    week_s = 7 * 24 * 3600
    told = of_user(
        shopper(
            step(week_s, "rug", "purchase", 40.0, "rugs"),
            step(week_s, "sofa", "cart", 100.0, "sofas"),
            step(0, "lamp", "view", 10.0, "lamps"),
        )
    )
    weights = [2.5, 1.5, 1.0]
    mean = (2.5 * 40 + 1.5 * 100 + 1.0 * 10) / 5
    assert told["taste_categories"] == ["rugs", "sofas", "lamps"]
    assert told["taste_weights"] == [weight / 5 for weight in weights]
    assert told["price_taste"] == pytest.approx(mean)
    spread = math.sqrt(sum(weight * (price - mean) ** 2 for weight, price in zip(weights, (40, 100, 10), strict=True)) / 5)
    assert told["price_spread"] == pytest.approx(spread)


def test_a_purchase_counts_for_the_category_that_a_click_on_its_item_told() -> None:
    told = of_user(shopper(step(60, "lamp", "view", None, "lamps"), step(30, "rug", "view", None, "rugs"), step(0, "lamp", "purchase")))
    assert told["taste_categories"] == ["lamps", "rugs"]
    assert told["taste_weights"] == [pytest.approx(6 / 7, rel=1e-3), pytest.approx(1 / 7, rel=1e-2)]
    assert (told["price_taste"], told["price_spread"]) == (None, None)


def test_the_five_heaviest_categories_are_told_and_equal_ones_by_name() -> None:
    told = of_user(shopper(*(step(0, f"item-{name}", "view", 1.0, name) for name in "gfedcba"), step(0, "x", "cart", 1.0, "z")))
    assert told["taste_categories"] == ["z", "a", "b", "c", "d"]
    assert told["taste_weights"] == [0.3, 0.1, 0.1, 0.1, 0.1]


VISITS: dict[str, tuple[list[HistoryEntry], tuple[float, int, float | None, int | None]]] = {
    "without steps": ([], (0.0, 0, None, None)),
    "one step": ([step(5)], (0.0, 1, None, 0)),
    "three steps": ([step(100), step(70, kind="cart"), step(0)], (100.0, 3, 50.0, 1)),
    "the lines of an order are one moment": (
        [step(60), step(0, "rug", "purchase"), step(0, "lamp", "purchase")],
        (60.0, 3, 60.0, 2),
    ),
    "just not a pause": ([step(1801 + 1799), step(1800), step(0)], (3600.0, 3, 1800.0, 0)),
    "after a pause": ([step(4000, kind="purchase"), step(1900, kind="cart"), step(99), step(0)], (99.0, 2, 99.0, 0)),
    "the last step was just not a pause ago": ([step(1800)], (0.0, 1, None, 0)),
    "a pause is going on": ([step(1900, kind="cart"), step(1801)], (0.0, 0, None, None)),
}


@pytest.mark.parametrize(("history", "expected"), VISITS.values(), ids=VISITS)
def test_the_visit_is_what_happened_since_the_last_pause(
    history: list[HistoryEntry], expected: tuple[float, int, float | None, int | None]
) -> None:
    told = of_user(shopper(*history))
    assert (told["visit_length_s"], told["visit_steps"], told["mean_dwell_s"], told["funnel_stage"]) == expected


def test_a_visit_ends_by_asking_later() -> None:
    row = shopper(step(0))
    assert of_user(row, NOW_MS + PAUSE_MS)["visit_steps"] == 1
    assert of_user(row, NOW_MS + PAUSE_MS + 1)["visit_steps"] == 0


def test_times_since_are_told_in_days_and_seconds() -> None:
    told = of_user(shopper(last_purchase_ms=NOW_MS - 36 * HOUR_MS, updated_ms=NOW_MS - 1500, seen_ms=NOW_MS - 1000))
    assert (told["days_since_purchase"], told["idle_s"], told["age_s"]) == (1.5, 1.5, 1.0)
    assert of_user(shopper())["days_since_purchase"] is None


def test_an_items_ratios() -> None:
    told = of_item(item(views=200, purchases=3, panes=PANES, price=15.0, lowest_price=10.0, highest_price=30.0))
    assert told["conversion"] == 0.015
    assert told["trend"] == pytest.approx((23 + 1) / (123 / 7 + 1))
    assert told["price_position"] == 0.25


@pytest.mark.parametrize(
    "prices",
    [
        {},
        {"price": 5.0, "lowest_price": 5.0, "highest_price": 5.0},
        {"lowest_price": 1.0, "highest_price": 2.0},
        {"price": 5.0},
    ],
)
def test_an_item_without_views_or_prices_has_no_ratios(prices: dict[str, float]) -> None:
    told = of_item(item(purchases=2, **prices))
    assert (told["conversion"], told["price_position"], told["trend"]) == (None, None, 1.0)


SESSION_ROWS: dict[str, tuple[dict[str, Any], tuple[float, float | None, int | None]]] = {
    "no events": ({}, (0.0, None, None)),
    "one view": ({"views": 1}, (0.0, None, 0)),
    "views and a cart": ({"views": 2, "carts": 1, "first_ms": NOW_MS - 60_000}, (60.0, 30.0, 1)),
    "an order without a cart": ({"views": 1, "purchases": 1, "first_ms": NOW_MS - 60_000}, (60.0, 60.0, 2)),
}


@pytest.mark.parametrize(("counts", "expected"), SESSION_ROWS.values(), ids=SESSION_ROWS)
def test_a_visits_length_dwell_and_stage(counts: dict[str, Any], expected: tuple[float, float | None, int | None]) -> None:
    row = SessionRow(session_id="s", **{"first_ms": NOW_MS, "updated_ms": NOW_MS, "seen_ms": NOW_MS} | counts)
    told = of_session(row, NOW_MS + 2000)
    assert (told["length_s"], told["mean_dwell_s"], told["funnel_stage"]) == expected
    assert (told["idle_s"], told["age_s"]) == (2.0, 2.0)


def test_a_shopper_beside_an_item() -> None:
    user = shopper(step(0, "lamp", "view", 10.0, "lamps"), step(0, "lamp", "cart", 10.0, "lamps"), step(0, "rug", "view", 20.0, "rugs"))
    told = of_both(user, item(category="lamps", price=24.0))
    assert (told["affinity"], told["price_fit"], told["seen_before"]) == (0.8, 2.0, 2)
    assert of_both(user, item(category="sofas"), "sofa") == {"affinity": 0.0, "price_fit": None, "seen_before": 0}
    assert of_both(user, item(price=24.0), "rug") == {"affinity": None, "price_fit": 2.0, "seen_before": 1}
    assert of_both(shopper(), item(category="lamps", price=24.0)) == {"affinity": None, "price_fit": None, "seen_before": 0}
    assert of_both(user, None) == {"affinity": None, "price_fit": None, "seen_before": 2}
    assert of_both(None, item(category="lamps")) == dict.fromkeys(("affinity", "price_fit", "seen_before"))


def test_a_price_taste_of_nothing_fits_no_price() -> None:
    assert of_both(shopper(step(0, price=0.0)), item(price=24.0))["price_fit"] is None


@pytest.mark.parametrize("view", ASKED_VIEWS, ids=TABLES)
def test_everything_is_none_without_a_row_and_past_the_time_to_live(view: AskedView) -> None:
    rows = {
        USERS.name: shopper(step(0, price=1.0, category="lamps")),
        ITEMS.name: item(),
        SESSIONS.name: SessionRow(session_id="s", views=1, seen_ms=NOW_MS),
    }
    whole = [rows[base.name] for base in view.of]
    last_ms = NOW_MS + min(base.ttl_s for base in view.of) * 1000
    for values in ([None] * len(whole), whole):
        for asked_ms in (last_ms, last_ms + 1):
            told = view.values(values, ["lamp"] * len(values), asked_ms, taste_of_user)
            assert len(told) == len(view.columns)
            assert (set(map(str, told)) == {"None"}) is (values is not whole or asked_ms > last_ms)


def test_the_longer_lived_item_alone_tells_nothing_of_the_pair() -> None:
    asked_ms = NOW_MS + USERS.ttl_s * 1000 + 1
    assert of_both(shopper(step(0)), item(), asked_ms=asked_ms) == dict.fromkeys(("affinity", "price_fit", "seen_before"))
    gone = item(seen_ms=NOW_MS - ITEMS.ttl_s * 1000 - 1, category="lamps", price=1.0)
    assert of_both(shopper(step(0, price=2.0, category="lamps")), gone) == {"affinity": None, "price_fit": None, "seen_before": 1}


times = st.integers(0, 40 * DAY_MS).map(lambda ago_ms: NOW_MS - ago_ms)
entries = st.builds(
    HistoryEntry,
    st.sampled_from(["lamp", "rug", "sofa"]),
    st.sampled_from(["view", "cart", "purchase"]),
    times,
    st.none() | st.floats(0, 1e6),
    st.none() | st.sampled_from(["", "a", "b", "c", "d", "e", "f", "g"]),
)
histories = st.lists(entries, max_size=50).map(lambda steps: sorted(steps, key=lambda entry: entry.time_ms))


@st.composite
def pane_lists(draw: st.DrawFn) -> tuple[list[Pane], int]:
    """Draw panes as a row holds them, and the newest time among them."""
    panes: list[Pane] = []
    newest_ms = 0
    for time_ms in draw(st.lists(times, max_size=40)):
        counts = draw(st.tuples(*[st.integers(0, 3)] * 3))
        panes = add_to_panes(panes, newest_ms, time_ms, views=counts[0], carts=counts[1], purchases=counts[2], amount=counts[2] * 0.1)
        newest_ms = max(newest_ms, time_ms)
    return panes, newest_ms


@settings(deadline=None)
@given(pane_lists(), st.integers(-DAY_MS, 10 * DAY_MS))
def test_all_windows_in_one_pass_are_those_of_each(drawn: tuple[list[Pane], int], later_ms: int) -> None:
    panes, newest_ms = drawn
    asked_ms = max(0, newest_ms + later_ms)
    assert windows(panes, asked_ms) == [window(panes, name, asked_ms) for name in WINDOWS]


@settings(deadline=None)
@given(histories, pane_lists(), st.integers(-50 * DAY_MS, 50 * DAY_MS), st.integers(-MINUTE_MS, MINUTE_MS))
def test_no_time_of_asking_makes_an_age_negative_or_a_share_strange(
    history: list[HistoryEntry], drawn: tuple[list[Pane], int], later_ms: int, ahead_ms: int
) -> None:
    panes, newest_ms = drawn
    updated_ms = max([newest_ms, *(entry.time_ms for entry in history)])
    row = UserRow(shopper_id="ada", history=history, panes=panes, updated_ms=updated_ms, seen_ms=max(0, updated_ms + ahead_ms))
    asked_ms = max(0, row.seen_ms + later_ms)
    told = of_user(row, asked_ms)
    if age_ms(row, asked_ms) > USERS.ttl_s * 1000:
        assert set(told.values()) == {None}
        return
    assert min(told["age_s"], told["idle_s"], told["visit_length_s"]) >= 0
    assert told["views_1h"] <= told["views_24h"] <= told["views_7d"]
    assert len(told["taste_categories"]) == len(told["taste_weights"]) <= CATEGORIES_TOLD
    assert told["taste_weights"] == sorted(told["taste_weights"], reverse=True)
    assert sum(told["taste_weights"]) <= 1 + 1e-9
    assert told["visit_steps"] <= len(history)
    assert (told["visit_steps"] == 0) == (told["funnel_stage"] is None)
    prices = [entry.price for entry in history if entry.price is not None]
    if prices:
        assert min(prices) - 1e-6 <= told["price_taste"] <= max(prices) + 1e-6
        assert 0 <= told["price_spread"] <= max(prices) - min(prices) + 1e-6
    else:
        assert (told["price_taste"], told["price_spread"]) == (None, None)


@settings(deadline=None)
@given(histories, st.integers(0, 20 * DAY_MS), st.integers(0, 2**31))
def test_the_taste_does_not_depend_on_the_time_of_asking_and_everything_is_alike_asked_twice(
    history: list[HistoryEntry], later_ms: int, offset: int
) -> None:
    row = shopper(*history)
    now, later = of_user(row), of_user(row, NOW_MS + later_ms)
    for name in ("taste_categories", "taste_weights", "price_taste", "price_spread"):
        assert now[name] == later[name]
    assert of_user(row) == now


@settings(deadline=None)
@given(histories, pane_lists())
def test_a_row_as_readers_decode_it_tells_the_same(history: list[HistoryEntry], drawn: tuple[list[Pane], int]) -> None:
    user = shopper(*history, panes=drawn[0], recent={"clicks/0": b"0123456789abcdef"})
    stored = msgspec.json.decode(encode(user), type=StoredUser)
    assert [comparable(value) for value in USERS.values(stored)] == [comparable(value) for value in USERS.values(user)]
    assert user_now(stored, NOW_MS) == user_now(user, NOW_MS)
    good = item(panes=drawn[0], price=3.0, lowest_price=1.0, highest_price=4.0, category="a")
    stored_item = msgspec.json.decode(encode(good), type=StoredItem)
    assert ITEMS.values(stored_item) == ITEMS.values(good)
    assert item_now(stored_item, NOW_MS) == item_now(good, NOW_MS)
    assert user_item(stored, stored_item, "lamp", NOW_MS) == user_item(user, good, "lamp", NOW_MS)


def test_a_visit_as_readers_decode_it_tells_the_same() -> None:
    row = SessionRow(session_id="s", views=2, spend=1.5, first_ms=NOW_MS - 5, updated_ms=NOW_MS, seen_ms=NOW_MS, offsets={"clicks/0": 3})
    stored = msgspec.json.decode(encode(row), type=StoredSession)
    assert SESSIONS.values(stored) == SESSIONS.values(row)
    assert session_now(stored, NOW_MS) == session_now(row, NOW_MS)


def test_readers_decode_every_column_that_a_row_has() -> None:
    """A new column of a row must not be read as its default."""
    for kind, stored, left_out in (
        (UserRow, StoredUser, {"shopper_id", "newest_ms", "recent", "cause"}),
        (ItemRow, StoredItem, {"item_id", "newest_ms", "price_ms", "category_ms"}),
        (SessionRow, StoredSession, {"session_id", "recent"}),
    ):
        names = {field.encode_name for field in msgspec.structs.fields(kind)}
        assert names - {field.encode_name for field in msgspec.structs.fields(stored)} == left_out
