"""How often each item is shown: the share of the lists of a fixed panel of shoppers that it stands in."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.online_model.gate_state import PanelState
from headrace.online_model.history_ring import KeptHistories
from headrace.online_model.step_batch import UNKNOWN, Numbers
from headrace.online_model.transformer import NextItemTransformer
from headrace.online_model.tuning_loss import TouchedRows

LISTED = 20
NEAR = 100
HISTORIES_AT_ONCE = 16

Counts = NDArray[np.int64]


class Panel:
    """Histories, and for each the items that can come into its list: the `NEAR` best of the weights at hand, and all that change.

    So a candidate is asked for some thousand items, however many there are. That is exact as long as nothing else comes near, and nearly so
    afterwards: what lies beyond can come nearer when the shoppers' own items move. After 32 rounds on RetailRocket 1% of the places in
    lists were others than in full, one list of 64 for any single item; with the 50 best it was 5%, and two lists.
    """

    @torch.no_grad()
    def __init__(self, model: NextItemTransformer, histories: KeptHistories, items: int) -> None:
        self._numbers, self._lengths = _last_steps(histories, model.shape.length)
        self._size = len(histories)
        vectors = self._vectors(model)
        units = model.unit_items(torch.arange(items))
        near = [_best(vectors[first : first + HISTORIES_AT_ONCE] @ units.T, NEAR) for first in range(0, self._size, HISTORIES_AT_ONCE)]
        self._near = torch.cat(near) if near else torch.zeros(0, 0, dtype=torch.int64)
        self._asked = self._near

    def __len__(self) -> int:
        return self._size

    @torch.no_grad()
    def counts(self, model: NextItemTransformer, touched: Tensor) -> Counts:
        """Return how many of the lists each row of the table is in by the weights of `model`, (capacity,).

        `touched` are the rows that have changed since the panel was made or `keep` was called, (rows,), each once.
        """
        counts: Counts = np.zeros(model.capacity, np.int64)
        if not self._size:
            return counts
        vectors = self._vectors(model)
        has_changed = torch.zeros(model.capacity, dtype=torch.bool)
        has_changed[touched] = True
        near = (model.unit_items(self._near) @ vectors.unsqueeze(2)).squeeze(2)
        # What is near and has changed as well is counted once, among the changed.
        near = near.masked_fill_(has_changed[self._near] | (self._near == UNKNOWN), float("-inf"))
        changed = vectors @ model.unit_items(touched).T
        changed[:, touched == UNKNOWN] = float("-inf")
        scores = torch.cat([near, changed], dim=1)
        found = scores.topk(min(NEAR, scores.shape[1]), dim=1)
        rows = self._near.gather(1, found.indices.clamp_max(near.shape[1] - 1))
        if len(touched):
            rows = torch.where(found.indices < near.shape[1], rows, touched[(found.indices - near.shape[1]).clamp_min(0)])
        self._asked = rows.masked_fill_(found.values.isneginf(), UNKNOWN)
        np.add.at(counts, self._asked[:, :LISTED].numpy().ravel(), 1)
        counts[UNKNOWN] = 0
        return counts

    def keep(self) -> None:
        """Go on from the weights that were asked last: they are the ones at hand now."""
        self._near = self._asked

    def state(self) -> PanelState:
        """Return the histories and what is near to each, as `keep` has left it."""
        return PanelState(self._numbers, self._lengths, self._near.numpy())

    def restore(self, state: PanelState) -> None:
        """Go on with the histories of a state, and what is near to them."""
        self._numbers, self._lengths, self._size = state.steps, state.lengths, len(state.lengths)
        self._near = self._asked = torch.from_numpy(state.near)

    def _vectors(self, model: NextItemTransformer) -> Tensor:
        """Return what the weights make of each history, (histories, width)."""
        if not self._size:
            return torch.zeros(0, model.shape.width)
        touched = TouchedRows(model, torch.from_numpy(self._numbers[:, :, 0]), torch.empty(0, dtype=torch.int64))
        return touched.vectors_after(model, touched.units(), self._numbers, self._lengths)


def grown(now: Counts, before: Counts, times: float, allowed: float) -> list[int]:
    """Return the rows that are in more than `times` as many lists as `before` and `allowed` more."""
    known = np.zeros_like(now)
    known[: len(before)] = before
    rows: list[int] = np.nonzero(now > times * known + allowed)[0].tolist()
    return rows


def _last_steps(histories: KeptHistories, length: int) -> tuple[Numbers, Numbers]:
    """Return the last `length` steps of each history, as they are seen when a list is asked for."""
    starts = np.maximum(histories.lengths - length, 0)
    width = min(length, histories.numbers.shape[1])
    places = np.minimum(starts[:, None] + np.arange(width), histories.numbers.shape[1] - 1)
    return histories.numbers[np.arange(len(histories))[:, None], places], histories.lengths - starts


def _best(scores: Tensor, wanted: int) -> Tensor:
    return scores.topk(min(wanted, scores.shape[1]), dim=1).indices
