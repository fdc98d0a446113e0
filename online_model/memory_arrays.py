"""Where the memories keep what they know: a log of events as linked lists, a row of numbers for each item, and room to work in.

All are tuples of NumPy arrays, which compiled functions read and write in place. Events are numbered from 0 for ever; event `n` lies in
place `n % capacity` of the log, and is gone once `capacity` newer ones have come. -1 stands for "none".
"""

from typing import Any, NamedTuple

import numpy as np

FOLLOWERS = 64
RETURN_ROWS = 1 << 16
RETURN_PLACES = 10
PATTERN_STEPS = 6
LONGEST_HISTORY = 256
MOST_CANDIDATES = 2000
HEATS = 3


class EventLog(NamedTuple):
    """Each event's item, its visit (the number of the visit's first event), and its neighbours along three chains, (capacity,) each."""

    item: Any  # int32
    visit: Any  # int64
    before: Any  # int64: the same shopper's event before
    after: Any  # int64: the same shopper's event after
    same_item: Any  # int64: the newest earlier event of the same item
    clock: Any  # int64, (1,): how many events there were


class ItemRows(NamedTuple):
    """What is known of each item, (items, ...)."""

    newest: Any  # int64: its newest event
    first: Any  # int64: its first event
    count: Any  # int32
    heat: Any  # float32, (items, HEATS): decayed counts, valid at event `newest`
    followers: Any  # int32, (items, FOLLOWERS): the items that it was visited with, -1 where there are fewer
    strength: Any  # float32, (items, FOLLOWERS): decayed counts of that, valid at event `as_of`
    total: Any  # float32: their sum, with those that had to go
    as_of: Any  # int64


class Scratch(NamedTuple):
    """Room for one question at a time. Between questions `candidate_of` is -1 and the sums are 0 throughout."""

    candidate_of: Any  # int32, (items,): an item's row in the evidence
    near: Any  # float32, (items,): co-visitation with the history
    far: Any  # float32, (items,): co-visitation with what is near
    likeness: Any  # float32, (capacity,): of a visit, at the place of its first event
    shared: Any  # int64, (capacity,): the event of that visit with the newest item of the history that both have
    rank: Any  # int16, (capacity,): the place of that item in the history
    candidates: Any  # int32, (MOST_CANDIDATES,)
    evidence: Any  # float32, (MOST_CANDIDATES, COLUMNS)


def event_log(capacity: int) -> EventLog:
    """Return an empty log."""
    return EventLog(
        item=np.full(capacity, -1, np.int32),
        visit=np.full(capacity, -1, np.int64),
        before=np.full(capacity, -1, np.int64),
        after=np.full(capacity, -1, np.int64),
        same_item=np.full(capacity, -1, np.int64),
        clock=np.zeros(1, np.int64),
    )


def item_rows(items: int) -> ItemRows:
    """Return rows for items of which nothing is known."""
    return ItemRows(
        newest=np.full(items, -1, np.int64),
        first=np.full(items, -1, np.int64),
        count=np.zeros(items, np.int32),
        heat=np.zeros((items, HEATS), np.float32),
        followers=np.full((items, FOLLOWERS), -1, np.int32),
        strength=np.zeros((items, FOLLOWERS), np.float32),
        total=np.zeros(items, np.float32),
        as_of=np.zeros(items, np.int64),
    )


def grown(rows: ItemRows, items: int) -> ItemRows:
    """Return rows for `items` items that begin with the given ones."""
    larger = item_rows(items)
    for new, old in zip(larger, rows, strict=True):
        new[: len(old)] = old
    return larger


def scratch(items: int, capacity: int, columns: int) -> Scratch:
    """Return room for questions about `items` items and a log of `capacity` events."""
    return Scratch(
        candidate_of=np.full(items, -1, np.int32),
        near=np.zeros(items, np.float32),
        far=np.zeros(items, np.float32),
        likeness=np.zeros(capacity, np.float32),
        shared=np.zeros(capacity, np.int64),
        rank=np.zeros(capacity, np.int16),
        candidates=np.zeros(MOST_CANDIDATES, np.int32),
        evidence=np.zeros((MOST_CANDIDATES, columns), np.float32),
    )
