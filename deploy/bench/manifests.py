"""Manifests of updates that benchmarks and tests make themselves."""

import hashlib
from typing import Any

from headrace.features.services import FEATURE_SERVICE
from headrace.schemas import ModelUpdate
from headrace.schemas.model_updates import MODEL


def manifest_of(payload: bytes, kind: str, base: tuple[int, str], version: int, name: str, **told: Any) -> ModelUpdate:
    """Return what announces a payload that turns `base`, by version and name, into `version` of that `name`; `told` are further fields.

    Its payload lies in one part at the offset 0, unless told.
    """
    fields: dict[str, Any] = {
        "payload_parts": 1,
        "payload_offset": 0,
        "trigger": "count",
        "feature_service": FEATURE_SERVICE,
        "created_ms": 0,
        "learned_events": 0,
        "learned_offsets": {},
        "learned_published_ms": [],
        "holdout_loss": None,
        "live_holdout_loss": None,
    }
    return ModelUpdate(
        model=MODEL,
        kind="delta" if kind == "delta" else "snapshot",
        version=version,
        base_version=base[0],
        base_sha256=base[1],
        weights_sha256=name,
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        payload_bytes=len(payload),
        **(fields | told),
    )
