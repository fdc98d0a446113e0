"""What a row of each feature view holds, written once: Feast's definitions, the bytes in Redis, the archive and the documents follow it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec.structs import astuple

from headrace.schemas import HistoryEntry, ItemRow, Pane, SessionRow, UserRow

Kind = Literal["int64_val", "double_val", "string_val", "int64_list_val", "double_list_val", "string_list_val"]

USER_VIEW, ITEM_VIEW, SESSION_VIEW = "user_activity", "item_activity", "session_activity"
DAY_S = 24 * 3600

NOT_TOLD = float("nan")


@dataclass(frozen=True)
class Column:
    """One feature: its name, how Feast keeps it, its unit, what it means, and the window or half-life that it covers."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    span: str = ""


@dataclass(frozen=True)
class View:
    """One feature view: its key, its time to live, its columns, and how a row is laid out in them, in their order."""

    name: str
    join_key: str
    ttl_s: int
    columns: tuple[Column, ...]
    values: Callable[[Any], Sequence[Any]]


def user_values(row: UserRow) -> Sequence[Any]:
    """Return the values of `USERS.columns` for a row."""
    return (
        *history_values(row.history),
        row.steps,
        row.views,
        row.carts,
        row.purchases,
        row.spend,
        row.decayed_views,
        row.decayed_carts,
        row.decayed_purchases,
        row.decayed_spend,
        *pane_values(row.panes),
        row.last_purchase_ms,
        row.late,
        row.repeated,
        row.updated_ms,
        row.seen_ms,
        offsets_value(row.offsets),
    )


def item_values(row: ItemRow) -> Sequence[Any]:
    """Return the values of `ITEMS.columns` for a row."""
    return (
        row.views,
        row.carts,
        row.purchases,
        row.units,
        row.revenue,
        row.decayed_views,
        row.decayed_purchases,
        *pane_values(row.panes),
        row.price,
        row.lowest_price,
        row.highest_price,
        row.category,
        row.late,
        row.updated_ms,
        row.seen_ms,
        offsets_value(row.offsets),
    )


def session_values(row: SessionRow) -> Sequence[Any]:
    """Return the values of `SESSIONS.columns` for a row."""
    return (
        row.views,
        row.carts,
        row.purchases,
        row.spend,
        row.first_ms,
        row.updated_ms,
        row.seen_ms,
        offsets_value(row.offsets),
    )


def history_values(history: Sequence[HistoryEntry]) -> tuple[list[Any], ...]:
    """Return item ids, kinds, times, prices and categories side by side; what was not told is NaN or empty."""
    if not history:
        return [], [], [], [], []
    items, kinds, times, prices, categories = zip(*map(astuple, history), strict=True)
    return (
        list(items),
        list(kinds),
        list(times),
        [NOT_TOLD if price is None else price for price in prices],
        [category or "" for category in categories],
    )


def pane_values(panes: Sequence[Pane]) -> tuple[list[Any], ...]:
    """Return starts, views, carts, purchases and amounts side by side."""
    return (
        [pane.start_ms for pane in panes],
        [pane.views for pane in panes],
        [pane.carts for pane in panes],
        [pane.purchases for pane in panes],
        [pane.amount for pane in panes],
    )


def offsets_value(offsets: dict[str, int]) -> str:
    """Return offsets as JSON."""
    return msgspec.json.encode(offsets).decode()


_PANES = (
    Column(
        "pane_starts_ms", "int64_list_val", "ms", "where each pane of the last 7 days begins, oldest first (features/windows.py)", "7 d"
    ),
    Column("pane_views", "int64_list_val", "events", "views in each pane", "7 d"),
    Column("pane_carts", "int64_list_val", "events", "cart additions in each pane", "7 d"),
    Column("pane_purchases", "int64_list_val", "orders", "orders in each pane", "7 d"),
    Column("pane_amounts", "double_list_val", "money", "what was paid in each pane", "7 d"),
)
_AGE = (
    Column("late", "int64_val", "events", "events later than the watermark, which the windows leave out"),
    Column("updated_ms", "int64_val", "ms", "event time of the newest event"),
    Column("seen_ms", "int64_val", "ms", "when the newest event was published; a row's age and time to live count from here"),
)
_OFFSETS = Column("offsets", "string_val", "JSON", "the last offset taken in of each source partition")

USERS = View(
    USER_VIEW,
    "user_id",
    30 * DAY_S,
    (
        Column("history_items", "string_list_val", "item ids", "the last 50 steps, oldest first"),
        Column("history_kinds", "string_list_val", "", "view, cart or purchase, beside history_items"),
        Column("history_times_ms", "int64_list_val", "ms", "event times, beside history_items"),
        Column("history_prices", "double_list_val", "money", "prices, beside history_items; NaN where not told"),
        Column("history_categories", "string_list_val", "", "categories, beside history_items; empty where not told"),
        Column("steps", "int64_val", "steps", "how many steps there ever were in the history"),
        Column("views", "int64_val", "events", "views ever"),
        Column("carts", "int64_val", "events", "cart additions ever"),
        Column("purchases", "int64_val", "orders", "orders ever"),
        Column("spend", "double_val", "money", "what the orders cost, ever, not converted between currencies"),
        Column("decayed_views", "double_val", "events", "views, halved every 7 days, as of updated_ms", "half-life 7 d"),
        Column("decayed_carts", "double_val", "events", "cart additions, halved likewise", "half-life 7 d"),
        Column("decayed_purchases", "double_val", "orders", "orders, halved likewise", "half-life 7 d"),
        Column("decayed_spend", "double_val", "money", "spend, halved likewise", "half-life 7 d"),
        *_PANES,
        Column("last_purchase_ms", "int64_val", "ms", "event time of the newest order; null without one"),
        _AGE[0],
        Column("repeated", "int64_val", "events", "events whose id was there before, which nothing else counts"),
        *_AGE[1:],
        _OFFSETS,
    ),
    user_values,
)
ITEMS = View(
    ITEM_VIEW,
    "item_id",
    90 * DAY_S,
    (
        Column("views", "int64_val", "events", "views ever"),
        Column("carts", "int64_val", "events", "cart additions ever"),
        Column("purchases", "int64_val", "orders", "orders that hold the item, ever"),
        Column("units", "int64_val", "pieces", "pieces sold, ever"),
        Column("revenue", "double_val", "money", "what the sold pieces cost, ever"),
        Column("decayed_views", "double_val", "events", "views, halved every 24 h, as of updated_ms", "half-life 24 h"),
        Column("decayed_purchases", "double_val", "orders", "orders, halved likewise", "half-life 24 h"),
        *_PANES,
        Column("price", "double_val", "money", "the price of the newest event that told one"),
        Column("lowest_price", "double_val", "money", "the lowest price seen"),
        Column("highest_price", "double_val", "money", "the highest price seen"),
        Column("category", "string_val", "", "the category of the newest event that told one"),
        *_AGE,
        _OFFSETS,
    ),
    item_values,
)
SESSIONS = View(
    SESSION_VIEW,
    "session_id",
    DAY_S,
    (
        Column("views", "int64_val", "events", "views in the visit"),
        Column("carts", "int64_val", "events", "cart additions in the visit"),
        Column("purchases", "int64_val", "orders", "orders in the visit"),
        Column("spend", "double_val", "money", "what they cost"),
        Column("first_ms", "int64_val", "ms", "event time of the first event"),
        *_AGE[1:],
        _OFFSETS,
    ),
    session_values,
)
VIEWS = (USERS, ITEMS, SESSIONS)
