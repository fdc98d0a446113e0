"""What mixture and ranking network have learned, for whoever starts or only reads along."""

from msgspec import Struct

from headrace.schemas.fields import Base64, Count, Id, TimeMs


class RankingWeights(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The newest state of both, learned from `questions` tested events of the recommender `learned_by`. `payload` is safetensors.

    `key_id` names the key whose ed25519 signature of the record's value stands in the header `ed25519`.
    """

    model: Id
    questions: Count
    learned_by: Id
    created_ms: TimeMs
    payload: Base64
    key_id: Id | None = None
