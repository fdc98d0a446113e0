"""Histories that are kept for a while: the newest of them, as numbers, in one block of memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.online_model.step_batch import Numbers

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True)
class KeptHistories:
    """Histories as `step_batch.encode_numbers` gives them, (histories, longest, 5), their lengths and whose they are."""

    numbers: Numbers
    lengths: Numbers
    shoppers: Numbers

    def __len__(self) -> int:
        return len(self.lengths)

    def only(self, wanted: Mask | Numbers) -> "KeptHistories":
        """Return those that a mask or places name."""
        return KeptHistories(self.numbers[wanted], self.lengths[wanted], self.shoppers[wanted])

    def without_rows(self, first: int, others: Numbers) -> "KeptHistories":
        """Return those that name no item row of `first` or more, and none of `others`."""
        return self.only(self.names_only(first, others))

    def names_only(self, first: int, others: Numbers) -> Mask:
        """Return which name no item row of `first` or more, and none of `others`, (histories,)."""
        rows = self.numbers[:, :, 0]
        named = rows.max(axis=1, initial=0) >= first
        if len(others):
            named |= np.isin(rows, others).any(axis=1)
        found: Mask = ~named
        return found


class HistoryRing:
    """The last `capacity` histories, of at most `length` steps each."""

    def __init__(self, capacity: int, length: int) -> None:
        self._capacity = capacity
        self._numbers = np.zeros((capacity, length, 5), np.int32)
        self._lengths = np.zeros(capacity, np.int64)
        self._shoppers = np.zeros(capacity, np.int64)
        self._size = 0
        self._next = 0

    def __len__(self) -> int:
        return self._size

    def add(self, histories: KeptHistories) -> KeptHistories:
        """Keep these; return the oldest, which make room for them."""
        newest = histories.only(np.arange(max(0, len(histories) - self._capacity), len(histories)))
        places = (self._next + np.arange(len(newest))) % self._capacity
        oldest = self._at(places[places < self._size])
        self._numbers[places] = 0
        self._numbers[places, : newest.numbers.shape[1]] = newest.numbers
        self._lengths[places] = newest.lengths
        self._shoppers[places] = newest.shoppers
        self._next = (self._next + len(newest)) % self._capacity
        self._size = min(self._capacity, self._size + len(newest))
        return oldest

    def draw(self, random: np.random.Generator, count: int) -> KeptHistories:
        """Return `count` of them, drawn with repetition; none where there are none."""
        return self._at(random.integers(0, self._size, count if self._size else 0))

    def all(self) -> KeptHistories:
        """Return all of them, in no order."""
        return self._at(np.arange(self._size))

    def forget_rows(self, first: int, others: Numbers) -> None:
        """Drop the histories that name an item row of `first` or more, or one of `others`."""
        kept = self.all()
        self._size = self._next = 0
        self.add(kept.without_rows(first, others))

    def _at(self, places: Numbers) -> KeptHistories:
        return KeptHistories(self._numbers[places].astype(np.int64), self._lengths[places], self._shoppers[places])


def joined(parts: Sequence[KeptHistories]) -> KeptHistories:
    """Return the histories of all parts as one, no longer than the longest of them."""
    lengths = np.concatenate([part.lengths for part in parts])
    numbers = np.zeros((len(lengths), int(lengths.max(initial=1)), 5), np.int64)
    start = 0
    for part in parts:
        columns = min(numbers.shape[1], part.numbers.shape[1])
        numbers[start : start + len(part), :columns] = part.numbers[:, :columns]
        start += len(part)
    return KeptHistories(numbers, lengths, np.concatenate([part.shoppers for part in parts]))
