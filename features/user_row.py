"""What an event does to a shopper's row: a pure fold `(row, event, place) -> row`."""

from dataclasses import dataclass

from msgspec.structs import replace

from headrace.schemas import Cause, Click, Event, HistoryEntry, UserRow

HISTORY_LENGTH = 50


@dataclass(frozen=True)
class Place:
    """Where an event lies: `source` is 'topic/partition'. `published_ms` is the time at which it was sent."""

    source: str
    offset: int
    published_ms: int


def fold_user(row: UserRow, event: Event, place: Place) -> UserRow:
    """Return the row after the event; the same row where it has been taken in before.

    An event is known by its place: whatever lies at or below the row's offset of that partition is in the row already.
    So a replay changes nothing, however often it happens.
    """
    if place.offset <= row.offsets.get(place.source, -1):
        return row
    entries = entries_of(event)
    bought = 0 if isinstance(event, Click) else 1
    carts = 1 if isinstance(event, Click) and event.action == "cart" else 0
    return replace(
        row,
        history=_in_order(row.history, entries)[-HISTORY_LENGTH:],
        steps=row.steps + len(entries),
        views=row.views + 1 - bought - carts,
        carts=row.carts + carts,
        purchases=row.purchases + bought,
        updated_ms=max(row.updated_ms, event.event_time_ms),
        offsets=row.offsets | {place.source: place.offset},
        cause=Cause(event_id=event.event_id, published_ms=place.published_ms),
    )


def _in_order(history: list[HistoryEntry], entries: list[HistoryEntry]) -> list[HistoryEntry]:
    """Return the history with the entries where their event times put them: purchases and clicks arrive on topics of their own."""
    together = history + entries
    if history and entries[0].time_ms < history[-1].time_ms:
        together.sort(key=lambda entry: entry.time_ms)
    return together


def entries_of(event: Event) -> list[HistoryEntry]:
    """Return the steps that an event adds to its shopper's history."""
    if isinstance(event, Click):
        return [HistoryEntry(event.item_id, event.action, event.event_time_ms)]
    return [HistoryEntry(line.item_id, "purchase", event.event_time_ms) for line in event.lines]
