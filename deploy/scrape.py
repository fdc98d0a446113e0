"""Reading the parts' metrics: counters and histograms that add up over restarts, and quantiles read off the buckets."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from itertools import pairwise

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]

# Our own metrics only, whose label values hold no quotes: the general parser takes a hundred times as long, each second.
_SAMPLE = re.compile(r"^(?P<name>headrace_\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


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
        # By metric, then by part and labels.
        self._now: dict[str, dict[Key, float]] = {}
        self._before: dict[str, dict[Key, float]] = {}

    def take(self, part: str, life: int, text: str) -> None:
        """Take in what `part` shows in its `life`, which is counted up at each restart."""
        if self._lives.get(part, life) != life:
            for metric, readings in self._now.items():
                for key in [key for key in readings if key[0] == part]:
                    kept = self._before.setdefault(metric, {})
                    kept[key] = kept.get(key, 0.0) + readings.pop(key)
        self._lives[part] = life
        for match in _SAMPLE.finditer(text):
            labels = tuple(_LABEL.findall(match["labels"] or ""))
            self._now.setdefault(match["name"], {})[part, labels] = float(match["value"])

    def gauge(self, name: str, part: str) -> float | None:
        """Return a gauge as it stands in the part's present life."""
        return self._now.get(name, {}).get((part, ()))

    def total(self, name: str, part: str | None = None, **labels: str) -> float:
        """Return a counter, added up over restarts, label values that are not given, and all parts where none is given."""
        return sum(value for (_, found), value in self._of(name, part) if labels.items() <= dict(found).items())

    def quantile(self, name: str, share: float, part: str | None = None) -> float | None:
        """Return a quantile of a histogram, straight-lined within its bucket; None where it is empty."""
        cumulative: dict[float, float] = {}
        for (_, labels), value in self._of(f"{name}_bucket", part):
            bound = float(dict(labels)["le"])
            cumulative[bound] = cumulative.get(bound, 0.0) + value
        return quantile(cumulative, share)

    def _of(self, name: str, part: str | None) -> Iterator[tuple[Key, float]]:
        for readings in (self._now, self._before):
            for key, value in readings.get(name, {}).items():
                if part in (None, key[0]):
                    yield key, value


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
