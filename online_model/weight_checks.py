"""Whether weights look like what a round of learning makes of those before them: finite, moved about as far as usual, rows in place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.online_model.transformer import NextItemTransformer
from headrace.online_model.weights import ITEM_TABLE, ModelCopy, dense_names


@dataclass(frozen=True)
class Moves:
    """How far a candidate is from the weights that it comes from.

    `dense` is the root mean square of the changes of the dense weights, `rows` that of the touched rows that were there before, each
    as a share of its row's length. `shrunk` and `turned` are the shares of these rows that have lost four fifths of their length, or
    whose direction has changed by more than a right angle's two thirds (cosine under 0.5), `compared` is how many there are.
    """

    dense: float
    rows: float
    shrunk: float
    turned: float
    compared: int


SHRUNK_TO, TURNED_TO = 0.2, 0.5


def is_finite(model: NextItemTransformer, touched: Tensor) -> bool:
    """Whether the dense weights and the touched rows are finite numbers."""
    parameters = dict(model.named_parameters())
    tensors = [parameters[name] for name in dense_names(model)] + [parameters[ITEM_TABLE].detach()[touched]]
    # A sum is finite only where all its parts are; it is far faster than to ask each.
    return all(bool(torch.isfinite(tensor.detach().sum())) or bool(torch.isfinite(tensor).all()) for tensor in tensors)


@torch.no_grad()
def moves_of(candidate: NextItemTransformer, reference: NextItemTransformer, touched: Tensor, items: int, reused: Sequence[int]) -> Moves:
    """Compare the dense weights, and those of the `touched` rows below `items` that are not `reused`."""
    theirs, ours = dict(candidate.named_parameters()), dict(reference.named_parameters())
    square, count = 0.0, 0
    for name in dense_names(candidate):
        square += float((theirs[name] - ours[name]).square().sum())
        count += theirs[name].numel()
    rows = touched[(touched > 0) & (touched < items)]
    if reused:
        rows = rows[~torch.isin(rows, torch.tensor(list(reused)))]
    now, before = theirs[ITEM_TABLE][rows], ours[ITEM_TABLE][rows]
    if not len(rows):
        return Moves((square / count) ** 0.5, 0.0, 0.0, 0.0, 0)
    norms, norms_before = now.norm(dim=1), before.norm(dim=1).clamp_min(1e-12)
    moved = ((now - before).norm(dim=1) / norms_before).square().mean().sqrt()
    cosines = (now * before).sum(dim=1) / (norms.clamp_min(1e-12) * norms_before)
    return Moves(
        (square / count) ** 0.5,
        float(moved),
        float((norms < SHRUNK_TO * norms_before).double().mean()),
        float((cosines < TURNED_TO).double().mean()),
        len(rows),
    )


def vocabulary_fault(candidate: ModelCopy, live: ModelCopy, reused: Sequence[int]) -> str | None:
    """Return what is wrong with the candidate's items, or None: all but the reused rows must stand for the same items as before."""
    size = len(live.items)
    if len(candidate.items) < size or candidate.model.capacity < len(candidate.items):
        return f"it has {len(candidate.items)} items in {candidate.model.capacity} rows, the live weights have {size}"
    if candidate.items[:size] != live.items:
        others = set(reused)
        moved = [row for row in range(size) if candidate.items[row] != live.items[row] and row not in others]
        if moved:
            return f"{len(moved)} rows stand for other items than before, the first {moved[0]} for {candidate.items[moved[0]]!r}"
    if len(candidate.rows) != len(candidate.items) - 1:
        return f"{len(candidate.items) - 1} rows have items, but {len(candidate.rows)} items have rows"
    return None
