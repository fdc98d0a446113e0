"""Features that depend on the time of asking, computed from stored rows: ages, windows that end now, tastes, trends.

Each is a pure function of rows and `asked_ms`, written once: Feast's on-demand views (`features/definitions.py`) and our own
reader (`features/reader.py`) both call it. A value is None where the row is missing, where it is older than its time to live,
and where it cannot be known. A time of asking before the row is taken as that of the row, so that no age is negative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.features.columns import ITEMS, SESSIONS, USERS, Column, View
from headrace.features.stored_rows import StoredItem, StoredSession, StoredUser
from headrace.features.taste import STAGES, Taste, taste_of, visit_of
from headrace.features.windows import DAY_MS, WINDOWS, windows
from headrace.schemas import ItemRow, SessionRow, UserRow

AnyUser = UserRow | StoredUser
AnyItem = ItemRow | StoredItem
AnySession = SessionRow | StoredSession
AnyRow = AnyUser | AnyItem | AnySession
TasteOf = Callable[[AnyUser], Taste]

CATEGORIES_TOLD = 5


@dataclass(frozen=True)
class AskedView:
    """One view that is computed when it is asked for.

    `of` are the stored views that it needs. `values(rows, entities, asked_ms, taste)` returns the values of `columns`, in their
    order, given the rows of these views, the ids that they were asked by, and a way to a shopper's taste.
    """

    name: str
    of: tuple[View, ...]
    columns: tuple[Column, ...]
    values: Callable[[Sequence[Any], Sequence[str], int, TasteOf], Sequence[Any]]


def taste_of_user(row: AnyUser) -> Taste:
    """Return what a shopper's history tells. Whoever asks for one shopper many times may keep it."""
    return taste_of(row.history)


def age_ms(row: AnyRow, asked_ms: int) -> int:
    """Return how long before `asked_ms` the newest event of the row was published; 0 for a row that is newer."""
    return max(0, asked_ms - row.seen_ms)


def is_over(view: View, row: AnyRow, asked_ms: int) -> bool:
    """Whether the row is older than its view's time to live."""
    return age_ms(row, asked_ms) > view.ttl_s * 1000


def user_now(row: AnyUser | None, asked_ms: int, taste_of_user: TasteOf = taste_of_user) -> Sequence[Any]:
    """Return the values of `USER_NOW.columns`."""
    if row is None or is_over(USERS, row, asked_ms):
        return _NO_USER
    at_ms = _at(row, asked_ms)
    taste = taste_of_user(row)
    # The heaviest first; of equal ones in the order of their names.
    best = sorted(taste.shares.items(), key=lambda share: (-share[1], share[0]))[:CATEGORIES_TOLD]
    return (
        *_windows(row, at_ms),
        None if row.last_purchase_ms is None else (at_ms - row.last_purchase_ms) / DAY_MS,
        [category for category, _ in best],
        [share for _, share in best],
        taste.price,
        taste.spread,
        *visit_of(row.history, at_ms),
        *_idle_and_age(row, asked_ms),
    )


def item_now(row: AnyItem | None, asked_ms: int) -> Sequence[Any]:
    """Return the values of `ITEM_NOW.columns`."""
    if row is None or is_over(ITEMS, row, asked_ms):
        return _NO_ITEM
    counts = _windows(row, _at(row, asked_ms))
    views_24h, views_7d = counts[1:3]
    return (
        *counts,
        row.purchases / row.views if row.views else None,
        (views_24h + 1) / (views_7d / 7 + 1),
        _position(row.price, row.lowest_price, row.highest_price),
        age_ms(row, asked_ms) / 1000,
    )


def session_now(row: AnySession | None, asked_ms: int) -> Sequence[Any]:
    """Return the values of `SESSION_NOW.columns`."""
    if row is None or is_over(SESSIONS, row, asked_ms):
        return _NO_SESSION
    counts = row.views, row.carts, row.purchases
    length_s = (row.updated_ms - row.first_ms) / 1000
    steps = sum(counts)
    stage = max((stage for stage, count in zip(STAGES.values(), counts, strict=True) if count), default=None)
    return (length_s, length_s / (steps - 1) if steps > 1 else None, stage, *_idle_and_age(row, asked_ms))


def user_item(
    user: AnyUser | None, item: AnyItem | None, item_id: str, asked_ms: int, taste_of_user: TasteOf = taste_of_user
) -> Sequence[Any]:
    """Return the values of `USER_ITEM.columns`."""
    if user is None or is_over(USERS, user, asked_ms):
        return None, None, None
    seen_before = [entry.item_id for entry in user.history].count(item_id)
    if item is None or is_over(ITEMS, item, asked_ms):
        return None, None, seen_before
    taste = taste_of_user(user)
    affinity = taste.shares.get(item.category, 0.0) if item.category and taste.shares else None
    price_fit = item.price / taste.price if item.price is not None and taste.price else None
    return affinity, price_fit, seen_before


def _at(row: AnyRow, asked_ms: int) -> int:
    """Return the time at which windows end: that of asking, unless the row knows of a later one."""
    return max(asked_ms, row.seen_ms, row.updated_ms)


def _windows(row: AnyUser | AnyItem, at_ms: int) -> tuple[Any, ...]:
    """Return views, carts, purchases and amounts, each in the three windows, which end at `at_ms`."""
    sums = windows(row.panes, at_ms)
    return (
        *(total.views for total in sums),
        *(total.carts for total in sums),
        *(total.purchases for total in sums),
        *(total.amount for total in sums),
    )


def _idle_and_age(row: AnyRow, asked_ms: int) -> tuple[float, float]:
    return (_at(row, asked_ms) - row.updated_ms) / 1000, age_ms(row, asked_ms) / 1000


def _position(price: float | None, lowest: float | None, highest: float | None) -> float | None:
    if price is None or lowest is None or highest is None or lowest == highest:
        return None
    return (price - lowest) / (highest - lowest)


def _of_windows(amount: str) -> tuple[Column, ...]:
    counts = (("views", "events", "views"), ("carts", "events", "cart additions"), ("purchases", "orders", "orders"))
    spans = {"1h": "1 h", "24h": "24 h", "7d": "7 d"}
    return (
        *(Column(f"{name}_{key}", "int64_val", unit, what, spans[key]) for name, unit, what in counts for key in WINDOWS),
        *(Column(f"{amount}_{key}", "double_val", "money", f"{amount}, not converted between currencies", spans[key]) for key in WINDOWS),
    )


_AGE = Column("age_s", "double_val", "s", "time since the row's newest event was published")
_IDLE = Column("idle_s", "double_val", "s", "time since the newest event, by its own time")

USER_NOW = AskedView(
    "user_now",
    (USERS,),
    (
        *_of_windows("spend"),
        Column("days_since_purchase", "double_val", "days", "time since the newest order; null without one"),
        Column(
            "taste_categories",
            "string_list_val",
            "",
            f"the {CATEGORIES_TOLD} categories with the most weight, heaviest first: a view weighs 1, a cart addition 3, a purchase 5",
            "last 50 steps, half-life 7 d",
        ),
        Column("taste_weights", "double_list_val", "share", "their parts of the weight of all categories", "last 50 steps, half-life 7 d"),
        Column("price_taste", "double_val", "money", "mean price of the steps, weighted likewise", "last 50 steps, half-life 7 d"),
        Column("price_spread", "double_val", "money", "standard deviation around it", "last 50 steps, half-life 7 d"),
        Column("visit_length_s", "double_val", "s", "from the first step to the last", "visit"),
        Column("visit_steps", "int64_val", "steps", "steps, of the last 50; 0 where the last is longer ago than a pause", "visit"),
        Column("mean_dwell_s", "double_val", "s", "mean time from one step to the next; null of a single one", "visit"),
        Column("funnel_stage", "int64_val", "0 view, 1 cart, 2 purchase", "the furthest that it came; null without a visit", "visit"),
        _IDLE,
        _AGE,
    ),
    lambda rows, entities, asked_ms, taste: user_now(rows[0], asked_ms, taste),
)
ITEM_NOW = AskedView(
    "item_now",
    (ITEMS,),
    (
        *_of_windows("revenue"),
        Column("conversion", "double_val", "orders per view", "orders ever over views ever; null without views"),
        Column("trend", "double_val", "ratio", "views of 24 h over those of a mean day of the last 7, 1 added to both", "24 h, 7 d"),
        Column("price_position", "double_val", "0 to 1", "the price between the lowest and the highest seen; null where these are equal"),
        _AGE,
    ),
    lambda rows, entities, asked_ms, taste: item_now(rows[0], asked_ms),
)
SESSION_NOW = AskedView(
    "session_now",
    (SESSIONS,),
    (
        Column("length_s", "double_val", "s", "from the first event to the last"),
        Column("mean_dwell_s", "double_val", "s", "mean time from one event to the next; null of a single one"),
        Column("funnel_stage", "int64_val", "0 view, 1 cart, 2 purchase", "the furthest that the visit came"),
        _IDLE,
        _AGE,
    ),
    lambda rows, entities, asked_ms, taste: session_now(rows[0], asked_ms),
)
USER_ITEM = AskedView(
    "user_item",
    (USERS, ITEMS),
    (
        Column(
            "affinity",
            "double_val",
            "share",
            "the part of the shopper's taste that falls on the item's category; null where either is not known",
            "last 50 steps, half-life 7 d",
        ),
        Column(
            "price_fit",
            "double_val",
            "ratio",
            "the item's price over the shopper's price_taste; null where either is not known",
            "last 50 steps, half-life 7 d",
        ),
        Column("seen_before", "int64_val", "steps", "steps of the shopper that touched the item", "last 50 steps"),
    ),
    lambda rows, entities, asked_ms, taste: user_item(rows[0], rows[1], entities[1], asked_ms, taste),
)
ASKED_VIEWS = (USER_NOW, ITEM_NOW, SESSION_NOW, USER_ITEM)

_NO_USER = [None] * len(USER_NOW.columns)
_NO_ITEM = [None] * len(ITEM_NOW.columns)
_NO_SESSION = [None] * len(SESSION_NOW.columns)
