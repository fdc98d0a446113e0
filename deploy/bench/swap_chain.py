"""A chain of updates for benchmarks: a snapshot, then deltas that touch 1,000 rows each and shake all dense weights.

What the deltas hold comes round again after some, so that making them costs nothing while something is measured.
"""

import hashlib
import itertools

import torch

from headrace.online_model.weights import NO_WEIGHTS, ModelCopy, chained_sha256, delta_payload, dense_names, snapshot_payload
from headrace.schemas import ModelUpdate
from headrace.schemas.wire import now_ms

MODEL = "next-item"
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
        parameters = dict(self._copy.model.named_parameters())
        for name in dense_names(self._copy.model):
            parameters[name].add_(SHAKEN * torch.randn_like(parameters[name]))
        table = parameters["items.weight"]
        self._copy.put_rows(touched, table[touched] + SHAKEN * torch.randn(TOUCHED, table.shape[1]))
        return delta_payload(self._copy, touched, [])

    def _link(self, kind: str, payload: bytes) -> Link:
        base_version, base_sha256 = self._version, self._sha256
        digest = hashlib.sha256(payload).hexdigest()
        self._version, self._sha256 = base_version + 1, chained_sha256(base_sha256, digest)
        is_delta = kind == "delta"
        created_ms = now_ms()
        update = ModelUpdate(
            model=MODEL,
            kind="delta" if is_delta else "snapshot",
            version=self._version,
            base_version=base_version if is_delta else self._version,
            base_sha256=base_sha256 if is_delta else self._sha256,
            weights_sha256=self._sha256,
            payload_sha256=digest,
            payload_bytes=len(payload),
            payload_parts=1,
            payload_offset=0,
            trigger="count",
            feature_service="next_item",
            created_ms=created_ms,
            learned_events=0,
            learned_offsets={},
            learned_published_ms=[created_ms],
            holdout_loss=None,
            live_holdout_loss=None,
        )
        return update, payload
