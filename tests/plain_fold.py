"""Rows folded event after event in one process, as the feature worker does it; what history folded in groups must equal."""

from collections.abc import Iterable, Iterator
from typing import Any

from headrace.features.columns import ITEMS, SESSIONS, USERS, View
from headrace.features.item_row import changes_of, fold_item
from headrace.features.place import Place
from headrace.features.session_row import fold_session
from headrace.features.user_row import fold_user
from headrace.schemas import Event, ItemRow, SessionRow, UserRow, shopper_id
from headrace.schemas.feature_rows import Row

Arrival = tuple[Event, Place]
VIEWS = {view.name: view for view in (USERS, ITEMS, SESSIONS)}


def plain_versions(arrivals: Iterable[Arrival]) -> Iterator[tuple[View, str, Row]]:
    """Yield each version of each row with its view and key, for events in the order in which a worker read them."""
    users: dict[str, UserRow] = {}
    items: dict[str, ItemRow] = {}
    visits: dict[str, SessionRow] = {}
    for event, place in arrivals:
        shopper = shopper_id(event)
        before = users.get(shopper, UserRow(shopper_id=shopper))
        after = users[shopper] = fold_user(before, event, place)
        if after is before:
            continue
        yield USERS, shopper, after
        if after.repeated != before.repeated:
            continue
        if (visit := event.session_id) is not None:
            visits[visit] = fold_session(visits.get(visit, SessionRow(session_id=visit)), event, place)
            yield SESSIONS, visit, visits[visit]
        for change in changes_of(event, place):
            items[change.item_id] = fold_item(items.get(change.item_id, ItemRow(item_id=change.item_id)), change)
            yield ITEMS, change.item_id, items[change.item_id]


def plain_rows(arrivals: Iterable[Arrival]) -> dict[tuple[str, str], Row]:
    """Return the last version of each row, by view and key."""
    return {(view.name, key): row for view, key, row in plain_versions(arrivals)}


def alike(values: Any, others: Any) -> bool:
    """Whether values of columns are equal; numbers with a fraction may differ by 1e-9 of themselves, and NaN equals NaN."""
    if isinstance(values, list | tuple) and isinstance(others, list | tuple):
        return len(values) == len(others) and all(map(alike, values, others))
    if isinstance(values, float) and isinstance(others, float):
        return abs(values - others) <= 1e-9 * max(1.0, abs(values)) or (values != values and others != others)
    return bool(values == others)
