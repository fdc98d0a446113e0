"""What the machine could do at best: how fast it reads memory and multiplies matrices, measured in the run that the limits are for.

Whoever scores a catalogue must read its table once for each batch, and multiply it with each vector of the batch. The limit of a batch
is the longer of the two times, in the precision in which the table is scored; a share of 1 would be a scorer that does nothing else.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from headrace.online_model.coarse_units import multiplies_matrices_fast

SIDE = 1024
REPEATS = 5


class Limits(NamedTuple):
    """Bytes a second that one thread reads of a table of this size, and operations a second, two for each product, by precision."""

    bytes_per_s: float
    operations_per_s: float


class Limit(NamedTuple):
    """Seconds that a batch takes at least, and which limit that is: 'memory' or 'arithmetic'."""

    seconds: float
    name: str


def measured(items: int, width: int, dtype: torch.dtype, device: str = "cpu") -> Limits:
    """Measure reading a table of this size and precision, and multiplying matrices of it.

    Where the processor has no fast product of 8-bit matrices, that of 32 bits stands for it.
    """
    numbers = items * width
    table = torch.ones(numbers, dtype=dtype, device=device)
    # Read as whole words, so that adding up costs less than reading.
    words = table.view(torch.float32)[: numbers * table.element_size() // 4]
    read_s = _best_s(lambda: words.sum(), device)
    multiplied = torch.float32 if dtype == torch.int8 and not multiplies_matrices_fast() else dtype
    left, right = (torch.ones(SIDE, SIDE, dtype=multiplied, device=device) for _ in range(2))

    def multiply() -> Tensor:
        return torch._int_mm(left, right) if multiplied == torch.int8 else left @ right

    return Limits(table.nbytes / read_s, 2.0 * SIDE**3 / _best_s(multiply, device))


def limit_of(limits: Limits, items: int, width: int, batch: int, dtype: torch.dtype) -> Limit:
    """Return the limit of a batch."""
    memory_s = items * width * dtype.itemsize / limits.bytes_per_s
    arithmetic_s = 2.0 * items * width * batch / limits.operations_per_s
    return Limit(memory_s, "memory") if memory_s > arithmetic_s else Limit(arithmetic_s, "arithmetic")


def _best_s(work: Callable[[], Tensor], device: str) -> float:
    def run_s() -> float:
        started_s = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started_s

    return min(run_s() for _ in range(REPEATS))
