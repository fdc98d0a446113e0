"""Tests of two samples, a reference and the newest window: PSI, Kolmogorov-Smirnov, chi-square, MMD and a classifier, each with a p-value.

All take values as independent. Where neighbouring values are alike, `alike` says how many of them are worth one.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from headrace.online_model.watching.detectors import Change

Floats = NDArray[np.float64]

BINS = 10


def psi(reference: Floats, newest: Floats, alike: float = 1.0) -> tuple[float, float]:
    """Return the population stability index over ten bins of the reference, and its p-value.

    Where nothing has changed, the index times n * m / (n + m) is distributed as chi-square with 9 degrees of freedom (Yurdakul, 2018).
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1]))
    old = np.bincount(np.searchsorted(edges, reference, side="right"), minlength=len(edges) + 1) + 0.5
    new = np.bincount(np.searchsorted(edges, newest, side="right"), minlength=len(edges) + 1) + 0.5
    p, q = old / old.sum(), new / new.sum()
    index = float(((q - p) * np.log(q / p)).sum())
    size = len(reference) * len(newest) / (len(reference) + len(newest)) / alike
    return index, float(special.chdtrc(max(1, len(edges)), index * size))


def kolmogorov_smirnov(reference: Floats, newest: Floats, alike: float = 1.0) -> tuple[float, float]:
    """Return the largest distance of the two distribution functions, and its p-value (asymptotic)."""
    both = np.concatenate([reference, newest])
    distance = np.abs(
        np.searchsorted(np.sort(reference), both, side="right") / len(reference)
        - np.searchsorted(np.sort(newest), both, side="right") / len(newest)
    ).max()
    size = len(reference) * len(newest) / (len(reference) + len(newest)) / alike
    return float(distance), float(stats.kstwobign.sf(distance * math.sqrt(size)))


def chi_square(reference: Sequence[int] | Floats, newest: Sequence[int] | Floats, alike: float = 1.0) -> tuple[float, float]:
    """Return the chi-square statistic of two rows of counts, and its p-value. Names that are rarer than 5 in all are one."""
    table = np.array([reference, newest], np.float64)
    rare = table.sum(axis=0) < 5
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return 0.0, 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum()) / alike
    return statistic, float(special.chdtrc(table.shape[1] - 1, statistic))


def mmd(reference: Floats, newest: Floats, permutations: int = 200, seed: int = 1) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy of two samples, (n, features) and (m, features), and its p-value.

    Radial kernel, its width the median distance. The p-value is that of a gamma distribution with the mean, variance and skewness of
    `permutations` rearrangements (Gretton et al., JMLR 13, 2012, section 5), so that it may lie far below one in so many.
    """
    both = np.concatenate([reference, newest])
    squares = (both**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * both @ both.T, 0.0)
    kernel = np.exp(-distances / max(float(np.median(distances)), 1e-12))
    n, m = len(reference), len(newest)
    weights = np.concatenate([np.full(n, 1.0 / n), np.full(m, -1.0 / m)])
    found = float(weights @ kernel @ weights)
    random = np.random.default_rng(seed)
    shuffled = np.array([random.permutation(weights) for _ in range(permutations)])
    null = np.einsum("ij,ij->i", shuffled @ kernel, shuffled)
    mean, deviation = float(null.mean()), max(float(null.std()), 1e-300)
    skewness = max(float((((null - mean) / deviation) ** 3).mean()), 0.05)
    shape = 4.0 / skewness**2
    return found, float(special.gammaincc(shape, max(0.0, shape + (found - mean) / deviation * math.sqrt(shape))))


def classifier(reference: Floats, newest: Floats, seed: int = 1) -> tuple[float, float]:
    """Return how often a linear classifier tells the two samples apart, where 0.5 is guessing, and the p-value (binomial).

    Half of each sample teaches, half is judged, with both samples' parts weighed alike (Lopez-Paz and Oquab, ICLR 2017).
    """
    random = np.random.default_rng(seed)
    old, new = (sample[random.permutation(len(sample))] for sample in (reference, newest))
    size = min(len(old), len(new))
    old, new = old[:size], new[:size]
    half = size // 2
    rows = np.concatenate([old[:half], new[:half]])
    middle, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-9)
    rows = (rows - middle) / scale
    # Linear discriminant with a ridge; the bias lies in the middle of the two means.
    apart = (new[:half].mean(axis=0) - old[:half].mean(axis=0)) / scale
    direction = np.linalg.solve(np.cov(rows.T).reshape(len(apart), len(apart)) + 0.1 * np.eye(len(apart)), apart)
    threshold = float(rows.mean(axis=0) @ direction)
    right = int(
        ((((new[half:] - middle) / scale) @ direction) > threshold).sum()
        + ((((old[half:] - middle) / scale) @ direction) <= threshold).sum()
    )
    judged = 2 * (size - half)
    return right / judged, float(special.bdtrc(right - 1, judged, 0.5)) if right > 0 else 1.0


Test = Callable[[Floats, Floats], tuple[float, float]]
TESTS: dict[str, Test] = {
    "psi": psi,
    "ks": kolmogorov_smirnov,
    "chi_square": lambda old, new: chi_square(*_counted(old, new)),
    "mmd": lambda old, new: mmd(old.reshape(len(old), -1), new.reshape(len(new), -1)),
    "classifier": lambda old, new: classifier(old.reshape(len(old), -1), new.reshape(len(new), -1)),
}


class WindowDetector:
    """Holds the newest `newest` values against the `reference` values before them, each `every` values."""

    def __init__(self, test: Test, *, limit: float, reference: int = 1024, newest: int = 256, every: int = 64, warm_up: int = 0) -> None:
        self._test = test
        self._limit = limit
        self._reference, self._newest, self._every, self._warm_up = reference, newest, every, warm_up
        self._values: list[float | Floats] = []
        self._times: list[int] = []
        self._seen = 0

    def observe(self, value: float | Floats, time_ms: int) -> Change | None:
        """Take in a value, or several features at once, (features,); see `Detector`."""
        self._seen += 1
        self._values.append(value)
        self._times.append(time_ms)
        size = self._reference + self._newest
        if len(self._values) > 2 * size:
            del self._values[:-size], self._times[:-size]
        if len(self._values) < size or self._seen % self._every or self._seen <= self._warm_up:
            return None
        values = np.array(self._values[-size:], np.float64)
        old, new = values[: self._reference], values[self._reference :]
        _, p_value = self._test(old, new)
        if p_value > self._limit:
            return None
        since_ms = self._times[-self._newest]
        self._values, self._times = self._values[-self._newest :], self._times[-self._newest :]
        return Change(float(old.mean()), float(new.mean()), self._newest, self._seen, since_ms, p_value)


def window_detector(name: str, *, limit: float = 1e-6, warm_up: int = 0, seed: int = 1, **sizes: int) -> WindowDetector:
    """Return the detector of a test by its name. Raises ValueError for an unknown one."""
    if name not in TESTS:
        raise ValueError(f"detector: one of {', '.join(TESTS)} was expected; the value is {name!r}")
    return WindowDetector(TESTS[name], limit=limit, warm_up=warm_up, **sizes)


def _counted(old: Floats, new: Floats) -> tuple[Floats, Floats]:
    names, codes = np.unique(np.concatenate([old, new]), return_inverse=True)
    return (
        np.bincount(codes[: len(old)], minlength=len(names)).astype(np.float64),
        np.bincount(codes[len(old) :], minlength=len(names)).astype(np.float64),
    )
