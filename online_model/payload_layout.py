"""How weights lie in a safetensors payload: the names of its tensors, and the making of snapshots and deltas.

A snapshot holds all parameters in single precision: the dense tensors by their names, the item table as `items.rows` and
`items.values`. A delta holds what has changed, in half precision: the dense tensors, the changed rows of the item table and of
the table of categories (`categories.rows`, `categories.values`). Both hold the ids of new items (`items.new`, UTF-8, one a line) and
the rows that the first of them take over from items that are gone (`items.reused`); the others follow at the end.

What rounding to half precision loses is not lost: the learner's candidate keeps full precision, its live weights are what was sent,
and the difference goes with the next delta that touches the row (error feedback; Seide et al., Interspeech 2014).
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from headrace.online_model.transformer import NextItemTransformer, TransformerShape

if TYPE_CHECKING:
    from headrace.online_model.weights import ModelCopy

ROWS, VALUES, NEW_ITEMS, REUSED, SHAPE = "items.rows", "items.values", "items.new", "items.reused", "shape"
CATEGORY_ROWS, CATEGORY_VALUES = "categories.rows", "categories.values"
ITEM_TABLE, CATEGORY_TABLE = "items.weight", "categories.weight"
# A row of categories, whose numbers are 0.02 and more, is sent once one of them is off by this much: Adam moves all rows it ever knew a
# little in each round.
CATEGORY_TOLERANCE = 2.0**-13


class BadUpdate(ValueError):
    """An update that must not be taken in; the text says why, and `label` in a word."""

    label = "bad_update"


class MissingLink(BadUpdate):
    """An update that does not build on the weights at hand: links were lost, or it comes from another branch."""

    label = "lost"


def dense_names(model: NextItemTransformer) -> list[str]:
    """Return the names of all parameters but the item table."""
    return [name for name, _ in model.named_parameters() if name != ITEM_TABLE]


def whole_names(names: Iterable[str], kind: str) -> list[str]:
    """Return which parameters of these names a snapshot, or a delta, holds whole."""
    return [name for name in names if name != ITEM_TABLE and (kind == "snapshot" or name != CATEGORY_TABLE)]


def snapshot_payload(copy: "ModelCopy") -> bytes:
    """Return the whole of a copy's weights, exactly."""
    parameters = copy.parameters
    tensors = {name: parameters[name].detach() for name in dense_names(copy.model)}
    tensors[ROWS] = torch.arange(len(copy.items))
    tensors[VALUES] = parameters[ITEM_TABLE].detach()[: len(copy.items)]
    return _saved(copy, tensors, copy.items[1:], ())


def delta_payload(
    copy: "ModelCopy", touched: Tensor, new_items: Sequence[str], reused: Sequence[int] = (), *, base: "ModelCopy | None" = None
) -> bytes:
    """Return the dense weights, the `touched` rows of the item table and the ids of `new_items`, as of now, in half precision.

    The first of the new items have taken the `reused` rows; all new items' rows must be touched. Given the `base` that the delta
    builds on, rows are left out whose values would be the same there, and rows of categories that are close.
    """
    parameters = copy.parameters
    tensors = {name: _halved(parameters[name].detach()) for name in whole_names(parameters, "delta")}
    rows = touched.to(torch.int64).cpu()
    values = _halved(parameters[ITEM_TABLE].detach()[rows.to(copy.device)])
    categories = parameters[CATEGORY_TABLE].detach()
    category_rows = torch.arange(len(categories), device=copy.device)
    if base is not None:
        changed = _differ(base, rows, values, reused)
        rows, values = rows[changed], values[changed.to(values.device)]
        theirs = base.model.categories.weight.detach()
        category_rows = ((categories - theirs).abs().amax(dim=1) > CATEGORY_TOLERANCE).nonzero()[:, 0]
    tensors |= {ROWS: rows, VALUES: values, CATEGORY_ROWS: category_rows, CATEGORY_VALUES: _halved(categories[category_rows])}
    return _saved(copy, tensors, new_items, reused)


def shapes_of(payload: bytes) -> dict[str, list[int]]:
    """Return the shape of each tensor of a payload, from its header alone."""
    end = 8 + int.from_bytes(payload[:8], "little")
    told = json.loads(payload[8:end])
    return {name: told[name]["shape"] for name in sorted(told) if name != "__metadata__"}


def shape_of(shape: TransformerShape) -> tuple[int, ...]:
    """Return the sizes of a network as a payload tells them. Dropout is not among them: it changes how weights are learned."""
    return (shape.width, shape.layers, shape.heads, shape.length, shape.categories, round(1000 * shape.temperature))


def _differ(base: "ModelCopy", rows: Tensor, values: Tensor, reused: Sequence[int]) -> Tensor:
    """Tell of each row, (rows,), whether it is another item's or holds other values than in the base."""
    changed = rows >= len(base.items)
    if reused:
        changed |= torch.isin(rows, torch.tensor(reused))
    old = (~changed).nonzero()[:, 0]
    theirs = base.model.items.weight.detach()[rows[old].to(base.device)].cpu()
    changed[old] = (values[old.to(values.device)].cpu().to(theirs.dtype) != theirs).any(dim=1)
    return changed


def _halved(values: Tensor) -> Tensor:
    """Return values in half precision, unless one of them is too large for it."""
    half = values.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else values


def _saved(copy: "ModelCopy", tensors: dict[str, Tensor], new_items: Sequence[str], reused: Sequence[int]) -> bytes:
    text = np.frombuffer(bytearray("\n".join(new_items).encode()), np.uint8)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    tensors[NEW_ITEMS] = torch.from_numpy(text)
    tensors[REUSED] = torch.tensor(reused, dtype=torch.int64)
    tensors[SHAPE] = torch.tensor(shape_of(copy.model.shape))
    return bytes(save(tensors))
