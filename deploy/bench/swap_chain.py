"""A chain of updates for benchmarks: a snapshot, then deltas that touch 1,000 rows each and shake all dense weights.

What the deltas hold comes round again after some, so that making them costs nothing while something is measured.
"""

import hashlib
import itertools

import torch

from headrace.deploy.bench.manifests import manifest_of
from headrace.online_model.weights import NO_WEIGHTS, ModelCopy, chained_sha256, delta_payload, dense_names, snapshot_payload
from headrace.schemas import ModelUpdate
from headrace.schemas.wire import now_ms

TOUCHED = 1000
SHAKEN = 0.01
PAYLOADS = 20

Link = tuple[ModelUpdate, bytes]


class SwapChain:
    """Hands out the links one by one; each builds on the one before. Items are called item-0, item-1, and so on."""

    def __init__(self, items: int) -> None:
        torch.manual_seed(1)
        self._copy = ModelCopy()
        self._copy.add_items([f"item-{number}" for number in range(items)])
        self._version, self._sha256 = 0, NO_WEIGHTS
        self.snapshot = self._link("snapshot", snapshot_payload(self._copy))
        self._payloads = itertools.cycle([self._shaken() for _ in range(PAYLOADS)])

    def delta(self) -> Link:
        """Return the next delta."""
        return self._link("delta", next(self._payloads))

    def _shaken(self) -> bytes:
        touched = torch.randperm(len(self._copy.items) - 1)[:TOUCHED].sort().values + 1
        parameters = self._copy.parameters
        for name in dense_names(self._copy.model):
            parameters[name].add_(SHAKEN * torch.randn_like(parameters[name]))
        table = parameters["items.weight"]
        self._copy.put_rows(touched, table[touched] + SHAKEN * torch.randn(TOUCHED, table.shape[1]))
        return delta_payload(self._copy, touched, [])

    def _link(self, kind: str, payload: bytes) -> Link:
        base_version, base_sha256 = self._version, self._sha256
        digest = hashlib.sha256(payload).hexdigest()
        self._version, self._sha256 = base_version + 1, chained_sha256(base_sha256, digest)
        base = (base_version, base_sha256) if kind == "delta" else (self._version, self._sha256)
        created_ms = now_ms()
        told = {"created_ms": created_ms, "learned_published_ms": [created_ms]}
        return manifest_of(payload, kind, base, self._version, self._sha256, **told), payload
