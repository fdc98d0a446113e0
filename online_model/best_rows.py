"""The largest of many products, and whose they are: as `torch.topk` finds them, in a fraction of its time.

Most products lie in groups whose largest is too small, and are never looked at one by one.
"""

from typing import Any

import numpy as np

from headrace.online_model.compiled import compiled, compiled_for_finite

GROUP = 16
CHUNK = GROUP * GROUP
# Of so many times as many numbers as are wanted, the least that may count is found.
ENOUGH = 4

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Rows = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@compiled
def rank_all(products: Floats, best_values: Floats, best_rows: Rows) -> None:
    """Write the best of each column of finite products, (size, batch), and their rows, (batch, k), the best first; row 0 is left out.

    There must be more than `k` rows. A group is of every 16th row of 256, so that the largest of many groups are found at a time.
    Where `k` groups of a column each hold one of at least c, none of its best is below c.
    """
    k, (size, batch) = best_values.shape[1], products.shape
    in_groups = (size - 1) // CHUNK * CHUNK
    largest = np.empty((in_groups // GROUP, batch), np.float32)
    _largest_of_groups(products.reshape(size * batch)[batch:], largest.reshape(largest.size), batch)
    scores, rows = np.empty((batch, 4 * k + CHUNK), np.float32), np.empty((batch, 4 * k + CHUNK), np.int64)
    counts, least = np.zeros(batch, np.int64), _reached_by(largest, k)
    for first in range(1, 1 + in_groups, CHUNK):
        for number in range(GROUP):
            for place in range(batch):
                if largest[first // GROUP + number, place] >= least[place]:
                    _add_column(products, place, range(first + number, first + CHUNK, GROUP), least, scores, rows, counts, k)
    for place in range(batch):
        _add_column(products, place, range(1 + in_groups, size, 1), least, scores, rows, counts, k)
        if counts[place] < k:
            # Only numbers that are none are neither above nor below; whoever asked is told so.
            best_values[place], best_rows[place] = np.float32(np.nan), np.arange(1, k + 1)
        else:
            write_best(scores[place], rows[place], counts[place], best_values[place], best_rows[place])


@compiled_for_finite
def _largest_of_groups(products: Floats, largest: Floats, batch: int) -> None:
    """Write the largest of each group of products, (rows * batch,), to `largest`, (groups * batch,)."""
    n = GROUP * batch
    for begun in range(0, len(largest), n):
        _largest_of_16(products[begun * GROUP : (begun + n) * GROUP], largest[begun : begun + n])


@compiled_for_finite
def _largest_of_16(a: Floats, best: Floats) -> None:
    """Write the largest of each 16 numbers that lie len(best) apart."""
    n = len(best)
    # Written out: a loop over the 16 would be compiled into one comparison at a time.
    for i in range(n):
        one = max(max(a[i], a[n + i]), max(a[2 * n + i], a[3 * n + i]))
        two = max(max(a[4 * n + i], a[5 * n + i]), max(a[6 * n + i], a[7 * n + i]))
        best[i] = max(one, two)
    for i in range(n):
        j = 8 * n + i
        one = max(max(a[j], a[n + j]), max(a[2 * n + j], a[3 * n + j]))
        two = max(max(a[4 * n + j], a[5 * n + j]), max(a[6 * n + j], a[7 * n + j]))
        best[i] = max(best[i], max(one, two))


@compiled
def _reached_by(largest: Floats, k: int) -> Floats:
    """Return what at least `k` groups of each column reach, (batch,); minus infinity where there are not that many."""
    groups, batch = largest.shape
    # The largest of some groups together tell nearly as much, and are sooner sorted.
    together = max(1, groups // (ENOUGH * k))
    regions = groups // together
    least = np.full(batch, -np.inf, np.float32)
    if regions >= k:
        columns = np.empty((batch, regions), np.float32)
        # Row by row: column by column, each number would be fetched with its whole row.
        for region in range(regions):
            for place in range(batch):
                best = largest[region * together, place]
                for group in range(region * together + 1, (region + 1) * together):
                    best = max(best, largest[group, place])
                columns[place, region] = best
        for place in range(batch):
            least[place] = np.partition(columns[place], regions - k)[regions - k]
    return least


@compiled
def _add_column(products: Floats, place: int, wanted: Any, least: Floats, scores: Floats, rows: Rows, counts: Rows, k: int) -> None:
    """Append the wanted rows of a column whose products reach `least`, (batch,), which rises as better ones are found."""
    for row in wanted:
        product = products[row, place]
        if product >= least[place]:
            scores[place, counts[place]], rows[place, counts[place]] = product, row
            counts[place] += 1
    if counts[place] >= 4 * k:
        least[place] = keep_best(scores[place], rows[place], counts[place], k)
        counts[place] = k


@compiled
def write_best(scores: Floats, rows: Rows, count: int, best_values: Floats, best_rows: Rows) -> None:
    """Write the best of the first `count`, (k,), in their order."""
    k = len(best_values)
    keep_best(scores, rows, count, k)
    order = np.argsort(-scores[:k], kind="mergesort")
    best_values[:], best_rows[:] = scores[order], rows[order]


@compiled
def keep_best(scores: Floats, rows: Rows, count: int, k: int) -> float:
    """Move the `k` best of the first `count` to the front, in any order; return the least of them."""
    least: float = np.partition(scores[:count], count - k)[count - k]
    above = np.sum(scores[:count] > least)
    equal_wanted, kept = k - above, 0
    for place in range(count):
        is_equal = scores[place] == least
        if scores[place] > least or (is_equal and equal_wanted > 0):
            equal_wanted -= is_equal
            scores[kept], rows[kept] = scores[place], rows[place]
            kept += 1
    return least
