"""Rows of a shop that has been running for a while, written to Redis straight, for measurements that begin with a full store."""

from collections.abc import Callable

from msgspec.structs import replace

from headrace.deploy.bench.events import ITEMS, Shop
from headrace.features.item_row import changes_of, fold_item
from headrace.features.online_store import OnlineStore
from headrace.features.place import Place
from headrace.features.user_row import fold_user
from headrace.schemas import ItemRow, UserRow, encode
from headrace.schemas.wire import now_ms

DAY_MS = 24 * 3600 * 1000
AT_ONCE = 2000
KINDS = 64
# As long as every real id, so that it can be replaced in the bytes of a row.
_ANYBODY = "u-########"
# No topic of this name exists, so that whatever is published later is new to the row.
_SOURCE = "earlier/0"


def fill(store: OnlineStore, users: int, events_each: int, tell: Callable[[str], None], items: int = ITEMS) -> None:
    """Write rows of `users` shoppers and of `items` items, each with `events_each` events behind it.

    64 kinds of rows take turns, so that a million rows are laid out within a minute.
    """
    kinds = []
    for seed in range(KINDS):
        row = user_row(_ANYBODY, events_each, seed)
        body = encode(row)
        kinds.append((store.users.fields(row, body), body))
    for first in range(0, users, AT_ONCE):
        with store.client.pipeline(transaction=False) as pipe:
            for number in range(first, min(users, first + AT_ONCE)):
                fields, body = kinds[number % KINDS]
                own = body.replace(_ANYBODY.encode(), shopper(number).encode())
                pipe.execute_command("HSET", store.users.key(shopper(number)), *[own if part is body else part for part in fields])
            pipe.execute()
        tell(f"filling the store: {first:,} of {users:,} users")
    rows = [item_row("", events_each, seed) for seed in range(KINDS)]
    for first in range(0, items, AT_ONCE):
        numbers = range(first, min(items, first + AT_ONCE))
        store.write(items=[replace(rows[number % KINDS], item_id=item(number)) for number in numbers])


def shopper(number: int) -> str:
    """Return the id of the shopper of that number, as in the events."""
    return f"u-{number:08}"


def item(number: int) -> str:
    """Return the id of the item of that number, as in the events."""
    return f"item-{number:05}"


def user_row(shopper_id: str, events: int, seed: int = 1) -> UserRow:
    """Return the row of a shopper with so many events, evenly over the last week."""
    row = UserRow(shopper_id=shopper_id)
    for number, event in enumerate(_last_week(events, seed)):
        row = fold_user(row, event, Place(_SOURCE, number, event.event_time_ms))
    return row


def item_row(item_id: str, events: int, seed: int = 1) -> ItemRow:
    """Return the row of an item with so many events, evenly over the last week."""
    row = ItemRow(item_id=item_id)
    for number, event in enumerate(_last_week(events, seed)):
        change = changes_of(event, Place(_SOURCE, number, event.event_time_ms))[0]
        row = fold_item(row, replace(change, item_id=item_id))
    return row


def _last_week(events: int, seed: int) -> Shop:
    return Shop(events, 1, seed, now_ms() - 7 * DAY_MS, 7 * DAY_MS / (events + 1))
