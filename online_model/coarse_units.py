"""The best items of a large catalogue on the CPU: found by unit vectors of 8 bits, ranked by those of 32.

A product with 8-bit vectors takes a fraction of the time, since it reads a quarter of the memory. What rounding changes is bounded, by
the Cauchy-Schwarz inequality: |q·u - q'·u'| <= |q||u - u'| + |q - q'||u'|. So where k rows have coarse products of at least c, their exact
ones are at least c less that bound, and a row whose coarse product lies below c by more than twice the bound is none of the best k. All
rows that are left are scored exactly: the answer is that of an exhaustive search, but for the order of equals and the last bits.
"""

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.compiled import compiled

# Below so many rows a plain product is as fast.
SMALLEST = 32_768
# Of each group of rows the largest product is kept, and of each region, which is some groups.
GROUP = 16
REGIONS = 2048
LARGEST = 127
# Numbers of a block of products, which are to stay in the processor's cache.
BLOCK = 1 << 18
TOGETHER = 256

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Counts = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
Rows = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def is_worth_it(units: Tensor, size: int, k: int) -> bool:
    """Whether the best `k` of `size` rows are found faster so: many rows, and a processor on which torch multiplies 8-bit matrices fast."""
    fast = units.device.type == "cpu" and torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()
    return fast and size >= SMALLEST and 4 * k <= REGIONS and len(units) % GROUP == 0


class CoarseUnits:
    """8-bit numbers of the rows of `units`, (capacity, width), which are vectors of length 1, or 0. Capacity is a multiple of 16.

    All rows have the same scale, so that products can be compared as whole numbers. One thread may `put` rows while nobody searches.
    """

    def __init__(self, units: Tensor) -> None:
        self._scale = float(units.abs().max().clamp_min(1e-12)) / LARGEST
        self._numbers = torch.empty(units.shape, dtype=torch.int8)
        # The greatest length of a row's rounding error so far.
        self._error = 0.0
        for first in range(0, len(units), BLOCK):
            self._round(slice(first, first + BLOCK), units[first : first + BLOCK])

    def put(self, rows: Tensor, units: Tensor) -> None:
        """Follow rows, (rows,), that have new unit vectors, (rows, width)."""
        self._round(rows, units)

    def best(self, units: Tensor, vectors: Tensor, size: int, k: int) -> tuple[Tensor, Tensor]:
        """Return the `k` largest products of each vector, (batch, width), with the rows 1 to `size` - 1 of `units`, and these rows.

        Both are (batch, k), the largest first. `is_worth_it` must hold for `size` and `k`.
        """
        values, rows = np.empty((len(vectors), k), np.float32), np.empty((len(vectors), k), np.int64)
        for first in range(0, len(vectors), TOGETHER):
            part = vectors[first : first + TOGETHER].contiguous()
            largest, regions, bounds = self._largest(part, size)
            # Row 0, and rows beyond the last, may be among the largest; each counts once at most, in a region of its own.
            floors = regions.topk(k + 2, dim=1).values[:, -1]
            cuts = torch.floor(floors - 2.0 * bounds).to(torch.int32)
            stop = first + len(part)
            _rank(
                units.numpy(),
                part.numpy(),
                largest.numpy(),
                regions.numpy(),
                cuts.numpy(),
                size,
                values[first:stop],
                rows[first:stop],
            )
        return torch.from_numpy(values), torch.from_numpy(rows)

    def _largest(self, vectors: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the largest coarse product of each group, (groups, batch), and each region, (batch, regions), and the bounds, (batch,).

        All are in the unit of the whole numbers' products.
        """
        batch, groups = len(vectors), -(-size // GROUP)
        scales = vectors.abs().amax(dim=1).clamp_min(1e-12) / LARGEST
        rounded = (vectors / scales[:, None]).round_()
        lost = (vectors - rounded * scales[:, None]).norm(dim=1)
        queries = rounded.to(torch.int8).T.contiguous()
        together = max(1, groups // REGIONS)
        regions = -(-groups // together)
        largest = torch.empty(regions * together, batch, dtype=torch.int32)
        largest[groups:] = -(2**31)
        step = max(1, BLOCK // (GROUP * batch))
        products = torch.empty(min(step, groups) * GROUP, batch, dtype=torch.int32)
        for first in range(0, groups, step):
            count = min(step, groups - first)
            block = products[: count * GROUP]
            torch._int_mm(self._numbers[first * GROUP : (first + count) * GROUP], queries, out=block)
            torch.amax(block.view(count, GROUP, batch), dim=1, out=largest[first : first + count])
        bounds = (vectors.norm(dim=1) * self._error + lost * (1.0 + self._error)) / (scales * self._scale)
        return largest, largest.view(regions, together, batch).amax(dim=1).T.contiguous(), bounds

    @torch.no_grad()
    def _round(self, rows: slice | Tensor, units: Tensor) -> None:
        numbers = (units / self._scale).round_().clamp_(-LARGEST, LARGEST)
        self._numbers[rows] = numbers.to(torch.int8)
        if len(units):
            self._error = max(self._error, float((units - numbers * self._scale).norm(dim=1).max()))


@compiled
def _rank(
    units: Floats, vectors: Floats, largest: Counts, regions: Counts, cuts: Counts, size: int, best_values: Floats, best_rows: Rows
) -> None:
    """Score exactly all rows of the groups that reach the cut of a vector, (batch,), and write the best, (batch, k), in their order."""
    k = best_values.shape[1]
    for place in range(vectors.shape[0]):
        groups = _groups_at(largest, regions, cuts[place], place)
        scores, rows = np.empty(len(groups) * GROUP, np.float32), np.empty(len(groups) * GROUP, np.int64)
        found = 0
        for group in groups:
            for row in range(max(1, group * GROUP), min(size, (group + 1) * GROUP)):
                product = np.float32(0.0)
                for column in range(vectors.shape[1]):
                    product += units[row, column] * vectors[place, column]
                scores[found], rows[found] = product, row
                found += 1
        # What is below the k-th best is not worth sorting.
        least = np.partition(scores[:found], found - k)[found - k]
        kept = np.flatnonzero(scores[:found] >= least)
        order = kept[np.argsort(-scores[kept], kind="mergesort")][:k]
        best_values[place], best_rows[place] = scores[order], rows[order]


@compiled
def _groups_at(largest: Counts, regions: Counts, cut: int, place: int) -> Rows:
    """Return the groups whose largest product with the vector at this place reaches the cut."""
    together = largest.shape[0] // regions.shape[1]
    found = np.empty(largest.shape[0], np.int64)
    count = 0
    for region in range(regions.shape[1]):
        if regions[place, region] >= cut:
            for group in range(region * together, (region + 1) * together):
                if largest[group, place] >= cut:
                    found[count] = group
                    count += 1
    return found[:count]
