"""What the learner tells the scorers: which weights exist, what they build on and where their bytes lie."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.schemas.fields import Count, Id, Offsets, Sha256, TimeMs

# The one model whose weights travel.
MODEL = "next-item"

Trigger = Literal["start", "count", "time", "drift"]

Shape = Annotated[list[Count], Meta(max_length=8)]


class ModelUpdate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One link of the chain of weights. Its safetensors payload lies in `payload_parts` records of `model-weights`.

    A `delta` turns version `base_version` into `version`; a `snapshot` holds `version` whole. `weights_sha256` names the
    resulting weights: SHA-256 over `base_sha256` and the delta's payload hash; a snapshot carries the name of the version
    it holds. `payload_sha256` covers the payload's bytes. `learned_published_ms` samples the publish times of the events
    learned since the base, so that whoever swaps the weights in can tell how fresh they are.

    `shapes` tells the payload's tensors, `window_start_ms` and `window_end_ms` the event times of what was learned since the
    base, `metrics` what the gate measured, `payload_uri` where in the weight store the same bytes lie. `key_id` names the key
    whose ed25519 signature of the record's value stands in the header `ed25519`.
    """

    model: Id
    kind: Literal["snapshot", "delta"]
    version: Count
    base_version: Count
    weights_sha256: Sha256
    base_sha256: Sha256
    payload_sha256: Sha256
    payload_bytes: Count
    payload_parts: Annotated[int, Meta(ge=1, le=100_000)]
    payload_offset: Count
    trigger: Trigger
    feature_service: Id
    created_ms: TimeMs
    learned_events: Count
    learned_offsets: Offsets
    learned_published_ms: Annotated[list[TimeMs], Meta(max_length=256)]
    holdout_loss: float | None
    live_holdout_loss: float | None
    key_id: Id | None = None
    payload_uri: str | None = None
    shapes: dict[str, Shape] = {}
    window_start_ms: TimeMs | None = None
    window_end_ms: TimeMs | None = None
    metrics: dict[str, float] = {}
