"""What an event does to the rows of its items: pure functions, and the change records that carry it there."""

from msgspec.structs import replace

from headrace.features.user_row import Place
from headrace.schemas import Click, Event, ItemChange, ItemRow

HALF_LIFE_MS = 24 * 3600 * 1000


def changes_of(event: Event, place: Place) -> list[ItemChange]:
    """Return one change for each item that the event touches; the lines of an order that name the same item are added up."""
    if isinstance(event, Click):
        return [
            ItemChange(
                item_id=event.item_id,
                kind=event.action,
                event_time_ms=event.event_time_ms,
                source=place.source,
                offset=place.offset,
                price=event.price,
                category=event.category,
            )
        ]
    quantity: dict[str, int] = {}
    price: dict[str, float | None] = {}
    for line in event.lines:
        quantity[line.item_id] = quantity.get(line.item_id, 0) + line.quantity
        price[line.item_id] = price.get(line.item_id) if line.unit_price is None else line.unit_price
    return [
        ItemChange(
            item_id=item_id,
            kind="purchase",
            quantity=units,
            event_time_ms=event.event_time_ms,
            source=place.source,
            offset=place.offset,
            price=price[item_id],
        )
        for item_id, units in quantity.items()
    ]


def fold_item(row: ItemRow, change: ItemChange) -> ItemRow:
    """Return the row after the change; the same row where it has been taken in before.

    The offset that counts is that of the event itself, not that of the change record: a worker that starts again after a
    crash sends changes a second time, but always in the order of their events.
    """
    if change.offset <= row.offsets.get(change.source, -1):
        return row
    viewed = 1 if change.kind == "view" else 0
    bought = 1 if change.kind == "purchase" else 0
    latest_ms = max(row.updated_ms, change.event_time_ms)
    fading = decay(latest_ms - row.updated_ms)
    weight = decay(latest_ms - change.event_time_ms)
    return replace(
        row,
        views=row.views + viewed,
        carts=row.carts + (1 if change.kind == "cart" else 0),
        purchases=row.purchases + bought,
        units=row.units + (change.quantity if bought else 0),
        decayed_views=row.decayed_views * fading + viewed * weight,
        decayed_purchases=row.decayed_purchases * fading + bought * weight,
        price=row.price if change.price is None else change.price,
        category=row.category if change.category is None else change.category,
        updated_ms=latest_ms,
        offsets=row.offsets | {change.source: change.offset},
    )


def decay(age_ms: int) -> float:
    """Return what is left of a count of 1 after `age_ms` of event time."""
    return float(0.5 ** (age_ms / HALF_LIFE_MS))
