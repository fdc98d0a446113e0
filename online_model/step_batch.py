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

from headrace.schemas import HistoryEntry

UNKNOWN = 0
KIND_ROWS = {"view": 0, "cart": 1, "purchase": 2}
GAPS = 24
PRICES = 64
# Half octaves: the first bucket ends at a price of 2**-7, the last begins at 2**24.
LOWEST_PRICE = 15.0

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


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
    if flat:
        firsts = np.zeros(len(flat), bool)
        firsts[(np.cumsum(counts) - counts)[counts > 0]] = True
        numbers[np.arange(numbers.shape[1]) < counts[:, None]] = np.stack(
            [
                np.fromiter((rows.get(entry.item_id, UNKNOWN) for entry in flat), np.int64, len(flat)),
                np.fromiter((KIND_ROWS.get(entry.kind, 0) for entry in flat), np.int64, len(flat)),
                _gaps(flat, firsts),
                _prices(flat),
                np.fromiter((_category(entry.category) for entry in flat), np.int64, len(flat)),
            ],
            axis=1,
        )
    return numbers, lengths


def as_batch(numbers: Numbers, lengths: Numbers) -> StepBatch:
    """Return arrays as `encode_numbers` gives them as tensors."""
    rows, kinds, gaps, prices, categories = torch.from_numpy(numbers).unbind(dim=2)
    return StepBatch(rows, kinds, gaps, prices, categories, torch.from_numpy(lengths))


def _gaps(flat: Sequence[HistoryEntry], firsts: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Numbers:
    times_s = np.array([entry.time_ms for entry in flat], np.float64) / 1000.0
    passed_s = np.diff(times_s, prepend=times_s[:1])
    passed_s[firsts | ~np.isfinite(passed_s) | (passed_s < 0.0)] = 0.0
    gaps: Numbers = np.where(passed_s > 0.0, np.clip(1.0 + np.log2(np.maximum(passed_s, 1.0)), 1.0, GAPS - 1.0), 0.0).astype(np.int64)
    return gaps


def _prices(flat: Sequence[HistoryEntry]) -> Numbers:
    prices = np.array([entry.price or 0.0 for entry in flat], np.float64)
    known = np.isfinite(prices) & (prices > 0.0)
    buckets = np.clip(2.0 * np.log2(np.where(known, prices, 1.0)) + LOWEST_PRICE, 1.0, PRICES - 1.0)
    numbers: Numbers = np.where(known, buckets, 0.0).astype(np.int64)
    return numbers


@lru_cache(maxsize=65_536)
def _category(category: str | None) -> int:
    """Return a hash of 31 bits, never 0, of a category; 0 for none."""
    if not category:
        return 0
    return (crc32(category.encode(errors="replace")) & 0x7FFFFFFF) or 1
