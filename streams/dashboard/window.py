"""What was measured in the last minute: sums and quantiles that forget, and how long a part has been behind."""

import math
from collections import deque
from collections.abc import Mapping, Sequence

from headrace.streams.dashboard.messages import Freshness

WINDOW_S = 60.0
MOST_SAMPLES = 5000


class Samples:
    """Values with the second at which each was seen, of the last minute only, and at most 5,000 of them."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)

    def add(self, at_s: float, values: Sequence[float]) -> None:
        """Take in values seen at `at_s`."""
        self._seen.extend((at_s, value) for value in values)

    def freshness(self, at_s: float) -> Freshness:
        """Return the quantiles as of `at_s`."""
        while self._seen and self._seen[0][0] < at_s - self._window_s:
            self._seen.popleft()
        values = sorted(value for _, value in self._seen)
        return Freshness(p50_ms=quantile(values, 0.5), p99_ms=quantile(values, 0.99), samples=len(values))


class Sums:
    """Counts of the last `window_s` seconds."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def add(self, at_s: float, counts: Mapping[str, int]) -> None:
        """Take in what was counted since the last call."""
        self._seen.append((at_s, dict(counts)))
        while self._seen and self._seen[0][0] <= at_s - self._window_s:
            self._seen.popleft()

    def total(self, name: str) -> int:
        """Return the sum over the window."""
        return sum(counts.get(name, 0) for _, counts in self._seen)


class Counter:
    """Turns readings of a counter that only rises into what was added since the last reading."""

    def __init__(self) -> None:
        self._last: float | None = None

    def added(self, reading: float | None) -> int:
        """Return how much was added; 0 at first, where there is no reading, and where the counter has begun anew."""
        if reading is None:
            return 0
        last, self._last = self._last, reading
        return max(0, int(reading - last)) if last is not None else 0


class Behind:
    """Tells since when records wait, from how many there were at each look in the last ten minutes."""

    def __init__(self, looks: int = 600) -> None:
        self._ends: deque[tuple[float, int]] = deque(maxlen=looks)

    def seconds(self, at_s: float, end: int, lag: int) -> float:
        """Return how long ago the first record that is not committed was written, at most as long as was looked."""
        self._ends.append((at_s, end))
        if not lag:
            return 0.0
        committed = end - lag
        written_s = next((seen_s for seen_s, seen in self._ends if seen > committed), at_s)
        return max(0.0, at_s - written_s)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the quantile of values in rising order, by the nearest rank; None where there are none."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)
