"""What a shop publishes: clicks and purchases."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.schemas.fields import Amount, Currency, Id, ShortText, TimeMs

GUEST_PREFIX = "session:"

Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
Position = Annotated[int, Meta(ge=0, le=1_000_000, description="place in the list that was shown, the first is 0")]


class Attribution(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where on the shop's pages an event came from, so that its recommendation can be credited."""

    recommendation_id: Id | None = None
    position: Position | None = None
    surface: ShortText | None = None
    query: ShortText | None = None


class Click(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="click"):
    """A shopper looked at an item or put it into the cart."""

    event_id: Id
    event_time_ms: TimeMs
    item_id: Id
    user_id: Id | None = None
    session_id: Id | None = None
    action: Literal["view", "cart"] = "view"
    price: Amount | None = None
    category: ShortText | None = None
    attribution: Attribution | None = None


class OrderLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One item of an order. `unit_price` is in the order's currency."""

    item_id: Id
    quantity: Quantity = 1
    unit_price: Amount | None = None


class Purchase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="purchase"):
    """A shopper paid for an order."""

    event_id: Id
    event_time_ms: TimeMs
    order_id: Id
    lines: Annotated[list[OrderLine], Meta(min_length=1, max_length=1000)]
    currency: Currency
    total: Amount | None = None
    user_id: Id | None = None
    session_id: Id | None = None
    attribution: Attribution | None = None


Event = Click | Purchase


def shopper_id(event: Event) -> str:
    """Return the key under which all events of one shopper travel: the user id, or `session:` and the session id of a guest."""
    return event.user_id if event.user_id is not None else f"{GUEST_PREFIX}{event.session_id}"
