"""Makes chains of small weights, link by link, for the tests beside it."""

import hashlib
import random
from typing import Any, Literal

import torch
from torch import Tensor

from headrace.deploy.bench.manifests import manifest_of
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import NO_WEIGHTS, ModelCopy, chained_sha256, delta_payload, dense_names, snapshot_payload
from headrace.schemas import ModelUpdate

SHAPE = TransformerShape(width=8, layers=1, heads=1, length=5, categories=16)

Link = tuple[ModelUpdate, bytes]
Frozen = tuple[list[str], dict[str, int], int, str, list[Tensor]]


def manifest(
    payload: bytes, *, kind: Literal["snapshot", "delta"] = "snapshot", version: int, base_version: int = 0, base_sha256: str = NO_WEIGHTS
) -> ModelUpdate:
    """Return the update that announces a payload, with all hashes right."""
    name = hashlib.sha256(payload).hexdigest()
    weights_sha256 = name if kind == "snapshot" else chained_sha256(base_sha256, name)
    return manifest_of(payload, kind, (base_version, base_sha256), version, weights_sha256)


class Chain:
    """The weights as their author has them. Each step changes some rows and all dense weights, and may add items."""

    def __init__(self, items: int = 12, seed: int = 1, shape: TransformerShape = SHAPE) -> None:
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self.copy = ModelCopy(shape)
        self.copy.add_items([f"item-{number}" for number in range(items)])
        self._shake(torch.arange(len(self.copy.items)))
        self.copy.version, self.copy.sha256 = 1, hashlib.sha256(snapshot_payload(self.copy)).hexdigest()

    def snapshot(self) -> Link:
        """Return the whole of the weights as they are now, under their name in the chain."""
        payload = snapshot_payload(self.copy)
        update = manifest(payload, version=self.copy.version)
        fields: dict[str, Any] = {name: getattr(update, name) for name in update.__struct_fields__}
        return ModelUpdate(**fields | {"weights_sha256": self.copy.sha256}), payload

    def step(self, new_items: int | None = None) -> Link:
        """Change the weights and return the delta that does the same elsewhere."""
        size = len(self.copy.items)
        count = self._random.randint(0, 3) if new_items is None else new_items
        added = [f"item-{size - 1 + number}" for number in range(count)]
        self.copy.add_items(added)
        touched = sorted(self._random.sample(range(size), self._random.randint(0, size)))
        rows = torch.tensor([*touched, *range(size, size + count)], dtype=torch.long)
        self._shake(rows)
        payload = delta_payload(self.copy, rows, added)
        update = manifest(
            payload, kind="delta", version=self.copy.version + 1, base_version=self.copy.version, base_sha256=self.copy.sha256
        )
        # What is sent is rounded, and the author goes on from what was sent.
        self.copy.take_own(payload, (), update.version, update.weights_sha256)
        return update, payload

    def _shake(self, rows: Tensor) -> None:
        self.copy.put_rows(rows, torch.randn(len(rows), SHAPE.width, generator=self._generator))
        parameters = dict(self.copy.model.named_parameters())
        with torch.no_grad():
            for name in dense_names(self.copy.model):
                parameters[name].add_(0.3 * torch.randn(parameters[name].shape, generator=self._generator))


def frozen(copy: ModelCopy) -> Frozen:
    """Return all that a copy holds, so that it can be compared later."""
    used = [parameter[: len(copy.items)] if name == "items.weight" else parameter for name, parameter in copy.model.named_parameters()]
    return list(copy.items), dict(copy.rows), copy.version, copy.sha256, [parameter.detach().clone() for parameter in used]


def same(one: Frozen, other: Frozen) -> bool:
    """Tell whether two copies held the same, bit by bit."""
    return one[:4] == other[:4] and all(torch.equal(left, right) for left, right in zip(one[4], other[4], strict=True))
