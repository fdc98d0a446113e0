"""Why an item is recommended: the steps of the shopper's own history that speak most for it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.online_model.choosing import strongest
from headrace.online_model.examined import Examined
from headrace.online_model.item_numbers import TableRows
from headrace.online_model.memory import Memory
from headrace.online_model.memory_asking import USED_ITEMS
from headrace.online_model.transformer import UNKNOWN
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry
from headrace.schemas.recommendations import Reason

MOST_REASONS = 3
DID = {"view": "viewed", "cart": "put into the cart", "purchase": "bought"}


def reasons_of(
    memory: Memory, table: TableRows, copy: ModelCopy, asked: Examined, history: Sequence[HistoryEntry], rows: NDArray[np.int64]
) -> list[tuple[Reason, ...]]:
    """Return the reasons for the candidates in these rows, the strongest first, at most three each; their weights add up to 1 or less.

    A return to an item of the history is its own reason. Else a step counts by its co-visitation with the item, and where there is none
    by the cosine of the two items' vectors in the Transformer, which is all that the Transformer knows of two items. Popular items
    have no reason in the history.
    """
    numbers = table.ids.numbers
    steps = {numbers[entry.item_id]: entry for entry in history if entry.item_id in numbers}
    distinct = asked.question.distinct[:USED_ITEMS]
    if not steps or not len(distinct) or not len(rows):
        return [() for _ in rows]
    wanted = asked.candidates[rows]
    strengths = memory.reasons(distinct, wanted)
    silent = ~strengths.any(axis=1)
    if silent.any():
        strengths[silent] = _cosines(copy, table, wanted[silent], distinct)
    most = min(MOST_REASONS, len(distinct))
    places, shares = np.empty((len(wanted), most), np.int64), np.empty((len(wanted), most), np.float32)
    strongest(strengths, places, shares)
    # Of what is remembered of the shopper, only what the history at hand has is told.
    told = [steps.get(item) for item in distinct.tolist()]
    weights = shares.astype(np.float64).round(4).tolist()
    reasons: list[tuple[Reason, ...]] = []
    for item, of_item, each in zip(wanted.tolist(), places.tolist(), weights, strict=True):
        own = steps.get(item)
        if own is not None:
            found = [(own, 1.0)]
        else:
            found = [
                (step, weight) for place, weight in zip(of_item, each, strict=True) if weight > 0.0 and (step := told[place]) is not None
            ]
        reasons.append(tuple([Reason(item_id=step.item_id, kind=step.kind, weight=weight) for step, weight in found]))
    return reasons


def in_words(item_id: str, part: str, reasons: Sequence[Reason]) -> str:
    """Return a sentence that tells a shopper why."""
    if not reasons:
        return "popular at the moment" if part == "popularity" else "goes with what you do"
    first = reasons[0]
    if first.item_id == item_id:
        return f"because you {DID[first.kind]} it before"
    return f"because you {DID[first.kind]} {first.item_id}"


def _cosines(copy: ModelCopy, table: TableRows, wanted: NDArray[np.int32], steps: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return how near each wanted item is to each step, (wanted, steps), what is far counting as 0."""
    size = len(copy.items)
    of_wanted, of_steps = table.rows_of(wanted, size), table.rows_of(steps, size)
    if copy.device.type == "cpu":
        units = copy.units.numpy()
        cosines = units[of_wanted] @ units[of_steps].T
    else:
        cosines = (copy.units[torch.from_numpy(of_wanted)] @ copy.units[torch.from_numpy(of_steps)].T).cpu().numpy()
    cosines[of_wanted == UNKNOWN] = 0.0
    cosines[:, of_steps == UNKNOWN] = 0.0
    nearness: NDArray[np.float32] = np.maximum(cosines, 0.0).astype(np.float32)
    return nearness
