"""Weights that travel: snapshots and deltas as safetensors, and a model copy that takes them in link by link.

A payload holds the dense tensors by their parameter names, the touched rows of the item table (`items.rows`,
`items.values`; a snapshot holds all of them), the ids of new items (`items.new`, UTF-8, one a line) and the rows that the first of
them take over from items that are gone (`items.reused`); the others follow at the end. safetensors has no checksum of its own, so
nothing is taken in before its SHA-256, shapes, ranges and finiteness have been checked.
"""

import hashlib
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from headrace.online_model.transformer import NextItemTransformer, TransformerShape
from headrace.schemas.model_updates import ModelUpdate

NO_WEIGHTS = "0" * 64
ROWS, VALUES, NEW_ITEMS, REUSED, SHAPE = "items.rows", "items.values", "items.new", "items.reused", "shape"
ITEM_TABLE = "items.weight"
FIRST_CAPACITY = 4096


class BadUpdate(ValueError):
    """An update that must not be taken in; the text says why."""


class MissingLink(BadUpdate):
    """An update that does not build on the weights at hand: links were lost, or it comes from another branch."""


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
        self.items: list[str] = [""]
        self.rows: dict[str, int] = {}
        self.units = torch.zeros(0)
        self.epoch = 0
        self.version = 0
        self.sha256 = NO_WEIGHTS
        self.renew_units()

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
        tensors, new_items = check(self, update, payload)
        if update.kind == "snapshot":
            # The learner's own snapshots repeat the items in their order; then what is known of the rows stays true.
            if new_items[: len(self.items) - 1] != self.items[1:]:
                self.epoch += 1
            self.items, self.rows = [""], {}
        self.add_items(new_items, tensors[REUSED].tolist())
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name in dense_names(self.model):
                parameters[name].copy_(tensors[name])
        self.put_rows(tensors[ROWS], tensors[VALUES])
        self.version, self.sha256 = update.version, update.weights_sha256

    def copy_from(self, other: "ModelCopy") -> None:
        """Become equal to another copy of the same shape."""
        if other.items[: len(self.items)] != self.items:
            self.epoch = max(self.epoch, other.epoch) + 1
        self.items, self.rows = list(other.items), dict(other.rows)
        self.model.grow(other.model.capacity)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, theirs in other.model.named_parameters():
                # The item table here may be the larger one, after an update that was taken back.
                parameters[name][: len(theirs)].copy_(theirs)
        self.renew_units()
        self.version, self.sha256 = other.version, other.sha256

    @torch.no_grad()
    def put_rows(self, rows: Tensor, values: Tensor) -> None:
        """Set rows of the item table, (rows,), to values, (rows, width), and renew their unit vectors."""
        table = self.model.items.weight
        rows = rows.to(self.device)
        table.index_copy_(0, rows, values.to(self.device, table.dtype))
        self.units.index_copy_(0, rows, self.model.unit_items(rows))

    @torch.no_grad()
    def renew_units(self) -> None:
        """Compute all unit vectors anew."""
        self.units = self.model.unit_items(torch.arange(self.model.capacity, device=self.device))


def dense_names(model: NextItemTransformer) -> list[str]:
    """Return the names of all parameters but the item table."""
    return [name for name, _ in model.named_parameters() if name != ITEM_TABLE]


def snapshot_payload(copy: ModelCopy) -> bytes:
    """Return the whole of a copy's weights."""
    return _payload(copy, torch.arange(len(copy.items)), copy.items[1:], ())


def delta_payload(copy: ModelCopy, touched: Tensor, new_items: Sequence[str], reused: Sequence[int] = ()) -> bytes:
    """Return the dense weights, the `touched` rows of the item table and the ids of `new_items`, as of now.

    The first of the new items have taken the `reused` rows; all new items' rows must be touched.
    """
    return _payload(copy, touched, new_items, reused)


def chained_sha256(base_sha256: str, payload_sha256: str) -> str:
    """Return the name of the weights that a delta makes of its base."""
    return hashlib.sha256(f"{base_sha256}{payload_sha256}".encode()).hexdigest()


def check(copy: ModelCopy, update: ModelUpdate, payload: bytes) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors and the new item ids of an update that may be applied to `copy`. Raises BadUpdate or MissingLink."""
    if update.kind == "delta" and (update.base_version, update.base_sha256) != (copy.version, copy.sha256):
        raise MissingLink(
            f"delta {update.version} builds on version {update.base_version} ({update.base_sha256[:12]}), "
            f"here is version {copy.version} ({copy.sha256[:12]})"
        )
    found = hashlib.sha256(payload).hexdigest()
    if found != update.payload_sha256 or len(payload) != update.payload_bytes:
        raise BadUpdate(f"version {update.version}: payload has sha256 {found[:12]} and {len(payload)} bytes, not those of its manifest")
    if update.kind == "delta" and chained_sha256(update.base_sha256, update.payload_sha256) != update.weights_sha256:
        raise BadUpdate(f"version {update.version}: weights_sha256 does not follow from its base and payload")
    try:
        tensors = load(payload)
    except (SafetensorError, KeyError) as error:
        # KeyError: a data type that torch does not have.
        raise BadUpdate(f"version {update.version}: not safetensors: {error}") from None
    new_items = _check_items(copy, update, tensors)
    _check_tensors(copy, update, tensors)
    return tensors, new_items


def _check_items(copy: ModelCopy, update: ModelUpdate, tensors: dict[str, Tensor]) -> list[str]:
    missing = {ROWS, VALUES, NEW_ITEMS, REUSED, SHAPE, *dense_names(copy.model)} ^ set(tensors)
    if missing:
        raise BadUpdate(f"version {update.version}: tensors that are missing or unknown: {', '.join(sorted(missing))}")
    for name, kind in ((SHAPE, torch.int64), (NEW_ITEMS, torch.uint8), (REUSED, torch.int64), (ROWS, torch.int64)):
        if tensors[name].dtype != kind or tensors[name].ndim != 1:
            raise BadUpdate(f"version {update.version}: {name} is not a row of {kind}")
    if tuple(tensors[SHAPE].tolist()) != _shape_of(copy.model.shape):
        raise BadUpdate(f"version {update.version}: is a network of shape {tensors[SHAPE].tolist()}, here is {_shape_of(copy.model.shape)}")
    new_items = _new_items(update, tensors[NEW_ITEMS])
    known = copy.rows if update.kind == "delta" else {}
    if len(set(new_items)) != len(new_items) or any(item in known for item in new_items):
        raise BadUpdate(f"version {update.version}: names an item twice")
    reused = tensors[REUSED].tolist()
    if len(set(reused)) != len(reused) or len(reused) > len(new_items) or not all(0 < row <= len(known) for row in reused):
        raise BadUpdate(f"version {update.version}: rows to be reused come twice, have no item, or are more than there are new items")
    _check_rows(update, tensors[ROWS], len(known) + 1, len(new_items) - len(reused), reused)
    if tensors[VALUES].shape != (len(tensors[ROWS]), copy.model.shape.width):
        raise BadUpdate(f"version {update.version}: {len(tensors[ROWS])} rows with values of shape {tuple(tensors[VALUES].shape)}")
    return new_items


def _new_items(update: ModelUpdate, encoded: Tensor) -> list[str]:
    try:
        text = bytes(encoded.tolist()).decode()
    except UnicodeDecodeError as error:
        raise BadUpdate(f"version {update.version}: ids of new items: {error}") from None
    new_items = text.split("\n") if text else []
    if "" in new_items:
        raise BadUpdate(f"version {update.version}: a new item has an empty id")
    return new_items


def _check_rows(update: ModelUpdate, rows: Tensor, old: int, new: int, reused: Sequence[int]) -> None:
    """Refuse rows outside of the table, a row given twice, and a new row left without values (two copies would differ there)."""
    given = set(rows.tolist())
    if len(given) != len(rows) or not all(0 <= row < old + new for row in given):
        raise BadUpdate(f"version {update.version}: item rows lie outside of the table of {old + new} or come twice")
    needed = range(old + new) if update.kind == "snapshot" else [*reused, *range(old, old + new)]
    if not given.issuperset(needed):
        raise BadUpdate(f"version {update.version}: {len(set(needed) - given)} item rows have no values")


def _check_tensors(copy: ModelCopy, update: ModelUpdate, tensors: dict[str, Tensor]) -> None:
    parameters = dict(copy.model.named_parameters())
    for name in (*dense_names(copy.model), VALUES):
        tensor = tensors[name]
        if name != VALUES and tensor.shape != parameters[name].shape:
            raise BadUpdate(f"version {update.version}: {name} has shape {tuple(tensor.shape)}, not {tuple(parameters[name].shape)}")
        # What is finite in double precision may not be so here.
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.to(parameters[ITEM_TABLE].dtype)).all()):
            raise BadUpdate(f"version {update.version}: {name} holds values that are not finite numbers")


def _payload(copy: ModelCopy, rows: Tensor, new_items: Sequence[str], reused: Sequence[int]) -> bytes:
    parameters = dict(copy.model.named_parameters())
    tensors = {name: parameters[name].detach().cpu().contiguous() for name in dense_names(copy.model)}
    tensors[ROWS] = rows.to(torch.int64).cpu()
    tensors[VALUES] = parameters[ITEM_TABLE].detach()[rows.to(copy.device)].cpu().contiguous()
    tensors[NEW_ITEMS] = (
        torch.frombuffer(bytearray("\n".join(new_items).encode() or b""), dtype=torch.uint8)
        if new_items
        else torch.empty(0, dtype=torch.uint8)
    )
    tensors[REUSED] = torch.tensor(reused, dtype=torch.int64)
    tensors[SHAPE] = torch.tensor(_shape_of(copy.model.shape))
    return bytes(save(tensors))


def _shape_of(shape: TransformerShape) -> tuple[int, ...]:
    # Dropout is not among them: it changes how weights are learned, not what they say.
    return (shape.width, shape.layers, shape.heads, shape.length, shape.categories, round(1000 * shape.temperature))
