"""Two rules that move an item's row at once, before any gradient: where a new item starts, and how the first events pull it.

An item that stands among others in a history is likely of their kind. A gradient step is short, and a new item is seen seldom; so its
row starts beside those of the items around it, and each event pulls it further, the less the more often it has been seen.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.step_batch import UNKNOWN, Numbers

START_CONTEXT = 5
PULL_CONTEXT = 4


@dataclass(frozen=True)
class Contexts:
    """Rows of items, each with rows of the items around it, (items, steps), 0 where there are fewer."""

    items: Numbers
    around: Numbers


def contexts_of_new(rows: Numbers, new: Numbers) -> Contexts:
    """Return the items of the `new` rows, each with the last 5 known ones of the history that it comes first in.

    `rows` are histories, (histories, longest), 0 for padding. New items around which nothing is known are left out.
    """
    found: dict[int, Numbers] = {}
    is_new = np.isin(rows, new)
    for place in np.nonzero(is_new.any(axis=1))[0].tolist():
        known = rows[place, ~is_new[place] & (rows[place] != UNKNOWN)][-START_CONTEXT:]
        if len(known):
            for item in rows[place, is_new[place]].tolist():
                found.setdefault(item, known)
    around = np.zeros((len(found), START_CONTEXT), np.int64)
    for place, known in enumerate(found.values()):
        around[place, : len(known)] = known
    return Contexts(np.fromiter(found, np.int64, len(found)), around)


def contexts_of_steps(rows: Numbers, lengths: Numbers, fresh: Numbers) -> Contexts:
    """Return the items of the last `fresh` steps of each history with those of the 4 steps before them, the item itself left out.

    Steps that repeat the item before them, and those with nothing else before them, are passed over.
    """
    places = np.arange(rows.shape[1])
    histories, steps = np.nonzero((places >= np.maximum(lengths - fresh, 1)[:, None]) & (places < lengths[:, None]))
    before = steps[:, None] - np.arange(PULL_CONTEXT, 0, -1)
    items = rows[histories, steps]
    around = np.where(before >= 0, rows[histories[:, None], np.maximum(before, 0)], UNKNOWN)
    news = around[:, -1] != items
    around[around == items[:, None]] = UNKNOWN
    news &= (around != UNKNOWN).any(axis=1)
    return Contexts(items[news], around[news])


@torch.no_grad()
def start_by_context(table: Tensor, contexts: Contexts, share: float) -> None:
    """Set each item's row to `share` of the mean of the rows around it, and the rest of where it was; `table` is (rows, width)."""
    if len(contexts.items):
        rows = torch.from_numpy(contexts.items)
        table[rows] = torch.lerp(table[rows], _means(table, contexts.around), share)


@torch.no_grad()
def pull_to_context(table: Tensor, contexts: Contexts, strength: Tensor) -> None:
    """Move each item's row by `strength`, (items,), of the way to the mean of the rows around it; `table` is (rows, width).

    Pulls at the same item add up. By `strength` of at most 1 / (1 + times that it was seen) they never overshoot.
    """
    rows = torch.from_numpy(contexts.items)
    table.index_add_(0, rows, strength[:, None] * (_means(table, contexts.around) - table[rows]))


def _means(table: Tensor, around: Numbers) -> Tensor:
    rows = torch.from_numpy(around)
    known = (rows != UNKNOWN).unsqueeze(2)
    means: Tensor = (table[rows] * known).sum(dim=1) / known.sum(dim=1)
    return means
