"""Where an event lies in Kafka, and how the row of its shopper knows that it was there before."""

import struct

import mmh3
from msgspec import Struct

REMEMBERED = 128
_BYTES = 16


class Place(Struct, frozen=True):
    """`source` is 'topic/partition'. `published_ms` is the time at which the event was sent."""

    source: str
    offset: int
    published_ms: int


def remember(recent: bytes, event_id: str, offset: int) -> bytes | None:
    """Return the remembered events with this one at their end; None where one of the same id is among them.

    The last 128 of a shopper and a partition are remembered, which is the horizon within which an event that its publisher
    sends twice counts once. Ids are compared by 64 bits of murmur3.
    """
    mark = _mark(event_id)
    if recent and _find(recent, mark) >= 0:
        return None
    return recent[-_BYTES * (REMEMBERED - 1) :] + mark + struct.pack("<q", offset)


def was_counted(recent: bytes, event_id: str, offset: int) -> bool:
    """Whether the event at this very offset was counted, rather than passed over since its id had been there before."""
    place = _find(recent, _mark(event_id))
    return place >= 0 and struct.unpack_from("<q", recent, place + 8)[0] == offset


def _mark(event_id: str) -> bytes:
    return struct.pack("<q", mmh3.hash64(event_id, x64arch=True)[0])


def _find(recent: bytes, mark: bytes) -> int:
    place = recent.find(mark)
    while place % _BYTES and place >= 0:
        place = recent.find(mark, place + 1)
    return place
