"""Which version of the weights answers whom, and what is known of how well each does."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.schemas.fields import Count, Id, Sha256, ShortText, TimeMs

Lane = Literal["stable", "trial"]
Action = Literal["start", "promote", "rollback", "pin", "unpin"]
Share = Annotated[float, Meta(ge=0, le=1)]


class ModelRelease(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A decision: from now on the newest version answers `trial_share` of the shoppers, the stable one all others.

    Decisions form a chain: one counts only where its `sequence` is one above that of the newest that counts, so of two that were
    made at once the later record is void for every reader. `promote` makes `stable_version` the stable one; it must lie on the chain of
    updates. `rollback` withdraws every version above the stable one up to `withdrawn_to`; what comes after builds on the stable one.
    While `pinned`, nothing but the stable version answers. `evidence` holds the figures that led to it. `key_id` names the key whose
    ed25519 signature of the record's value stands in the header `ed25519`.
    """

    model: Id
    sequence: Count
    action: Action
    stable_version: Count
    stable_sha256: Sha256
    withdrawn_to: Count = 0
    trial_share: Share
    pinned: bool = False
    reason: ShortText
    decided_by: Id
    decided_ms: TimeMs
    evidence: dict[str, float] = {}
    key_id: Id | None = None


class VersionOutcome(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Of the lists that one version made: how many met a next step, and in how many of them that step's item stood.

    `reciprocal_ranks` is the sum of 1/place over the hits, the first place being 1, and `squared_ranks` that of its square; `clicks`
    counts the events that name such a list's recommendation id. `sequence` is that of the decision by which the lists were made: lanes
    may be compared over lists of one decision only, since those that were made earlier have waited longer for their shoppers to come
    back.
    """

    version: Count
    lane: Lane
    answered: Count
    hits: Count
    reciprocal_ranks: float
    clicks: Count = 0
    sequence: Count = 0
    squared_ranks: float = 0.0


class ReleaseOutcomes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one recommender or gateway has seen of the versions' lists since its last message.

    `key_id` names the key whose ed25519 signature of the record's value stands in the header `ed25519`.
    """

    model: Id
    instance: Id
    started_ms: TimeMs
    ended_ms: TimeMs
    versions: Annotated[list[VersionOutcome], Meta(max_length=1000)]
    key_id: Id | None = None
