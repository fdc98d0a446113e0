"""The rows that the feature worker keeps, as they travel on their changelog topics."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.schemas.fields import END, Amount, Count, Id, Offsets, ShortText, TimeMs

ShopperId = Annotated[str, Meta(min_length=1, max_length=136, description="a user id, or 'session:' and a guest's session id")]
Kind = Literal["view", "cart", "purchase"]
# A step without its time: item id and kind.
Step = tuple[str, str]


class Cause(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest event that a message follows from. `published_ms` is the time at which its publisher sent it."""

    event_id: Id
    published_ms: TimeMs


class HistoryEntry(Struct, frozen=True, array_like=True):
    """One step of a shopper: what was touched, how, and the event's own time."""

    item_id: Id
    kind: Kind
    time_ms: TimeMs


class UserRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one shopper. `history` holds the last 50 steps, oldest first; `steps` counts all there ever were."""

    shopper_id: ShopperId
    history: list[HistoryEntry] = []
    steps: Count = 0
    views: Count = 0
    carts: Count = 0
    purchases: Count = 0
    updated_ms: TimeMs = 0
    offsets: Offsets = {}
    cause: Cause | None = None


class ItemChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one event did to one item, sent on by the worker that owns the shopper to the one that owns the item.

    `source` is the topic and partition ('clicks/3') and `offset` the place of the event itself. An event touches an
    item at most once: the lines of an order that name the same item arrive as one change with their `quantity` added.
    """

    item_id: Id
    kind: Kind
    quantity: Count = 1
    event_time_ms: TimeMs
    source: Annotated[str, Meta(pattern=rf"^[a-zA-Z0-9._-]+/[0-9]+{END}")]
    offset: Count
    price: Amount | None = None
    category: ShortText | None = None


class ItemRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one item. The decayed counts halve every 24 h of event time and are valid at `updated_ms`."""

    item_id: Id
    views: Count = 0
    carts: Count = 0
    purchases: Count = 0
    units: Count = 0
    decayed_views: float = 0.0
    decayed_purchases: float = 0.0
    price: Amount | None = None
    category: ShortText | None = None
    updated_ms: TimeMs = 0
    offsets: Offsets = {}
