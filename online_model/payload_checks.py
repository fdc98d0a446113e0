"""What is asked of an update before any of it is taken in: that it is whole, fits the weights at hand, and makes sense.

safetensors has no checksum of its own: a flipped bit loads. So the SHA-256 comes first, then names, types, shapes, ranges and
finiteness. This lies on the way to served weights: nothing here walks through rows in Python.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from headrace.online_model.payload_layout import (
    CATEGORY_ROWS,
    CATEGORY_TABLE,
    CATEGORY_VALUES,
    ITEM_TABLE,
    NEW_ITEMS,
    REUSED,
    ROWS,
    SHAPE,
    VALUES,
    BadUpdate,
    MissingLink,
    shape_of,
    whole_names,
)
from headrace.schemas.model_updates import ModelUpdate

if TYPE_CHECKING:
    from headrace.online_model.weights import ModelCopy

Rows = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# Numbers of a tensor that is looked at together with others.
SMALL = 1 << 17

_FLOATS = {"snapshot": (torch.float32,), "delta": (torch.float16, torch.float32)}


def chained_sha256(base_sha256: str, payload_sha256: str) -> str:
    """Return the name of the weights that a delta makes of its base."""
    return hashlib.sha256(f"{base_sha256}{payload_sha256}".encode()).hexdigest()


def check_bytes(update: ModelUpdate, payload: bytes) -> None:
    """Raise BadUpdate where the payload is not the one that the manifest names, or the names do not follow from each other."""
    found = hashlib.sha256(payload).hexdigest()
    if found != update.payload_sha256 or len(payload) != update.payload_bytes:
        raise BadUpdate(f"version {update.version}: payload has sha256 {found[:12]} and {len(payload)} bytes, not those of its manifest")
    if update.kind == "delta" and chained_sha256(update.base_sha256, update.payload_sha256) != update.weights_sha256:
        raise BadUpdate(f"version {update.version}: weights_sha256 does not follow from its base and payload")


def check(copy: "ModelCopy", update: ModelUpdate, payload: bytes) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors and the new item ids of an update that may be applied to `copy`. Raises BadUpdate or MissingLink."""
    if update.kind == "delta" and (update.base_version, update.base_sha256) != (copy.version, copy.sha256):
        raise MissingLink(
            f"delta {update.version} builds on version {update.base_version} ({update.base_sha256[:12]}), "
            f"here is version {copy.version} ({copy.sha256[:12]})"
        )
    check_bytes(update, payload)
    try:
        tensors = load(payload)
    except (SafetensorError, KeyError) as error:
        # KeyError: a data type that torch does not have.
        raise BadUpdate(f"version {update.version}: not safetensors: {error}") from None
    _check_names(copy, update, tensors)
    _check_tensors(update, tensors, copy.parameters)
    return tensors, _check_items(copy, update, tensors)


def _check_names(copy: "ModelCopy", update: ModelUpdate, tensors: dict[str, Tensor]) -> None:
    wanted = {ROWS, VALUES, NEW_ITEMS, REUSED, SHAPE, *whole_names(copy.parameters, update.kind)}
    if update.kind == "delta":
        wanted |= {CATEGORY_ROWS, CATEGORY_VALUES}
    if strange := wanted ^ set(tensors):
        raise BadUpdate(f"version {update.version}: tensors that are missing or unknown: {', '.join(sorted(strange))}")
    if update.shapes and update.shapes != {name: list(tensor.shape) for name, tensor in tensors.items()}:
        raise BadUpdate(f"version {update.version}: the tensors do not have the shapes that the manifest tells")
    for name in (SHAPE, NEW_ITEMS, REUSED, ROWS, CATEGORY_ROWS):
        kind = torch.uint8 if name == NEW_ITEMS else torch.int64
        if name in tensors and (tensors[name].dtype != kind or tensors[name].ndim != 1):
            raise BadUpdate(f"version {update.version}: {name} is not a row of {kind}")
    here = shape_of(copy.model.shape)
    if tuple(tensors[SHAPE].tolist()) != here:
        raise BadUpdate(f"version {update.version}: is a network of shape {tensors[SHAPE].tolist()}, here is {here}")


def _check_tensors(update: ModelUpdate, tensors: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(parameters[name].shape) for name in whole_names(parameters, update.kind)}
    shapes[VALUES] = (len(tensors[ROWS]), parameters[ITEM_TABLE].shape[1])
    if update.kind == "delta":
        table = parameters[CATEGORY_TABLE].shape
        shapes[CATEGORY_VALUES] = (len(tensors[CATEGORY_ROWS]), table[1])
        rows: Rows = tensors[CATEGORY_ROWS].numpy()
        if not _are_distinct(rows) or not _lie_in(rows, 0, table[0]):
            raise BadUpdate(f"version {update.version}: rows of categories lie outside of the table of {table[0]} or come twice")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise BadUpdate(f"version {update.version}: {name} has shape {tuple(tensor.shape)}, not {shape}")
        if tensor.dtype not in _FLOATS[update.kind]:
            raise BadUpdate(f"version {update.version}: {name} holds {tensor.dtype}, not {' or '.join(map(str, _FLOATS[update.kind]))}")
    if not _are_finite([tensors[name] for name in shapes]):
        strange = next(name for name in shapes if not _are_finite([tensors[name]]))
        raise BadUpdate(f"version {update.version}: {strange} holds values that are not finite numbers")


def _check_items(copy: "ModelCopy", update: ModelUpdate, tensors: dict[str, Tensor]) -> list[str]:
    new_items = _new_items(update, tensors[NEW_ITEMS])
    known = copy.rows if update.kind == "delta" else {}
    if len(set(new_items)) != len(new_items) or any(item in known for item in new_items):
        raise BadUpdate(f"version {update.version}: names an item twice")
    reused: Rows = tensors[REUSED].numpy()
    old, new = len(known) + 1, len(new_items) - len(reused)
    if not _are_distinct(reused) or new < 0 or not _lie_in(reused, 1, old):
        raise BadUpdate(f"version {update.version}: rows to be reused come twice, have no item, or are more than there are new items")
    rows: Rows = tensors[ROWS].numpy()
    if not _are_distinct(rows) or not _lie_in(rows, 0, old + new):
        raise BadUpdate(f"version {update.version}: item rows lie outside of the table of {old + new} or come twice")
    # A new row left without values would hold something else in each copy.
    if update.kind == "snapshot":
        unset = old + new - len(rows)
    else:
        unset = new - int((rows >= old).sum()) + (len(reused) - int(np.isin(reused, rows).sum()) if len(reused) else 0)
    if unset:
        raise BadUpdate(f"version {update.version}: {unset} item rows have no values")
    return new_items


def _new_items(update: ModelUpdate, encoded: Tensor) -> list[str]:
    try:
        text = encoded.numpy().tobytes().decode()
    except UnicodeDecodeError as error:
        raise BadUpdate(f"version {update.version}: ids of new items: {error}") from None
    new_items = text.split("\n") if text else []
    if "" in new_items:
        raise BadUpdate(f"version {update.version}: a new item has an empty id")
    return new_items


def _are_finite(tensors: Sequence[Tensor]) -> bool:
    # Small ones together, since each call costs more than their numbers.
    small = [tensor.reshape(-1) for tensor in tensors if tensor.numel() < SMALL]
    large = [tensor for tensor in tensors if tensor.numel() >= SMALL]
    together = [torch.cat(small)] if small else []
    # In double precision a sum of numbers of single precision is finite just where all of them are.
    return all(math.isfinite(tensor.sum(dtype=torch.float64).item()) for tensor in together + large)


def _are_distinct(rows: Rows) -> bool:
    # The learner sends them in order, so that mostly one comparison is enough.
    return len(rows) < 2 or bool((rows[1:] > rows[:-1]).all()) or len(np.unique(rows)) == len(rows)


def _lie_in(rows: Rows, start: int, stop: int) -> bool:
    return not len(rows) or (int(rows.min()) >= start and int(rows.max()) < stop)
