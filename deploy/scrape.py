"""Reading the parts' metrics: counters and histograms that add up over restarts, and quantiles read off the buckets."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, str, Labels]


def scrape(port: int, timeout_s: float = 2.0) -> str | None:
    """Return what a part on this machine shows at /metrics, or None where it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=timeout_s) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


class Readings:
    """The newest readings of all parts. A part that starts anew counts from 0; what it counted before is kept."""

    def __init__(self) -> None:
        self._lives: dict[str, int] = {}
        self._now: dict[Key, float] = {}
        self._before: dict[Key, float] = {}

    def take(self, part: str, life: int, text: str) -> None:
        """Take in what `part` shows in its `life`, which is counted up at each restart."""
        if self._lives.get(part, life) != life:
            for key in [key for key in self._now if key[0] == part]:
                self._before[key] = self._before.get(key, 0.0) + self._now.pop(key)
        self._lives[part] = life
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._now[part, sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def gauge(self, name: str, part: str) -> float | None:
        """Return a gauge as it stands in the part's present life."""
        return self._now.get((part, name, ()))

    def total(self, name: str, part: str | None = None, **labels: str) -> float:
        """Return a counter, added up over restarts, label values that are not given, and all parts where none is given."""
        return sum(
            value
            for readings in (self._now, self._before)
            for (owner, metric, found), value in readings.items()
            if metric == name and part in (None, owner) and labels.items() <= dict(found).items()
        )

    def quantile(self, name: str, share: float, part: str | None = None) -> float | None:
        """Return a quantile of a histogram, straight-lined within its bucket; None where it is empty."""
        cumulative: dict[float, float] = {}
        for readings in (self._now, self._before):
            for (owner, metric, labels), value in readings.items():
                if metric == f"{name}_bucket" and part in (None, owner):
                    bound = float(dict(labels)["le"])
                    cumulative[bound] = cumulative.get(bound, 0.0) + value
        return quantile(cumulative, share)


def quantile(cumulative: Mapping[float, float], share: float) -> float | None:
    """Return the quantile `share` of a histogram given as {upper bound: number of values up to it}; None where it is empty."""
    bounds = sorted(cumulative)
    if not bounds or cumulative[bounds[-1]] <= 0:
        return None
    wanted = share * cumulative[bounds[-1]]
    for lower, upper in pairwise([0.0, *bounds]):
        below = cumulative.get(lower, 0.0)
        if cumulative[upper] >= wanted:
            if upper == float("inf"):
                return lower
            return lower + (upper - lower) * (wanted - below) / max(cumulative[upper] - below, 1e-12)
    return bounds[-1]
