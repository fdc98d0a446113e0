"""The best items of a large catalogue on the CPU: found by unit vectors of 8 bits, ranked by those of 32.

A product with 8-bit vectors takes a fraction of the time, since it reads a quarter of the memory. What rounding changes is bounded, by
the Cauchy-Schwarz inequality: |q·u - q'·u'| <= |q||u - u'| + |q - q'||u'|. So where k rows have coarse products of at least c, their exact
ones are at least c less that bound, and a row whose coarse product lies below c by more than twice the bound is none of the best k. All
rows that are left are scored exactly: the answer is that of an exhaustive search, but for the order of equals and the last bits.
"""

import math
from functools import cache

import llvmlite.binding
import numpy as np
import torch
from torch import Tensor

from headrace.online_model.best_rows import keep_best, write_best
from headrace.online_model.compiled import compiled

# Up to so many vectors are multiplied by a loop of our own, which is faster for them than torch's product of 8-bit matrices.
FEW, MANY = 3, 32
# Of each group of rows the largest product is kept, and of each region, which is some groups.
GROUP = 16
REGIONS = 2048
LARGEST = 127
# Numbers of a block of products, which are to stay in the processor's cache.
BLOCK = 1 << 18
TOGETHER = 128
# With one of these a processor multiplies 8-bit matrices fast.
DOT_PRODUCTS = ("avx512vnni", "avxvnni", "amx-int8")

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int8]]
Queries = np.ndarray[tuple[int, ...], np.dtype[np.int16]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Counts = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
Rows = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def is_worth_it(units: Tensor, size: int, k: int, batch: int) -> bool:
    """Whether the best `k` of `size` rows are found faster so for `batch` vectors: many rows, of which few are wanted, on the CPU."""
    is_much = size >= pays_from(batch)
    return is_much and units.device.type == "cpu" and 4 * k <= REGIONS and len(units) % GROUP == 0


def pays_from(batch: int) -> float:
    """Return from how many rows on a plain product of so many vectors is slower, as measured on two kinds of processors."""
    if not multiplies_matrices_fast():
        return 65_536 if batch < FEW else math.inf
    return 160_000 if FEW < batch < MANY else 32_768


@cache
def multiplies_matrices_fast() -> bool:
    """Whether torch has a fast product of 8-bit matrices on this processor; without, it goes through them number by number."""
    features = llvmlite.binding.get_host_cpu_features()
    return torch.backends.mkldnn.is_available() and any(features.get(name, False) for name in DOT_PRODUCTS)


class CoarseUnits:
    """8-bit numbers of the rows of `units`, (capacity, width), which are vectors of length 1, or 0. Capacity is a multiple of 16.

    All rows have the same scale, so that products can be compared as whole numbers. One thread may `put` rows while nobody searches.
    """

    def __init__(self, units: Tensor) -> None:
        self._scale = float(units.abs().max().clamp_min(1e-12)) / LARGEST
        self._numbers = torch.empty(units.shape, dtype=torch.int8)
        # The greatest length of a row's rounding error so far.
        self._error = 0.0
        self.put(torch.arange(len(units)), units)

    def put(self, rows: Tensor, units: Tensor) -> None:
        """Follow rows, (rows,), of the unit vectors, (capacity, width), that have changed."""
        error = _round(units.numpy(), rows.contiguous().numpy(), np.float32(self._scale), self._numbers.numpy())
        self._error = max(self._error, error)

    def best(self, units: Tensor, vectors: Tensor, size: int, k: int) -> tuple[Tensor, Tensor]:
        """Return the `k` largest products of each vector, (batch, width), with the rows 1 to `size` - 1 of `units`, and these rows.

        Both are (batch, k), the largest first. There must be many more rows than `k`, as `is_worth_it` tells.
        """
        values, rows = np.empty((len(vectors), k), np.float32), np.empty((len(vectors), k), np.int64)
        table = units.numpy()
        for first in range(0, len(vectors), TOGETHER):
            part = vectors[first : first + TOGETHER].contiguous()
            largest, regions, bounds, unit = self._largest(part, size)
            # Row 0, and rows beyond the last, may be among the largest; each counts once at most, in a region of its own.
            floors = regions.topk(k + 2, dim=0).values[-1]
            cuts = torch.floor(floors - 2.0 * bounds).to(torch.int32).numpy()
            # No exact product among the best is below these; a little less, for what sums of floats lose.
            least = ((floors - bounds) * unit - 1e-5 * part.norm(dim=1)).numpy()
            found = slice(first, first + len(part))
            _rank(table, part.numpy(), largest.numpy(), regions.numpy(), cuts, least, size, values[found], rows[found])
        return torch.from_numpy(values), torch.from_numpy(rows)

    def _largest(self, vectors: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the largest coarse product of each group, (groups, batch), and of each region, (regions, batch), and the bounds, (batch,).

        All are whole numbers' products, or in their unit; what these are to be multiplied by comes last, (batch,).
        """
        batch, groups = len(vectors), -(-size // GROUP)
        scales = vectors.abs().amax(dim=1).clamp_min(1e-12) / LARGEST
        rounded = (vectors / scales[:, None]).round_()
        lost = (vectors - rounded * scales[:, None]).norm(dim=1)
        together = max(1, groups // REGIONS)
        regions = -(-groups // together)
        largest = torch.empty(regions * together, batch, dtype=torch.int32)
        largest[groups:] = -(2**31)
        if batch > FEW and multiplies_matrices_fast():
            self._multiply_matrices(rounded, largest[:groups])
        else:
            _multiply(self._numbers.numpy(), rounded.to(torch.int16).numpy(), largest[:groups].numpy())
        unit = scales * self._scale
        bounds = (vectors.norm(dim=1) * self._error + lost * (1.0 + self._error)) / unit
        return largest, largest.view(regions, together, batch).amax(dim=1), bounds, unit

    def _multiply_matrices(self, rounded: Tensor, largest: Tensor) -> None:
        """Do as `_multiply`, with torch."""
        groups, batch = largest.shape
        queries = rounded.to(torch.int8).T.contiguous()
        step = max(1, BLOCK // (GROUP * batch))
        products = torch.empty(min(step, groups) * GROUP, batch, dtype=torch.int32)
        for first in range(0, groups, step):
            count = min(step, groups - first)
            block = products[: count * GROUP]
            torch._int_mm(self._numbers[first * GROUP : (first + count) * GROUP], queries, out=block)
            torch.amax(block.view(count, GROUP, batch), dim=1, out=largest[first : first + count])


@compiled
def _round(units: Floats, rows: Rows, scale: np.float32, numbers: Numbers) -> float:
    """Round rows to whole numbers of `scale`, and return the greatest length of what a row has lost."""
    greatest = np.float32(0.0)
    for row in rows:
        square = np.float32(0.0)
        for column in range(units.shape[1]):
            value = units[row, column]
            number = min(max(np.rint(value / scale), np.float32(-LARGEST)), np.float32(LARGEST))
            numbers[row, column] = np.int8(number)
            lost = value - number * scale
            square += lost * lost
        greatest = max(greatest, square)
    return math.sqrt(greatest)


@compiled
def _multiply(numbers: Numbers, queries: Queries, largest: Counts) -> None:
    """Write the largest product of each group of rows with each query, (batch, width), to `largest`, (groups, batch)."""
    products = np.empty(GROUP, np.int32)
    for group in range(largest.shape[0]):
        for place in range(queries.shape[0]):
            query = queries[place]
            for number in range(GROUP):
                row = numbers[group * GROUP + number]
                product = np.int32(0)
                for column in range(query.shape[0]):
                    product += np.int32(row[column]) * np.int32(query[column])
                products[number] = product
            # In a loop of its own: so the compiler takes many columns at once above, and many rows here.
            best = products[0]
            for number in range(1, GROUP):
                best = max(best, products[number])
            largest[group, place] = best


@compiled
def _rank(
    units: Floats,
    vectors: Floats,
    largest: Counts,
    regions: Counts,
    cuts: Counts,
    least: Floats,
    size: int,
    best_values: Floats,
    best_rows: Rows,
) -> None:
    """Score exactly all rows of the groups that reach the cut of a vector, (batch,), and write the best, (batch, k), in their order.

    Groups come in the order of the table, each for all vectors, so that its rows are read once. Products below `least`, (batch,), which
    rises as better ones are found, are dropped.
    """
    batch, together, k = vectors.shape[0], largest.shape[0] // regions.shape[0], best_values.shape[1]
    scores, rows = np.empty((batch, 4 * k + GROUP), np.float32), np.empty((batch, 4 * k + GROUP), np.int64)
    counts, asking = np.zeros(batch, np.int64), np.empty(batch, np.int64)
    for region in range(regions.shape[0]):
        wanted = 0
        for place in range(batch):
            if regions[region, place] >= cuts[place]:
                asking[wanted] = place
                wanted += 1
        for group in range(region * together, (region + 1) * together):
            for place in asking[:wanted]:
                if largest[group, place] >= cuts[place]:
                    counts[place] = _add_group(units, vectors[place], group, size, least[place], scores[place], rows[place], counts[place])
                    if counts[place] >= 4 * k:
                        least[place] = keep_best(scores[place], rows[place], counts[place], k)
                        counts[place] = k
    for place in range(batch):
        write_best(scores[place], rows[place], counts[place], best_values[place], best_rows[place])


@compiled
def _add_group(units: Floats, vector: Floats, group: int, size: int, least: float, scores: Floats, rows: Rows, count: int) -> int:
    """Append the rows of a group whose products reach `least`; return how many there are then."""
    for row in range(max(1, group * GROUP), min(size, (group + 1) * GROUP)):
        product = np.float32(0.0)
        for column in range(vector.shape[0]):
            product += units[row, column] * vector[column]
        if product >= least:
            scores[count], rows[count] = product, row
            count += 1
    return count
