"""Training examples from Feast: for each step of a stream, the shopper's history as it could be read one millisecond before.

Two ways lead to the same examples. `frames_of` asks the archive by Feast's point-in-time join; `examples_of_events` folds the
events themselves, with the feature worker's function, for those who have no archive.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from headrace.features.archive import EVENT_TIME
from headrace.features.columns import USER_VIEW, USERS
from headrace.features.place import Place
from headrace.features.user_row import entries_of, fold_user
from headrace.online_model.training.examples import Example
from headrace.schemas import Event, HistoryEntry, UserRow, shopper_id

HISTORY = ("history_items", "history_kinds", "history_times_ms", "history_prices", "history_categories")
FEATURES = [f"{USER_VIEW}:{name}" for name in HISTORY]
COLUMNS = [f"{USER_VIEW}__{name}" for name in HISTORY]
Arrival = tuple[Event, Place]


class UnusableFrames(ValueError):
    """A file that does not hold training examples; the text names the column and what was expected."""


class Step(NamedTuple):
    """One step of a stream, and the instant at which its shopper's history is asked for: the last one before it was published."""

    shopper_id: str
    asked_ms: int
    entry: HistoryEntry
    place: Place


def steps_of(arrivals: Iterable[Arrival]) -> Iterator[Step]:
    """Yield each step of the events, one for each line of an order. An event that its publisher sent twice counts once."""
    seen: set[tuple[str, str]] = set()
    for event, place in arrivals:
        shopper = shopper_id(event)
        if (shopper, event.event_id) in seen:
            continue
        seen.add((shopper, event.event_id))
        for entry in entries_of(event):
            yield Step(shopper, place.published_ms - 1, entry, place)


def examples_of_events(arrivals: Iterable[Arrival]) -> list[Example]:
    """Return the examples of events, which are in the order in which they were published."""
    rows: dict[str, UserRow] = {}
    # For each shopper the times from which versions of the row could be read, and the histories of these versions.
    known: dict[str, tuple[list[int], list[list[HistoryEntry]]]] = {}

    def taken_in() -> Iterator[Arrival]:
        for event, place in arrivals:
            yield event, place
            shopper = shopper_id(event)
            row = rows[shopper] = fold_user(rows.get(shopper) or UserRow(shopper_id=shopper), event, place)
            times, histories = known.setdefault(shopper, ([], []))
            if times and times[-1] == row.seen_ms:
                histories[-1] = row.history
            else:
                times.append(row.seen_ms)
                histories.append(row.history)

    def history_at(shopper: str, asked_ms: int) -> list[HistoryEntry]:
        times, histories = known.get(shopper, ([], []))
        newest = bisect_right(times, asked_ms) - 1
        return histories[newest] if newest >= 0 and asked_ms - times[newest] <= USERS.ttl_s * 1000 else []

    # `steps_of` yields a step before it goes on to the next event, so the histories are those without it.
    return [
        Example(
            step.shopper_id, step.asked_ms, history_at(step.shopper_id, step.asked_ms), step.entry, step.place.source, step.place.offset
        )
        for step in steps_of(taken_in())
    ]


def frames_of(arrivals: Iterable[Arrival], store: Any, progress: Callable[[str, float], object] = lambda view, share: None) -> Any:
    """Return a pandas frame with a row for each step: what was done, and the shopper's history that the archive tells.

    `store` is a `feast.FeatureStore` of our repository. Raises what `features.history.point_in_time` raises.
    """
    import pandas as pd

    from headrace.features.history import point_in_time

    steps = list(steps_of(arrivals))
    asked = pd.DataFrame(
        {
            "user_id": pd.Series([step.shopper_id for step in steps], dtype=str),
            EVENT_TIME: pd.Series([step.asked_ms for step in steps], dtype="int64"),
            "item_id": pd.Series([step.entry.item_id for step in steps], dtype=str),
            "kind": [step.entry.kind for step in steps],
            "time_ms": [step.entry.time_ms for step in steps],
            "price": pd.Series([step.entry.price for step in steps], dtype=float),
            "category": [step.entry.category for step in steps],
            "source": [step.place.source for step in steps],
            "offset": [step.place.offset for step in steps],
        }
    )
    return point_in_time(store, asked, FEATURES, progress)


def read_frames(file: Path) -> list[Example]:
    """Return the examples of a Parquet file: `user_id`, `event_timestamp`, `item_id` and the columns of the history.

    `kind`, `time_ms`, `price`, `category`, `source` and `offset` may be missing: then the step is a view at the instant asked. So
    what `headrace features history` answers to user_id, item_id and event_timestamp can be read too. Raises UnusableFrames, OSError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from headrace.features.questions import CannotAnswer, asked_ms_of, keys_of

    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise UnusableFrames(f"{file}: a Parquet file was expected; {error}") from None
    missing = [name for name in ("user_id", EVENT_TIME, "item_id", *COLUMNS) if name not in table.column_names]
    if missing:
        raise UnusableFrames(
            f"{file}: {', '.join(missing)} were expected among the columns; such a file is made by `headrace features examples`"
        )
    try:
        keys = table.select(["user_id", EVENT_TIME, "item_id"]).to_pandas()
        asked_ms, users, items = asked_ms_of(keys), keys_of(keys, "user_id"), keys_of(keys, "item_id")
    except CannotAnswer as error:
        raise UnusableFrames(f"{file}: {error}") from None
    lists = [table[name].to_pylist() for name in COLUMNS]
    histories = [[] if ids is None else list(map(_entry, ids, *others)) for ids, *others in zip(*lists, strict=True)]
    told = {
        name: table[name].to_pylist() for name in ("kind", "time_ms", "price", "category", "source", "offset") if name in table.column_names
    }

    def value(name: str, row: int, default: Any) -> Any:
        given = told[name][row] if name in told else None
        return default if given is None else given

    return [
        Example(
            user,
            asked_ms[row],
            histories[row],
            _entry(
                item,
                value("kind", row, "view"),
                value("time_ms", row, asked_ms[row]),
                value("price", row, None),
                value("category", row, ""),
            ),
            value("source", row, ""),
            value("offset", row, -1),
        )
        for row, (user, item) in enumerate(zip(users, items, strict=True))
        if user is not None and item is not None
    ]


def _entry(item_id: str, kind: Any, time_ms: int, price: float | None, category: str | None) -> HistoryEntry:
    known = price is not None and price == price
    return HistoryEntry(item_id, kind, time_ms, price if known else None, category or None)
