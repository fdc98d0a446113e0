"""The best items of a catalogue on a GPU: found by unit vectors of 16 bits, all of them, and ranked by those of 32.

A kernel multiplies the table with all vectors of a batch, keeps the largest product of each group of rows, and sums up what the normaliser
needs, so that the products themselves never reach memory. The k best rows lie in the k groups whose largest products are the greatest;
twice as many groups are scored exactly, since rounding may change which come last. 16 bits are IEEE halves: numbers of unit vectors are at
most 1, so the wider range of bfloat16 would be of no use, and its rounding errors are eight times as large.

Nothing here asks the GPU for a number, and all shapes follow from those of the input: so it can be captured as a CUDA graph.
"""

import logging
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)

GROUP = 16
# Groups that are scored exactly for each row that is wanted.
SPARE = 2
# Rows and vectors of one program of the kernel; the tensor cores take no fewer than 16 of either.
ROWS, VECTORS = 128, 16


class Ranking(NamedTuple):
    """For each vector the rows of the best items and their logits, (batch, k), the largest first, and its normaliser, (batch,)."""

    rows: Tensor
    logits: Tensor
    normalisers: Tensor


class HalfUnits:
    """Unit vectors, (capacity, width), in 16 bits. Of these rows `size` are in use, the first for no item."""

    def __init__(self, units: Tensor, size: int) -> None:
        self._table = units.to(torch.float16)
        # On the device, where what was captured while the catalogue was smaller reads it anew each time.
        self._size = torch.tensor([size], dtype=torch.int32, device=units.device)
        self._in_group = torch.arange(GROUP, device=units.device)

    @staticmethod
    def fits(units: Tensor, k: int) -> bool:
        """Whether the kernel can multiply such a table, and it has enough groups for its `k` best."""
        capacity, width = units.shape
        return capacity % ROWS == 0 and SPARE * k <= capacity // GROUP and width >= 16 and width & (width - 1) == 0

    @torch.no_grad()
    def put(self, rows: Tensor, units: Tensor, size: int) -> None:
        """Follow rows, (rows,), that have new unit vectors, (rows, width), and the number of rows in use."""
        self._table.index_copy_(0, rows, units.to(torch.float16))
        self._size.fill_(size)

    def best(self, units: Tensor, vectors: Tensor, k: int, height: float) -> Ranking:
        """Return the `k` rows in use, but the first, that have the largest logits: products of a vector, (batch, width), with `units`.

        No logit is above `height`. Normalisers are right to 0.001. Where fewer than `k` rows are in use the last logits are minus infinity.
        """
        rounded = vectors.to(torch.float16)
        largest, sums = products_by_group(self._table, rounded, self._size, height)
        groups = largest.topk(SPARE * k, dim=1, sorted=False).indices
        rows = (groups.unsqueeze(2) * GROUP + self._in_group).flatten(1)
        exact = self._logits(units, vectors, rows)
        top = exact.topk(k, dim=1)
        # The likeliest items make up most of the sum, and theirs is the rounding error that would not cancel out.
        coarse = self._logits(self._table, rounded, rows)
        corrected = sums.sum(dim=1) + ((exact - height).exp() - (coarse - height).exp()).sum(dim=1)
        return Ranking(rows.gather(1, top.indices), top.values, corrected.log() + height)

    def _logits(self, table: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
        products = (table[rows].float() @ vectors.float().unsqueeze(2)).squeeze(2)
        return products.masked_fill(~_in_use(rows, self._size), float("-inf"))


def products_by_group(table: Tensor, vectors: Tensor, size: Tensor, height: float) -> tuple[Tensor, Tensor]:
    """Return of the products of each vector, (batch, width), with the rows of a table, (capacity, width), two summaries, in 32 bits.

    They are the largest of each 16 rows, (batch, capacity / 16), and the sum of exp(product - height) over each 128 rows,
    (batch, capacity / 128). Row 0 and those from `size`, (1,), on count as minus infinity.
    """
    kernel = _kernel() if table.device.type == "cuda" else None
    return by_torch(table, vectors, size, height) if kernel is None else by_kernel(kernel, table, vectors, size, height)


def by_torch(table: Tensor, vectors: Tensor, size: Tensor, height: float) -> tuple[Tensor, Tensor]:
    """Do what `products_by_group` does, with all products in memory."""
    in_use = _in_use(torch.arange(len(table), device=table.device), size)
    products = (vectors.float() @ table.float().T).masked_fill(~in_use, float("-inf"))
    return products.unflatten(1, (-1, GROUP)).amax(dim=2), (products - height).exp_().unflatten(1, (-1, ROWS)).sum(dim=2)


def by_kernel(kernel: Any, table: Tensor, vectors: Tensor, size: Tensor, height: float) -> tuple[Tensor, Tensor]:
    """Do what `products_by_group` does by the kernel of `half_units_kernel`."""
    groups, blocks, batch = len(table) // GROUP, len(table) // ROWS, len(vectors)
    largest = torch.empty(batch, groups, device=table.device)
    sums = torch.empty(batch, blocks, device=table.device)
    shape = table.shape[1], ROWS, VECTORS, GROUP
    kernel[blocks, -(-batch // VECTORS)](table, vectors.contiguous(), size, height, largest, sums, groups, blocks, batch, *shape)
    return largest, sums


def _in_use(rows: Tensor, size: Tensor) -> Tensor:
    return (rows > 0) & (rows < size)


@cache
def _kernel() -> Any | None:
    """Return the kernel, which is compiled here; None where Triton, which comes with torch for GPUs, or its C compiler is missing."""
    try:
        from headrace.online_model.half_units_kernel import products_by_group as kernel

        tried = torch.eye(ROWS, 16, dtype=torch.float16, device="cuda")
        by_kernel(kernel, tried, tried[:1], torch.tensor([2], dtype=torch.int32, device="cuda"), 1.0)
    except Exception:
        log.exception("the GPU kernel cannot be compiled; catalogues are scored without it, in several times the time")
        return None
    return kernel
