"""What whoever ranks does to its instant memories when the shop has changed."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.schemas.fields import Id, TimeMs

MemoryAction = Literal["forget", "recall"]
Kept = Annotated[float, Meta(gt=0, le=1, description="share of its weight that older evidence keeps, above 0 and at most 1")]


class MemoryReaction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The learner's word on the memories, for the drift that `episode_id` names.

    `forget` lets what the memories hold count `keep` times as much beside what comes; with `cut` they do not look at the events before it
    any more. `recall` takes the cut of the same episode back. Each `reaction_id` counts once. `key_id` names the key whose ed25519
    signature of the record's value stands in the header `ed25519`.
    """

    model: Id
    reaction_id: Id
    episode_id: Id
    action: MemoryAction
    keep: Kept = 1.0
    cut: bool = False
    decided_ms: TimeMs
    key_id: Id | None = None
