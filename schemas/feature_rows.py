"""The rows that the feature worker keeps, as they travel on their changelog topics and lie in the online store.

A row is a function of the events that it has taken in, whatever the order in which partitions were read: sums, maxima, and
lists in an order of their own. So any worker that has read the same events holds the same row.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.schemas.fields import END, Amount, Count, Id, NewestTimes, Offsets, RecentEvents, ShortText, TimeMs

ShopperId = Annotated[str, Meta(min_length=1, max_length=136, description="a user id, or 'session:' and a guest's session id")]
Kind = Literal["view", "cart", "purchase"]


class Cause(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The newest event that a message follows from. `published_ms` is the time at which its publisher sent it."""

    event_id: Id
    published_ms: TimeMs


class HistoryEntry(Struct, frozen=True, array_like=True, gc=False):
    """One step of a shopper: what was touched, how, and the event's own time; price and category where the event told them."""

    item_id: Id
    kind: Kind
    time_ms: TimeMs
    price: Amount | None = None
    category: ShortText | None = None


class Pane(Struct, frozen=True, array_like=True, gc=False):
    """What happened in one piece of time, which begins at `start_ms`; `amount` is spend or revenue, not converted.

    `features/windows.py` tells how long a pane is and how windows are made of them.
    """

    start_ms: TimeMs
    views: Count = 0
    carts: Count = 0
    purchases: Count = 0
    amount: float = 0.0


class UserRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What is known of one shopper. `history` holds the last 50 steps, oldest first; `steps` counts all there ever were.

    Decayed counts halve every 7 days of event time and are valid at `updated_ms`. By source partition: `offsets` holds the last
    offset taken in, `newest_ms` the newest event time, and `recent` the last 128 events, by which one that its publisher sent
    twice is known. `seen_ms` is the time at which the newest event was published.
    """

    shopper_id: ShopperId
    history: list[HistoryEntry] = []
    steps: Count = 0
    views: Count = 0
    carts: Count = 0
    purchases: Count = 0
    spend: float = 0.0
    decayed_views: float = 0.0
    decayed_carts: float = 0.0
    decayed_purchases: float = 0.0
    decayed_spend: float = 0.0
    panes: list[Pane] = []
    last_purchase_ms: TimeMs | None = None
    late: Count = 0
    repeated: Count = 0
    updated_ms: TimeMs = 0
    seen_ms: TimeMs = 0
    offsets: Offsets = {}
    newest_ms: NewestTimes = {}
    recent: RecentEvents = {}
    cause: Cause | None = None


class ItemChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What one event did to one item, sent on by the worker that owns the shopper to the one that owns the item.

    `source` is the topic and partition ('clicks/3') and `offset` the place of the event itself. An event touches an
    item at most once: the lines of an order that name the same item arrive as one change with their `quantity` added, and
    with what they cost together as `amount`.
    """

    item_id: Id
    kind: Kind
    quantity: Count = 1
    event_time_ms: TimeMs
    source: Annotated[str, Meta(pattern=rf"^[a-zA-Z0-9._-]+/[0-9]+{END}")]
    offset: Count
    published_ms: TimeMs = 0
    price: Amount | None = None
    amount: float = 0.0
    category: ShortText | None = None


class ItemRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What is known of one item. The decayed counts halve every 24 h of event time and are valid at `updated_ms`.

    `price` and `category` are those of the newest event that told them, at `price_ms` and `category_ms`. `offsets` and
    `newest_ms` are as in `UserRow`, of the events themselves.
    """

    item_id: Id
    views: Count = 0
    carts: Count = 0
    purchases: Count = 0
    units: Count = 0
    revenue: float = 0.0
    decayed_views: float = 0.0
    decayed_purchases: float = 0.0
    panes: list[Pane] = []
    price: Amount | None = None
    price_ms: TimeMs = 0
    lowest_price: Amount | None = None
    highest_price: Amount | None = None
    category: ShortText | None = None
    category_ms: TimeMs = 0
    late: Count = 0
    updated_ms: TimeMs = 0
    seen_ms: TimeMs = 0
    offsets: Offsets = {}
    newest_ms: NewestTimes = {}


class SessionRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What is known of one visit, by the session id that its events carry. It lives in the online store only.

    It knows the events that were sent twice by itself, as a user row does, so that it can be made anew from its events alone.
    """

    session_id: Id
    views: Count = 0
    carts: Count = 0
    purchases: Count = 0
    spend: float = 0.0
    first_ms: TimeMs = 0
    updated_ms: TimeMs = 0
    seen_ms: TimeMs = 0
    offsets: Offsets = {}
    recent: RecentEvents = {}


Row = UserRow | ItemRow | SessionRow
