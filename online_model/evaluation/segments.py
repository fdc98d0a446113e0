"""Which steps of a stream are scored, and to which segments each belongs: the same for every model."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.evaluation.stream_model import HISTORY_LENGTH, StreamStep

NEW_ITEM_EVENTS = 1_000


class _Situation(NamedTuple):
    """What is known of a step before it is learned.

    `item_age` counts the events since the target's first step, None without one; `is_return` says that the target is in the
    shopper's own history.
    """

    kind: str
    steps_before: int
    item_age: int | None
    is_return: bool


_Segment = Callable[[_Situation], bool]

SEGMENTS: dict[str, _Segment] = {
    # The target was first seen less than 1,000 events ago.
    "new_items": lambda at: _is_new(at),
    # The same without returns, which are most of them: only others' steps can lead to these.
    "new_discoveries": lambda at: _is_new(at) and not at.is_return,
    # Nobody touched the target before, so only a model that knows more than the stream could name it.
    "never_seen": lambda at: at.item_age is None,
    # The shopper made one step in the whole stream so far.
    "new_users": lambda at: at.steps_before == 1,
    "short_histories": lambda at: at.steps_before <= 3,
    "long_histories": lambda at: at.steps_before >= 10,
    # Targets that are in the shopper's own last 50 steps, and those that are not.
    "returns": lambda at: at.is_return,
    "discoveries": lambda at: not at.is_return,
    "purchases": lambda at: at.kind == "purchase",
}


@dataclass(frozen=True)
class Questions:
    """The steps that are scored, in the stream's order; all arrays are (questions,).

    `steps` are their places in the stream and `events` the numbers of their events; `shoppers` numbers the shoppers from 0 in
    the order of their first question. `popularity` is log2(1 + steps with the target before this one). `items` counts the
    items of the whole stream.
    """

    steps: NDArray[np.int64]
    events: NDArray[np.int64]
    shoppers: NDArray[np.int64]
    popularity: NDArray[np.float64]
    segments: dict[str, NDArray[np.bool_]]
    items: int

    def __len__(self) -> int:
        return len(self.steps)


def questions_of(stream: Sequence[StreamStep], first_event: int) -> Questions:
    """Return the scored steps: from event number `first_event` on, of a shopper with a history, to another item than its last."""
    own_items: dict[str, deque[str]] = {}
    steps_before: dict[str, int] = {}
    first_seen: dict[str, int] = {}
    counts: dict[str, int] = {}
    shoppers: dict[str, int] = {}
    places: list[tuple[int, int, int]] = []
    popularity: list[float] = []
    flags: list[list[bool]] = []
    for place, (shopper_id, entry, event) in enumerate(stream):
        item = entry.item_id
        own = own_items.setdefault(shopper_id, deque(maxlen=HISTORY_LENGTH))
        if event >= first_event and own and own[-1] != item:
            age = event - first_seen[item] if item in first_seen else None
            situation = _Situation(entry.kind, steps_before[shopper_id], age, item in own)
            places.append((place, event, shoppers.setdefault(shopper_id, len(shoppers))))
            popularity.append(log2(1 + counts.get(item, 0)))
            flags.append([holds(situation) for holds in SEGMENTS.values()])
        own.append(item)
        steps_before[shopper_id] = steps_before.get(shopper_id, 0) + 1
        first_seen.setdefault(item, event)
        counts[item] = counts.get(item, 0) + 1
    columns = np.array(places, dtype=np.int64).reshape(-1, 3)
    held = np.array(flags, dtype=np.bool_).reshape(-1, len(SEGMENTS))
    return Questions(
        steps=columns[:, 0],
        events=columns[:, 1],
        shoppers=columns[:, 2],
        popularity=np.array(popularity, dtype=np.float64),
        segments={name: held[:, number] for number, name in enumerate(SEGMENTS)},
        items=len(counts),
    )


def _is_new(at: _Situation) -> bool:
    return at.item_age is not None and at.item_age < NEW_ITEM_EVENTS
