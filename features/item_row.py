"""What an event does to the rows of its items: pure functions, and the change records that carry it there."""

from headrace.features.place import Place
from headrace.features.windows import DAY_MS, add_to_panes, decay, is_late
from headrace.schemas import Click, Event, ItemChange, ItemRow, OrderLine

HALF_LIFE_MS = DAY_MS


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
                published_ms=place.published_ms,
                price=event.price,
                category=event.category,
            )
        ]
    lines: dict[str, list[OrderLine]] = {}
    for line in event.lines:
        lines.setdefault(line.item_id, []).append(line)
    return [
        ItemChange(
            item_id=item_id,
            kind="purchase",
            quantity=sum(line.quantity for line in same),
            event_time_ms=event.event_time_ms,
            source=place.source,
            offset=place.offset,
            published_ms=place.published_ms,
            price=next((line.unit_price for line in same if line.unit_price is not None), None),
            amount=sum((line.quantity * line.unit_price for line in same if line.unit_price is not None), 0.0),
        )
        for item_id, same in lines.items()
    ]


def fold_item(row: ItemRow, change: ItemChange) -> ItemRow:
    """Return the row after the change; the same row where that event has been taken in before.

    The offset compared is that of the event, not of the change record: a worker that repeats its work after a crash sends
    changes again, and those are known. What is later than the watermark is left out of the windows, and counted as late.
    """
    source = change.source
    if change.offset <= row.offsets.get(source, -1):
        return row
    time_ms = change.event_time_ms
    views, carts, purchases = _COUNTS[change.kind]
    newest_ms = row.newest_ms.get(source, 0)
    late = is_late(time_ms, newest_ms)
    panes = row.panes
    if not late:
        panes = add_to_panes(panes, row.updated_ms, time_ms, views=views, carts=carts, purchases=purchases, amount=change.amount)
    lag_ms = time_ms - row.updated_ms
    kept, weight = (decay(lag_ms, HALF_LIFE_MS), 1.0) if lag_ms > 0 else (1.0, decay(-lag_ms, HALF_LIFE_MS))
    price, price_ms, lowest, highest = row.price, row.price_ms, row.lowest_price, row.highest_price
    if change.price is not None:
        # Of two prices at the same time the higher one is kept, whichever came first.
        if price is None or (time_ms, change.price) > (price_ms, price):
            price, price_ms = change.price, time_ms
        lowest = change.price if lowest is None else min(lowest, change.price)
        highest = change.price if highest is None else max(highest, change.price)
    category, category_ms = row.category, row.category_ms
    if change.category is not None and (category is None or (time_ms, change.category) > (category_ms, category)):
        category, category_ms = change.category, time_ms
    return ItemRow(
        item_id=row.item_id,
        views=row.views + views,
        carts=row.carts + carts,
        purchases=row.purchases + purchases,
        units=row.units + (change.quantity if purchases else 0),
        revenue=row.revenue + change.amount,
        decayed_views=row.decayed_views * kept + weight * views,
        decayed_purchases=row.decayed_purchases * kept + weight * purchases,
        panes=panes,
        price=price,
        price_ms=price_ms,
        lowest_price=lowest,
        highest_price=highest,
        category=category,
        category_ms=category_ms,
        late=row.late + late,
        updated_ms=max(row.updated_ms, time_ms),
        seen_ms=max(row.seen_ms, change.published_ms),
        offsets={**row.offsets, source: change.offset},
        newest_ms={**row.newest_ms, source: max(newest_ms, time_ms)},
    )


_COUNTS = {"view": (1, 0, 0), "cart": (0, 1, 0), "purchase": (0, 0, 1)}
