"""Measures of ranked lists with one right item each: HR, NDCG and MRR at 5, 10 and 20, coverage and popularity bias."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.evaluation.segments import Questions

CUTOFFS = (5, 10, 20)

Ranks = NDArray[np.int64]
Quality = dict[str, float | None]


def quality(ranks: Ranks) -> Quality:
    """Return `hr@k`, `ndcg@k` and `mrr@k` for each cutoff; None where nothing was asked.

    `ranks` (questions,) are places from 0, negative where the target was not listed. With a single right item the ideal gain
    is 1, so the NDCG is 1 / log2(place + 2) (Järvelin and Kekäläinen, ACM TOIS 20, 2002).
    """
    measured: Quality = {}
    for cutoff in CUTOFFS:
        for name, gains in (("hr", hits(ranks, cutoff)), ("ndcg", ndcg(ranks, cutoff)), ("mrr", reciprocal_ranks(ranks, cutoff))):
            measured[f"{name}@{cutoff}"] = float(gains.mean()) if len(gains) else None
    return measured


def hits(ranks: Ranks, cutoff: int) -> NDArray[np.float64]:
    """Return 1 for each target among the first `cutoff`, else 0."""
    found: NDArray[np.float64] = ((ranks >= 0) & (ranks < cutoff)).astype(np.float64)
    return found


def ndcg(ranks: Ranks, cutoff: int) -> NDArray[np.float64]:
    """Return the discounted gain of each target, 0 where it is not among the first `cutoff`."""
    gains: NDArray[np.float64] = hits(ranks, cutoff) / np.log2(np.maximum(ranks, 0) + 2)
    return gains


def reciprocal_ranks(ranks: Ranks, cutoff: int) -> NDArray[np.float64]:
    """Return 1 / place, counted from 1, of each target, 0 where it is not among the first `cutoff`."""
    gains: NDArray[np.float64] = hits(ranks, cutoff) / (np.maximum(ranks, 0) + 1)
    return gains


def coverage(recommended: Iterable[str], catalogue: Iterable[str]) -> float:
    """Return the share of the catalogue that was in any answer; 0 where there is no catalogue."""
    known = set(catalogue)
    return len(known.intersection(recommended)) / len(known) if known else 0.0


def popularity_bias(recommended: float, questions: Questions) -> float | None:
    """Return how much more popular the recommended items are than those that shoppers went to; 1 is unbiased.

    It is the mean of log2(1 + steps with the item so far) over all recommended items, divided by that over all targets: the
    average popularity of recommendations (Yin, Cui, Li, Yao and Chen, PVLDB 5, 2012) against that of what is consumed
    (Abdollahpouri, Mansoury, Burke and Mobasher, RecSys 2020), with a logarithm so that a few best sellers do not decide alone.
    None where no target had been seen before.
    """
    wanted = float(questions.popularity.mean()) if len(questions) else 0.0
    return recommended / wanted if wanted > 0 else None


def moving_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the means over each `window` values in a row, (values - window + 1,); the window is cut where there are fewer."""
    window = max(1, min(window, len(values)))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: NDArray[np.float64] = (sums[window:] - sums[:-window]) / window
    return means
