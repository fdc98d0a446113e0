"""What the gateway's own metrics have counted since the last look."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import inf, sqrt

from prometheus_client import Counter, Histogram

MOST_SAMPLES = 500


class CounterReader:
    """Reads a counter, added up over those of its labels that `wanted` accepts."""

    def __init__(self, metric: Counter, wanted: Callable[[Mapping[str, str]], bool] = lambda labels: True) -> None:
        self._metric = metric
        self._wanted = wanted
        self._last = self._total()

    def added(self) -> int:
        """Return how much was added since the last call."""
        last, self._last = self._last, self._total()
        return max(0, int(self._last - last))

    def _total(self) -> float:
        samples = [sample for family in self._metric.collect() for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name.endswith("_total") and self._wanted(sample.labels))


class HistogramReader:
    """Reads a histogram as values again: each stands at the middle of the bucket that it fell into."""

    def __init__(self, metric: Histogram, wanted: Callable[[Mapping[str, str]], bool] = lambda labels: True) -> None:
        self._metric = metric
        self._wanted = wanted
        self._last = self._cumulative()

    def added(self) -> list[float]:
        """Return the values observed since the last call, at most 500 of them, in the unit of the histogram."""
        last, self._last = self._last, self._cumulative()
        if self._last == last:
            return []
        counts: list[tuple[float, int]] = []
        for (lower, below), (upper, up_to) in pairwise([(0.0, 0.0), *sorted(self._last.items())]):
            fresh = int(up_to - last.get(upper, 0.0) - (below - last.get(lower, 0.0)))
            counts.append((_middle(lower, upper), fresh))
        total = sum(count for _, count in counts)
        thin = max(1.0, total / MOST_SAMPLES)
        return [value for value, count in counts for _ in range(round(count / thin))]

    def _cumulative(self) -> dict[float, float]:
        found: dict[float, float] = {}
        for family in self._metric.collect():
            for sample in family.samples:
                if sample.name.endswith("_bucket") and self._wanted(sample.labels):
                    bound = float(sample.labels["le"])
                    found[bound] = found.get(bound, 0.0) + sample.value
        return found


def _middle(lower: float, upper: float) -> float:
    if upper == inf:
        return lower
    return sqrt(lower * upper) if lower else upper / 2
