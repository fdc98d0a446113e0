"""The curves since the gateway started, in bounded memory: the last half hour in fine steps, the last day in coarse ones."""

from collections import deque
from collections.abc import Mapping, Sequence

from headrace.streams.dashboard.messages import History, Resolution

COUNTS = ("events", "lists", "tested", "live_hits", "popularity_hits")
LEVELS = (
    "lag_feature_worker",
    "lag_recommender",
    "lag_learner",
    "feature_p50_ms",
    "feature_p99_ms",
    "recommendation_p50_ms",
    "recommendation_p99_ms",
    "weights_p50_ms",
    "weights_p99_ms",
    "model_version",
    "dead_letters",
    "holdout_loss",
)
COLUMNS = ("time_ms", *COUNTS, *LEVELS)
FINE_STEP_S, FINE_POINTS = 2, 900
COARSE_STEP_S, COARSE_POINTS = 60, 1440

Value = float | int | None
Point = tuple[Value, ...]


class Curves:
    """Two rings of points. `add` takes what happened in one look; points are closed as their time has passed."""

    def __init__(self, started_ms: int) -> None:
        self.started_ms = started_ms
        self._rings: dict[Resolution, _Ring] = {
            "fine": _Ring(FINE_STEP_S, FINE_POINTS, started_ms),
            "coarse": _Ring(COARSE_STEP_S, COARSE_POINTS, started_ms),
        }

    def add(self, time_ms: int, counts: Mapping[str, int], levels: Mapping[str, Value]) -> Point | None:
        """Take in the counts since the last call and the levels now; return the fine point that this closes, if any."""
        self._rings["coarse"].add(time_ms, counts, levels)
        return self._rings["fine"].add(time_ms, counts, levels)

    def history(self, resolution: Resolution) -> History:
        """Return all points of one resolution."""
        ring = self._rings[resolution]
        return History(
            started_ms=self.started_ms,
            resolution=resolution,
            step_s=ring.step_ms // 1000,
            columns=list(COLUMNS),
            rows=[list(point) for point in list(ring.points)],
        )


class _Ring:
    def __init__(self, step_s: int, points: int, started_ms: int) -> None:
        self.step_ms = 1000 * step_s
        self.points: deque[Point] = deque(maxlen=points)
        self._open_until_ms = self._next(started_ms)
        self._counts = dict.fromkeys(COUNTS, 0)

    def add(self, time_ms: int, counts: Mapping[str, int], levels: Mapping[str, Value]) -> Point | None:
        for name in COUNTS:
            self._counts[name] += counts.get(name, 0)
        if time_ms < self._open_until_ms:
            return None
        # Steps that nobody looked at leave a gap, which the curve shows as one.
        point = (time_ms, *self._counts.values(), *(levels.get(name) for name in LEVELS))
        self.points.append(point)
        self._counts = dict.fromkeys(COUNTS, 0)
        self._open_until_ms = self._next(time_ms)
        return point

    def _next(self, time_ms: int) -> int:
        return (time_ms // self.step_ms + 1) * self.step_ms


def rate(points: Sequence[int], seconds: float) -> float:
    """Return counts per second; 0 where no time has passed."""
    return sum(points) / seconds if seconds > 0 else 0.0
