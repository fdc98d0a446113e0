"""Records that count only with a signature: manifests, decisions, outcomes, ranking weights and reactions, as they are written and read.

The message names its key (`key_id`), and the header `ed25519` holds the signature over the exact bytes of the value (`signing`).
"""

from typing import TypeVar

from msgspec.structs import replace

from headrace.schemas import MemoryReaction, ModelRelease, ModelUpdate, RankingWeights, ReleaseOutcomes, decode, encode
from headrace.schemas.wire import AnyHeaders, Headers, header
from headrace.streams.signing import SIGNATURE_HEADER, SigningKey, TrustedKeys

Signed = TypeVar("Signed", ModelUpdate, ModelRelease, ReleaseOutcomes, RankingWeights, MemoryReaction)


def sign(message: Signed, key: SigningKey | None) -> tuple[Signed, bytes, bytes | None]:
    """Return the message with the key's id, its bytes and their signature; without a key, the message as it is and no signature."""
    if key is None:
        return message, encode(message), None
    message = replace(message, key_id=key.key_id)
    value = encode(message)
    return message, value, key.sign(value)


def signature_header(signature: bytes | None) -> Headers:
    """Return the header that holds a signature; none where there is no signature."""
    return [] if signature is None else [(SIGNATURE_HEADER, signature)]


def open_record(kind: type[Signed], value: bytes | None, tags: AnyHeaders, trusted: TrustedKeys | None) -> Signed:
    """Return the message that a record's value holds, signed by one of the `trusted` keys. Raises InvalidMessage, Forged."""
    message = decode(kind, value, tags)
    require_signature(message, value, tags, trusted)
    return message


def require_signature(
    message: ModelUpdate | ModelRelease | ReleaseOutcomes | RankingWeights | MemoryReaction,
    value: bytes | None,
    tags: AnyHeaders,
    trusted: TrustedKeys | None,
) -> None:
    """Raise Forged where none of the `trusted` keys has signed the value that holds this message; without such keys all counts."""
    if trusted is not None:
        trusted.verify(message.key_id, value or b"", header(tags, SIGNATURE_HEADER))
