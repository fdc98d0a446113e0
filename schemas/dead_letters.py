"""What could not be taken in, kept whole with the reason."""

from msgspec import Struct

from headrace.schemas.fields import Count, Id, ShortText, TimeMs


class DeadLetter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record that was refused: where it lay, why, and its bytes (base64 in JSON). `field` is a path such as `$.item_id`."""

    topic: Id
    partition: Count
    offset: Count
    reason: ShortText
    field: ShortText | None
    raw: bytes
    component: Id
    created_ms: TimeMs
