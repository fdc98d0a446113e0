"""What subscribers receive: a ranked list for one shopper."""

from typing import Literal

from msgspec import Struct

from headrace.schemas.feature_rows import Cause, ShopperId
from headrace.schemas.fields import Count, Id, Sha256, TimeMs

Part = Literal["covisitation", "neighbours", "own_history", "transformer", "popularity"]


class RecommendedItem(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item, its probability of being touched next, and the part of the mixture that spoke loudest for it."""

    item_id: Id
    score: float
    part: Part


class Recommendation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best items for a shopper, best first, as of the event that caused it."""

    recommendation_id: Id
    shopper_id: ShopperId
    items: list[RecommendedItem]
    model_version: Count
    weights_sha256: Sha256
    created_ms: TimeMs
    latency_ms: float
    cause: Cause
