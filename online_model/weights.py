"""Weights that travel: a model copy that takes in snapshots and deltas, link by link (`payload_layout` has what they hold).

Nothing is taken in before its SHA-256, shapes, ranges and finiteness have been checked (`payload_checks`).
"""

from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load
from torch import Tensor

from headrace.online_model import unit_rows
from headrace.online_model.coarse_units import CoarseUnits
from headrace.online_model.graphed_scoring import GraphedScoring
from headrace.online_model.half_units import HalfUnits
from headrace.online_model.last_vectors import LastVectors
from headrace.online_model.payload_checks import chained_sha256, check
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
    delta_payload,
    dense_names,
    snapshot_payload,
    whole_names,
)
from headrace.online_model.transformer import NextItemTransformer, TransformerShape
from headrace.schemas.model_updates import ModelUpdate

__all__ = [
    "FIRST_CAPACITY",
    "ITEM_TABLE",
    "NEW_ITEMS",
    "NO_WEIGHTS",
    "REUSED",
    "ROWS",
    "SHAPE",
    "VALUES",
    "BadUpdate",
    "MissingLink",
    "ModelCopy",
    "chained_sha256",
    "check",
    "delta_payload",
    "dense_names",
    "snapshot_payload",
]

NO_WEIGHTS = "0" * 64
FIRST_CAPACITY = 4096


class ModelCopy:
    """A model, the ids of its item rows, and the version that it holds. Row 0 of the table is the unknown item.

    `units` holds the unit vector of each row of the item table, (capacity, width), so that no answer has to compute them; whoever
    writes into the table otherwise than by the methods here calls `renew_units`. `epoch` rises whenever a row may have come to
    stand for another item; while it stays, rows of items that were known keep their meaning and new ones may follow. The weights
    that a copy begins with follow from `seed` alone.
    """

    def __init__(self, shape: TransformerShape | None = None, device: str | torch.device = "cpu", seed: int = 1) -> None:
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = NextItemTransformer(shape or TransformerShape(), FIRST_CAPACITY)
        self.model = model.to(self.device).requires_grad_(False).eval()
        self._parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        self.items: list[str] = [""]
        self.rows: dict[str, int] = {}
        self.units = torch.zeros(0)
        self._coarse: CoarseUnits | None = None
        self._last_vectors: LastVectors | None = None
        self._half: HalfUnits | None = None
        self._graphed: GraphedScoring | None = None
        self.epoch = 0
        self.version = 0
        self.sha256 = NO_WEIGHTS
        self.renew_units()

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """All parameters by name. To walk through the modules takes as long as to copy what most of them hold."""
        # The one that is ever replaced, by a larger one.
        self._parameters[ITEM_TABLE] = self.model.items.weight
        return self._parameters

    @property
    def size_bytes(self) -> int:
        """The size of the weights in memory, without what is derived from them."""
        return sum(parameter.nbytes for parameter in self.parameters.values())

    def add_items(self, items: Sequence[str], reused: Sequence[int] = ()) -> None:
        """Give the first of these items the `reused` rows, whose items are forgotten, and the others the next rows of the table.

        The table is enlarged by doubling. Raises BadUpdate for an item that has a row.
        """
        for place, item in enumerate(items):
            if item in self.rows:
                raise BadUpdate(f"item {item!r} already has row {self.rows[item]}")
            if place < len(reused):
                del self.rows[self.items[reused[place]]]
                self.rows[item] = reused[place]
                self.items[reused[place]] = item
            else:
                self.rows[item] = len(self.items)
                self.items.append(item)
        if reused:
            self.epoch += 1
        capacity = self.model.capacity
        while capacity < len(self.items):
            capacity *= 2
        if capacity > self.model.capacity:
            self.model.grow(capacity)
            self.renew_units()

    def apply(self, update: ModelUpdate, payload: bytes) -> None:
        """Take in an update. Raises BadUpdate or MissingLink, before anything is changed, where it must not be."""
        self.take_checked(update, *check(self, update, payload))

    def take_checked(self, update: ModelUpdate, tensors: dict[str, Tensor], new_items: list[str]) -> None:
        """Take in an update that `check` has passed for this copy, or for one that was equal to it."""
        if update.kind == "snapshot":
            # The learner's own snapshots repeat the items in their order; then what is known of the rows stays true.
            if new_items[: len(self.items) - 1] != self.items[1:]:
                self.epoch += 1
            self.items, self.rows = [""], {}
        self._take(tensors, new_items, update.kind)
        self.version, self.sha256 = update.version, update.weights_sha256

    def take_own(self, payload: bytes, new_items: Sequence[str], version: int, sha256: str) -> None:
        """Take in a delta that was made from this copy in this process, and so needs no check, under the name that it has."""
        self._take(load(payload), new_items, "delta")
        self.version, self.sha256 = version, sha256

    def copy_from(self, other: "ModelCopy") -> None:
        """Become equal to another copy of the same shape."""
        if other.items[: len(self.items)] != self.items:
            self.epoch = max(self.epoch, other.epoch) + 1
        self.items, self.rows = list(other.items), dict(other.rows)
        self.model.grow(other.model.capacity)
        with torch.no_grad():
            for name, theirs in other.parameters.items():
                # The item table here may be the larger one, after an update that was taken back.
                self.parameters[name][: len(theirs)].copy_(theirs)
        self.renew_units()
        self.version, self.sha256 = other.version, other.sha256

    @torch.no_grad()
    def put_rows(self, rows: Tensor, values: Tensor) -> None:
        """Set rows of the item table, (rows,), to values, (rows, width), and renew their unit vectors."""
        table = self.model.items.weight
        rows, values = rows.to(self.device), values.to(self.device, table.dtype)
        if unit_rows.fits(table):
            unit_rows.put_rows(table, self.units, rows, values)
        else:
            table.index_copy_(0, rows, values)
            self.units.index_copy_(0, rows, self.model.unit_items(rows))
        if self._coarse is not None:
            self._coarse.put(rows, self.units)
        if self._half is not None:
            self._half.put(rows, self.units[rows], len(self.items))

    @torch.no_grad()
    def renew_units(self) -> None:
        """Compute all unit vectors anew."""
        table = self.model.items.weight
        every = torch.arange(len(table), device=self.device)
        units = unit_rows.unit_rows(table) if unit_rows.fits(table) else self.model.unit_items(every)
        if self._half is not None and len(units) == len(self.units):
            # Graphs read where the units lie.
            self.units.copy_(units)
            self._half.put(every, units, len(self.items))
            return
        self.units, self._half, self._graphed = units, None, None
        if self._coarse is not None:
            self._coarse = CoarseUnits(self.units)

    def coarse_units(self) -> CoarseUnits:
        """Return the unit vectors in 8 bits: made at the first call, half a second for a million items, and kept up from then on."""
        if self._coarse is None:
            # What is made while answering must still be writable when an update comes.
            with torch.inference_mode(False):
                self._coarse = CoarseUnits(self.units.clone() if self.units.is_inference() else self.units)
        return self._coarse

    def graphed_scoring(self, best: int) -> GraphedScoring | None:
        """Return the way to score by CUDA graphs; None where there is no GPU, or the table is not one for it. Made at the first call."""
        if self.device.type != "cuda" or not HalfUnits.fits(self.units, best):
            return None
        if self._graphed is None:
            # What is made while answering must still be writable when an update comes.
            with torch.inference_mode(False):
                self._half = HalfUnits(self.units, len(self.items))
                self._graphed = GraphedScoring(self.model, self.units, self._half)
        return self._graphed

    def last_vectors(self) -> LastVectors | None:
        """Return the compiled way from histories to vectors; None where the model is not one for it. Made at the first call."""
        if self._last_vectors is None and LastVectors.fits(self.model):
            self._last_vectors = LastVectors(self.model)
        return self._last_vectors

    @torch.no_grad()
    def _take(self, tensors: dict[str, Tensor], new_items: Sequence[str], kind: str) -> None:
        self.add_items(new_items, tensors[REUSED].tolist())
        parameters = self.parameters
        names = whole_names(parameters, kind)
        # In one call: each is a turn at the interpreter, for which whoever answers has to wait.
        torch._foreach_copy_([parameters[name] for name in names], [tensors[name] for name in names])
        if CATEGORY_ROWS in tensors:
            table = parameters[CATEGORY_TABLE]
            table.index_copy_(0, tensors[CATEGORY_ROWS].to(self.device), tensors[CATEGORY_VALUES].to(self.device, table.dtype))
        self.put_rows(tensors[ROWS], tensors[VALUES])
