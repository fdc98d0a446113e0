"""What an event does to the row of its visit: a pure fold `(row, event, place) -> row`."""

from headrace.features.place import Place, remember
from headrace.features.user_row import amount_of
from headrace.schemas import Click, Event, SessionRow


def fold_session(row: SessionRow, event: Event, place: Place) -> SessionRow:
    """Return the row after the event; the same row where it has been taken in before, or its publisher sent it twice."""
    if place.offset <= row.offsets.get(place.source, -1):
        return row
    recent = remember(row.recent.get(place.source, b""), event.event_id, place.offset)
    if recent is None:
        return row
    is_click = isinstance(event, Click)
    carts = 1 if isinstance(event, Click) and event.action == "cart" else 0
    time_ms = event.event_time_ms
    return SessionRow(
        session_id=row.session_id,
        views=row.views + is_click - carts,
        carts=row.carts + carts,
        purchases=row.purchases + (not is_click),
        spend=row.spend + (0.0 if isinstance(event, Click) else amount_of(event)),
        first_ms=min(row.first_ms, time_ms) if row.offsets else time_ms,
        updated_ms=max(row.updated_ms, time_ms),
        seen_ms=max(row.seen_ms, place.published_ms),
        offsets={**row.offsets, place.source: place.offset},
        recent={**row.recent, place.source: recent},
    )
