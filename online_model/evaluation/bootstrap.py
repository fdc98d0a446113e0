"""How sure a difference between two models is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedDifference:
    """How a model compares with another on the same questions, each figure with its 95% interval.

    The ratio is None where the other has nothing to be divided by, an interval None where it cannot be told: of fewer than two
    shoppers, or where a resample has nothing to divide by.
    """

    difference: float
    difference_interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None
    shoppers: int


def compare(
    gains: NDArray[np.float64], other: NDArray[np.float64], shoppers: NDArray[np.int64], seed: int, resamples: int = RESAMPLES
) -> PairedDifference | None:
    """Return the difference of mean gains, and their ratio, with percentile bootstrap intervals; None where nothing was asked.

    `gains` and `other` are (questions,) and paired, `shoppers` (questions,) tells whose each is, numbered from 0. Shoppers are
    drawn, with all their questions, since the questions of one depend on each other (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, section 13.3; for clusters Field and Welsh, JRSS B 69, 2007).
    """
    if not len(gains):
        return None
    count = int(shoppers.max()) + 1
    # (3, shoppers): the sums of both and the number of questions.
    sums: NDArray[np.float64] = np.stack(
        [np.bincount(shoppers, weights=weights, minlength=count) for weights in (gains, other, np.ones(len(gains)))]
    ).astype(np.float64)
    difference, ratio = _figures(sums.sum(axis=1, keepdims=True))
    intervals = _intervals(sums, seed, resamples) if count > 1 else (None, None)
    return PairedDifference(float(difference[0]), intervals[0], _told(ratio[0]), intervals[1], count)


def _intervals(sums: NDArray[np.float64], seed: int, resamples: int) -> tuple[Interval | None, Interval | None]:
    draw = np.random.default_rng(seed)
    count = sums.shape[1]
    drawn = np.empty((3, resamples))
    for number in range(resamples):
        drawn[:, number] = sums @ np.bincount(draw.integers(count, size=count), minlength=count)
    differences, ratios = _figures(drawn)
    return _middle(differences), _middle(ratios)


def _figures(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gains, other, questions = sums
    ratios = np.divide(gains, other, out=np.full_like(gains, np.nan), where=other > 0)
    return (gains - other) / questions, ratios


def _middle(values: NDArray[np.float64]) -> Interval | None:
    if np.isnan(values).any():
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _told(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
