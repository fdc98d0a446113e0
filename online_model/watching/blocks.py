"""From single values to blocks: means of a fixed number of values for each column, and the times and spreads that go with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.watching.signals import Batch

Floats = NDArray[np.float64]

OTHER = "(other)"
NAMES_OF_A_MIX = 32


@dataclass(frozen=True)
class Block:
    """`size` values of each column from a common stretch of events: their mean and the number that were not NaN, (columns,)."""

    time_ms: float
    first_ms: int
    means: Floats
    counts: Floats


class Columns:
    """The columns that a plane's signals make: one for each number, and one for each name of a mix.

    The names of a mix are those seen during the warm-up, 32 at most; all later and others are `(other)`.
    """

    def __init__(self, numbers: Sequence[str], mixes: Sequence[str]) -> None:
        self.numbers = tuple(numbers)
        self.mixes = tuple(mixes)
        self.names: dict[str, dict[str, int]] = {mix: {OTHER: 0} for mix in mixes}

    @property
    def count(self) -> int:
        """How many columns there are; those of names that were not seen yet stay empty."""
        return len(self.numbers) + NAMES_OF_A_MIX * len(self.mixes)

    def of(self, signal: str) -> range:
        """Return the columns of a signal."""
        if signal in self.numbers:
            place = self.numbers.index(signal)
            return range(place, place + 1)
        first = len(self.numbers) + NAMES_OF_A_MIX * self.mixes.index(signal)
        return range(first, first + NAMES_OF_A_MIX)

    def label(self, column: int) -> str:
        """Return what a column shows: a signal, or a signal and a name, as in `category=tents`."""
        if column < len(self.numbers):
            return self.numbers[column]
        mix, place = divmod(column - len(self.numbers), NAMES_OF_A_MIX)
        names = self.names[self.mixes[mix]]
        return f"{self.mixes[mix]}={next((name for name, number in names.items() if number == place), '')}"

    def coded(self, mix: str, names: Sequence[str], *, learn: bool) -> NDArray[np.int64]:
        """Return the number of each name, -1 for "" (none)."""
        known = self.names[mix]
        if learn:
            for name in dict.fromkeys(names):
                if name and name not in known and len(known) < NAMES_OF_A_MIX:
                    known[name] = len(known)
        numbers = {**known, "": -1}
        return np.array([numbers.get(name, 0) for name in names], np.int64)


class BlockMaker:
    """Cuts batches into blocks of `size` events; what is left over waits for the next batch."""

    def __init__(self, columns: Columns, size: int) -> None:
        self.columns = columns
        self.size = size
        self._times = np.empty(0, np.int64)
        self._numbers = np.empty((0, len(columns.numbers)))
        self._codes = np.empty((0, len(columns.mixes)), np.int64)

    def add(self, batch: Batch, *, learn_names: bool) -> Iterator[Block]:
        """Take in a batch; yield the blocks that are full."""
        self._append(batch, learn_names=learn_names)
        full = len(self._times) // self.size
        if not full:
            return
        cut = full * self.size
        times = self._times[:cut].reshape(full, self.size)
        numbers = self._numbers[:cut].reshape(full, self.size, -1)
        there = ~np.isnan(numbers)
        counts = there.sum(axis=1)
        sums = np.where(there, numbers, 0.0).sum(axis=1)
        shares, told = self._shares(self._codes[:cut].reshape(full, self.size, -1))
        means = np.hstack([sums / np.maximum(counts, 1), shares])
        weights = np.hstack([counts, told])
        middles, firsts = times.mean(axis=1), times.min(axis=1)
        self._times, self._numbers, self._codes = self._times[cut:], self._numbers[cut:], self._codes[cut:]
        for place in range(full):
            yield Block(float(middles[place]), int(firsts[place]), means[place], weights[place].astype(np.float64))

    def saved(self) -> Mapping[str, object]:
        """Return what waits, as JSON can hold it."""
        return {"times": self._times.tolist(), "numbers": self._numbers.tolist(), "codes": self._codes.tolist()}

    def restore(self, saved: Mapping[str, object]) -> None:
        """Take up what was saved."""
        self._times = np.array(saved["times"], np.int64)
        self._numbers = np.array(saved["numbers"], np.float64).reshape(len(self._times), len(self.columns.numbers))
        self._codes = np.array(saved["codes"], np.int64).reshape(len(self._times), len(self.columns.mixes))

    def _append(self, batch: Batch, *, learn_names: bool) -> None:
        numbers = np.full((len(batch), len(self.columns.numbers)), np.nan)
        for place, name in enumerate(self.columns.numbers):
            if name in batch.values:
                numbers[:, place] = batch.values[name]
        codes = np.full((len(batch), len(self.columns.mixes)), -1, np.int64)
        for place, name in enumerate(self.columns.mixes):
            if name in batch.mixes:
                codes[:, place] = self.columns.coded(name, batch.mixes[name], learn=learn_names)
        self._times = np.concatenate([self._times, batch.times_ms])
        self._numbers = np.concatenate([self._numbers, numbers])
        self._codes = np.concatenate([self._codes, codes])

    def _shares(self, codes: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return each name's share in each block, and of how many values, both (blocks, mixes * 32)."""
        blocks, _, mixes = codes.shape
        shares = np.zeros((blocks, mixes * NAMES_OF_A_MIX))
        told = np.zeros((blocks, mixes * NAMES_OF_A_MIX))
        for mix in range(mixes):
            own = codes[:, :, mix]
            flat = (own + (NAMES_OF_A_MIX + 1) * np.arange(blocks)[:, None] + 1).ravel()
            counted = np.bincount(flat, minlength=blocks * (NAMES_OF_A_MIX + 1)).reshape(blocks, NAMES_OF_A_MIX + 1)[:, 1:]
            total = counted.sum(axis=1, keepdims=True)
            place = slice(mix * NAMES_OF_A_MIX, (mix + 1) * NAMES_OF_A_MIX)
            shares[:, place] = counted / np.maximum(total, 1)
            known = np.arange(NAMES_OF_A_MIX) < len(self.columns.names[self.columns.mixes[mix]])
            told[:, place] = total * known
        return shares, told
