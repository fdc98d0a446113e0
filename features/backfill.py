"""History folded in groups: all events of one shopper, then all that they did to one item or visit.

The folds are those of the feature worker. What a worker reads partition by partition is grouped here by entity instead, and each
group is folded by itself, so that groups may lie on many machines. A row depends on the order of the events within a source
partition only; across partitions, and between groups, they are taken in the order of their `moment_ms`, so that the same history
gives the same rows, to the last bit, however it is spread.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from headrace.features.item_row import changes_of, fold_item
from headrace.features.murmur2 import partition_of
from headrace.features.place import Place
from headrace.features.session_row import fold_session
from headrace.features.user_row import fold_user
from headrace.schemas import Click, Event, ItemChange, ItemRow, SessionRow, UserRow, shopper_id
from headrace.schemas.topics import CLICKS, PURCHASES


class PlacedEvent(NamedTuple):
    """An event of history. `moment_ms` is the newest time of publishing in its source partition up to it.

    Sorted by `(moment_ms, source, offset)`, events of one source keep the order of their offsets.
    """

    moment_ms: int
    place: Place
    event: Event


class PlacedChange(NamedTuple):
    """What an event did to an item, with the event's `moment_ms`."""

    moment_ms: int
    change: ItemChange


class ShopperStep(NamedTuple):
    """A shopper's row after one of their events. `counted` is false for one that was there before or was sent twice.

    Only of events that count anything follows for items and visits.
    """

    before: UserRow
    after: UserRow
    placed: PlacedEvent
    counted: bool


def source_of(event: Event) -> str:
    """Return the source partition, such as 'clicks/3', to which a producer would have sent the event."""
    topic = CLICKS if isinstance(event, Click) else PURCHASES
    return f"{topic.name}/{partition_of(shopper_id(event).encode(), topic.partitions)}"


def in_order(arrivals: Iterable[tuple[Event, Place]]) -> list[PlacedEvent]:
    """Return all events of a history, given in any order, in the one in which groups of them are folded."""
    placed = []
    newest_ms: dict[str, int] = {}
    for event, place in sorted(arrivals, key=lambda arrival: (arrival[1].source, arrival[1].offset)):
        newest_ms[place.source] = max(newest_ms.get(place.source, 0), place.published_ms)
        placed.append(PlacedEvent(newest_ms[place.source], place, event))
    return sorted(placed, key=lambda one: (one.moment_ms, one.place.source, one.place.offset))


def fold_shopper(shopper: str, events: Iterable[PlacedEvent]) -> Iterator[ShopperStep]:
    """Yield the row of a shopper after each of their events, which come in order."""
    row = UserRow(shopper_id=shopper)
    for placed in events:
        before, row = row, fold_user(row, placed.event, placed.place)
        yield ShopperStep(before, row, placed, row is not before and row.repeated == before.repeated)


def changes_after(step: ShopperStep) -> list[PlacedChange]:
    """Return what follows from a shopper's step for the rows of items."""
    if not step.counted:
        return []
    return [PlacedChange(step.placed.moment_ms, change) for change in changes_of(step.placed.event, step.placed.place)]


def fold_changes(item_id: str, changes: Iterable[PlacedChange]) -> Iterator[ItemRow]:
    """Yield the row of an item after each of its changes, which come in order."""
    row = ItemRow(item_id=item_id)
    for placed in changes:
        row = fold_item(row, placed.change)
        yield row


def fold_visit(session_id: str, events: Iterable[PlacedEvent]) -> Iterator[SessionRow]:
    """Yield the row of a visit after each of its events that count, which come in order."""
    row = SessionRow(session_id=session_id)
    for placed in events:
        row = fold_session(row, placed.event, placed.place)
        yield row
