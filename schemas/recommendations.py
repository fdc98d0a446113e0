"""What subscribers receive: a ranked list for one shopper."""

from typing import Literal

from msgspec import Struct

from headrace.schemas.feature_rows import Cause, Kind, ShopperId
from headrace.schemas.fields import Count, Id, Sha256, TimeMs
from headrace.schemas.model_releases import Lane

Part = Literal["covisitation", "neighbours", "own_history", "transformer", "popularity"]


class Reason(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step of the shopper's own history that speaks for an item. `weight` is its share of all that speaks for it, 0 to 1."""

    item_id: Id
    kind: Kind
    weight: float


class RecommendedItem(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item, its probability of being touched next, and the part of the mixture that spoke loudest for it.

    `because` names the shopper's own steps that speak most for it, the strongest first; none where it is simply popular.
    """

    item_id: Id
    score: float
    part: Part
    because: list[Reason] = []


class Recommendation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The best items for a shopper, best first, as of the event that caused it. `lane` tells whether a version on trial made it."""

    recommendation_id: Id
    shopper_id: ShopperId
    items: list[RecommendedItem]
    model_version: Count
    weights_sha256: Sha256
    created_ms: TimeMs
    latency_ms: float
    cause: Cause
    lane: Lane | None = None
