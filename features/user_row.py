"""What an event does to a shopper's row: a pure fold `(row, event, place) -> row`."""

from msgspec.structs import replace

from headrace.features.place import Place, remember, was_counted
from headrace.features.windows import DAY_MS, add_to_panes, decay, is_late
from headrace.schemas import Cause, Click, Event, HistoryEntry, Purchase, UserRow

HISTORY_LENGTH = 50
HALF_LIFE_MS = 7 * DAY_MS


def fold_user(row: UserRow, event: Event, place: Place) -> UserRow:
    """Return the row after the event; the same row where it has been taken in before.

    An event is known by its place: whatever lies at or below the row's offset of that partition is in the row already.
    So a replay changes nothing, however often it happens. One whose id is among the last 128 of its partition was sent twice
    by its publisher: it is counted as repeated and changes nothing else. One that is later than the watermark is left out of
    the windows, and counted as late.
    """
    source = place.source
    if place.offset <= row.offsets.get(source, -1):
        return row
    offsets = {**row.offsets, source: place.offset}
    recent = remember(row.recent.get(source, b""), event.event_id, place.offset)
    if recent is None:
        return replace(row, repeated=row.repeated + 1, offsets=offsets)
    time_ms = event.event_time_ms
    entries = entries_of(event)
    if isinstance(event, Click):
        carts = 1 if event.action == "cart" else 0
        views, purchases, amount = 1 - carts, 0, 0.0
    else:
        views, carts, purchases, amount = 0, 0, 1, amount_of(event)
    newest_ms = row.newest_ms.get(source, 0)
    late = is_late(time_ms, newest_ms)
    panes = row.panes
    if not late:
        panes = add_to_panes(panes, row.updated_ms, time_ms, views=views, carts=carts, purchases=purchases, amount=amount)
    # Seen from the newer of the two times: what is there fades, or the event has faded already.
    lag_ms = time_ms - row.updated_ms
    kept, weight = (decay(lag_ms, HALF_LIFE_MS), 1.0) if lag_ms > 0 else (1.0, decay(-lag_ms, HALF_LIFE_MS))
    return UserRow(
        shopper_id=row.shopper_id,
        history=_in_order(row.history, entries)[-HISTORY_LENGTH:],
        steps=row.steps + len(entries),
        views=row.views + views,
        carts=row.carts + carts,
        purchases=row.purchases + purchases,
        spend=row.spend + amount,
        decayed_views=row.decayed_views * kept + weight * views,
        decayed_carts=row.decayed_carts * kept + weight * carts,
        decayed_purchases=row.decayed_purchases * kept + weight * purchases,
        decayed_spend=row.decayed_spend * kept + weight * amount,
        panes=panes,
        last_purchase_ms=max(time_ms, row.last_purchase_ms or 0) if purchases else row.last_purchase_ms,
        late=row.late + late,
        repeated=row.repeated,
        updated_ms=max(row.updated_ms, time_ms),
        seen_ms=max(row.seen_ms, place.published_ms),
        offsets=offsets,
        newest_ms={**row.newest_ms, source: max(newest_ms, time_ms)},
        recent={**row.recent, source: recent},
        cause=Cause(event_id=event.event_id, published_ms=place.published_ms),
    )


def counted(row: UserRow, event: Event, place: Place) -> bool:
    """Whether the row counts this event, at this place: it was neither sent twice by its publisher nor is it still to come.

    The answer is sure for the last 128 events of the shopper in each partition.
    """
    return was_counted(row.recent.get(place.source, b""), event.event_id, place.offset)


def entries_of(event: Event) -> list[HistoryEntry]:
    """Return the steps that an event adds to its shopper's history."""
    if isinstance(event, Click):
        return [HistoryEntry(event.item_id, event.action, event.event_time_ms, event.price, event.category)]
    return [HistoryEntry(line.item_id, "purchase", event.event_time_ms, line.unit_price) for line in event.lines]


def amount_of(order: Purchase) -> float:
    """Return what an order cost: its total, or where that is not told the sum of its lines with a price."""
    if order.total is not None:
        return order.total
    return sum((line.quantity * line.unit_price for line in order.lines if line.unit_price is not None), 0.0)


def _in_order(history: list[HistoryEntry], entries: list[HistoryEntry]) -> list[HistoryEntry]:
    """Return the history with the entries where their event times put them: purchases and clicks arrive on topics of their own.

    Of what happened at the same time, purchases come last, whichever topic was read first; the rest stays as it arrived.
    """
    together = history + entries
    if history and _moment(entries[0]) < _moment(history[-1]):
        together.sort(key=_moment)
    return together


def _moment(entry: HistoryEntry) -> tuple[int, bool]:
    return entry.time_ms, entry.kind == "purchase"
