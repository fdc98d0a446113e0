"""Histories as the numbers that the Transformer reads: the item's row and how, when, for what price and in which category it was touched.

Nothing here raises for odd contents: what is unknown or makes no sense becomes 0, and what is too large the largest bucket.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.compiled import compiled
from headrace.schemas import HistoryEntry

UNKNOWN = 0
KIND_ROWS = {"view": 0, "cart": 1, "purchase": 2}
GAPS = 24
PRICES = 64
# Half octaves: the first bucket ends at a price of 2**-7, the last begins at 2**24.
LOWEST_PRICE = 15.0

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class StepBatch(NamedTuple):
    """Steps of a batch of histories, padded on the right with 0: whole numbers of shape (batch, longest), lengths of (batch,).

    `rows` are rows of the item table, 0 for an unknown item; `kinds` are rows of `KIND_ROWS`; `gaps` are 0 where no time has passed
    since the step before, else 1 + log2 of the seconds; `prices` are half octaves of the price, 0 where none is known;
    `categories` are 31-bit hashes, 0 where none is known.
    """

    rows: Tensor
    kinds: Tensor
    gaps: Tensor
    prices: Tensor
    categories: Tensor
    lengths: Tensor


def encode(histories: Sequence[Sequence[HistoryEntry]], rows: Mapping[str, int], length: int) -> StepBatch:
    """Return the last `length` steps of each history (oldest first), with `rows` telling the row of an item.

    An empty history becomes a single unknown step. The first step that is seen has no gap.
    """
    return as_batch(*encode_numbers(histories, rows, length))


def encode_numbers(histories: Sequence[Sequence[HistoryEntry]], rows: Mapping[str, int], length: int) -> tuple[Numbers, Numbers]:
    """Return what `encode` does as one array (batch, longest, 5), in the order of `StepBatch`, and the lengths (batch,)."""
    clipped = [history[-length:] for history in histories]
    counts = np.fromiter(map(len, clipped), np.int64, len(clipped))
    lengths = np.maximum(counts, 1)
    numbers = np.zeros((len(clipped), int(lengths.max(initial=1)), 5), np.int64)
    flat = [entry for history in clipped for entry in history]
    named = np.array(
        [(rows.get(entry.item_id, UNKNOWN), KIND_ROWS.get(entry.kind, 0), _category(entry.category)) for entry in flat], np.int64
    ).reshape(-1, 3)
    told = np.array([(entry.time_ms, entry.price or 0.0) for entry in flat], np.float64).reshape(-1, 2)
    _write(counts, named, told, numbers)
    return numbers, lengths


def as_batch(numbers: Numbers, lengths: Numbers) -> StepBatch:
    """Return arrays as `encode_numbers` gives them as tensors."""
    rows, kinds, gaps, prices, categories = torch.from_numpy(numbers).unbind(dim=2)
    return StepBatch(rows, kinds, gaps, prices, categories, torch.from_numpy(lengths))


@compiled
def _write(counts: Numbers, named: Numbers, told: Floats, numbers: Numbers) -> None:
    """Write the steps, of which `named` holds row, kind and category and `told` time and price, to `numbers`, history by history."""
    at = 0
    for history in range(len(counts)):
        for place in range(counts[history]):
            step = numbers[history, place]
            step[0], step[1], step[4] = named[at]
            step[2] = _gap(told[at, 0] - told[at - 1, 0]) if place else 0
            step[3] = _price(told[at, 1])
            at += 1


@compiled
def _gap(passed_ms: float) -> int:
    passed_s = passed_ms / 1000.0
    # What is no number, or without end, is no gap.
    if not 0.0 < passed_s < np.inf:
        return 0
    return int(min(1.0 + np.log2(max(passed_s, 1.0)), GAPS - 1.0))


@compiled
def _price(price: float) -> int:
    if not 0.0 < price < np.inf:
        return 0
    return int(min(max(2.0 * np.log2(price) + LOWEST_PRICE, 1.0), PRICES - 1.0))


@lru_cache(maxsize=65_536)
def _category(category: str | None) -> int:
    """Return a hash of 31 bits, never 0, of a category; 0 for none."""
    if not category:
        return 0
    return (crc32(category.encode(errors="replace")) & 0x7FFFFFFF) or 1
