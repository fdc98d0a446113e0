"""Histograms of a signal, as it used to be and as it is now, on the same edges."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 16
LEARNED_FROM = 512
NOW_VALUES, THEN_VALUES = 4_096.0, 100_000.0


class Histogram:
    """Shares of values in 16 bins, whose edges are learned from the first 512 values; the outer bins hold what lies beyond.

    `now` forgets with about the last 4,096 values, `then` with the last 100,000; while a signal drifts, `then` stands still.
    """

    def __init__(self) -> None:
        self.edges: Floats = np.empty(0)
        self.now: Floats = np.zeros(BINS)
        self.then: Floats = np.zeros(BINS)
        self._first: list[float] = []

    def add(self, values: Floats, *, is_drifting: bool) -> None:
        """Take in values; NaN are passed over."""
        values = values[~np.isnan(values)]
        if not len(values):
            return
        if not len(self.edges):
            self._first += values.tolist()
            if len(self._first) < LEARNED_FROM:
                return
            low, high = np.quantile(self._first, [0.005, 0.995])
            self.edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
            values, self._first = np.array(self._first), []
        counts = np.bincount(np.searchsorted(self.edges[1:-1], values, side="right"), minlength=BINS).astype(np.float64)
        self.now = _forgotten(self.now, len(values), NOW_VALUES) + counts
        if not is_drifting:
            self.then = _forgotten(self.then, len(values), THEN_VALUES) + counts

    def shares(self, counts: Floats) -> tuple[float, ...]:
        """Return counts as shares that add up to 1; none where nothing was counted yet."""
        total = counts.sum()
        return tuple((counts / total).tolist()) if total else ()

    def saved(self) -> dict[str, Any]:
        """Return what is remembered, as JSON can hold it."""
        return {"edges": self.edges.tolist(), "now": self.now.tolist(), "then": self.then.tolist(), "first": self._first}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self.edges, self.now, self.then = (np.array(saved[name], np.float64) for name in ("edges", "now", "then"))
        self._first = list(saved["first"])


def _forgotten(counts: Floats, values: int, memory: float) -> Floats:
    kept: Floats = counts * np.exp(-values / memory)
    return kept
