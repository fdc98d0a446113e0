"""Items by number in the memories, by row in the Transformer's table, and by id outside."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry


class ItemNumbers:
    """Gives items their numbers in the memories."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.numbers: dict[str, int] = {}

    def number(self, item_id: str) -> int:
        """Return the item's number, a new one where it has none."""
        number = self.numbers.get(item_id)
        if number is None:
            number = self.numbers[item_id] = len(self.names)
            self.names.append(item_id)
        return number

    def known(self, history: Sequence[HistoryEntry]) -> list[int]:
        """Return the numbers of the history's items, those without one left out."""
        return [self.numbers[entry.item_id] for entry in history if entry.item_id in self.numbers]


class TableRows:
    """Follows which rows the author of one line of weights gives to the items. Each line (each `Scorer`) needs one of its own."""

    def __init__(self, ids: ItemNumbers) -> None:
        self.ids = ids
        self._epoch = -1
        self._followed = 1
        self._rows = np.zeros(1024, np.int64)
        self._numbers_of_rows = np.full(1024, -1, np.int32)

    def follow(self, copy: ModelCopy) -> None:
        """Take in which items have got rows in the copy since the last look. Items that the memories have not seen get numbers."""
        if copy.epoch != self._epoch:
            self._epoch, self._followed = copy.epoch, 1
            self._rows[:] = 0
            self._numbers_of_rows[:] = -1
        size = len(copy.items)
        while len(self._numbers_of_rows) < size:
            self._numbers_of_rows = np.concatenate([self._numbers_of_rows, np.full_like(self._numbers_of_rows, -1)])
        new = [self.ids.number(item) for item in copy.items[self._followed : size]]
        self._make_room()
        self._rows[new] = np.arange(self._followed, self._followed + len(new))
        self._numbers_of_rows[self._followed : self._followed + len(new)] = new
        self._followed = max(self._followed, size)

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the numbers of rows that were followed."""
        numbers: NDArray[np.int32] = self._numbers_of_rows[rows]
        return numbers

    def rows_of(self, numbers: NDArray[np.int32], size: int) -> NDArray[np.int64]:
        """Return the rows of items in a table of `size` rows; 0 for those that have none there."""
        rows = self._rows[numbers]
        # Of the two copies that take turns, the one at hand may be some rows behind the one that was followed last.
        rows[rows >= size] = 0
        return rows

    def _make_room(self) -> None:
        while len(self._rows) < len(self.ids.names):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
