"""An event as the record that Kafka is given, checked so that nothing unfit is ever sent."""

import math
import re
from typing import NamedTuple

import msgspec

from headrace.schemas import wire
from headrace.schemas.events import Click, Event, Purchase, shopper_id
from headrace.schemas.topics import CLICKS, PURCHASES, Topic
from headrace.schemas.wire import Headers, InvalidMessage

_TOPICS: dict[type, Topic] = {Click: CLICKS, Purchase: PURCHASES}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class OutgoingRecord(NamedTuple):
    """What is handed to a producer."""

    topic: str
    value: bytes
    key: bytes
    headers: Headers


def outgoing(event: Event, source: str, now_ms: int, traceparent: str | None = None) -> OutgoingRecord:
    """Return the record of an event that is published at `now_ms`. Raises InvalidMessage, which names the field and value.

    A `traceparent` that is not of the W3C form is replaced by a new trace, as W3C Trace Context (section 3.2) asks.
    """
    topic = _TOPICS.get(type(event))
    if topic is None:
        raise InvalidMessage("$", event, "a Click or a Purchase was expected")
    value = _encoded(event)
    if len(value) > topic.max_bytes:
        raise InvalidMessage("$", value[:80], f"is {len(value)} bytes as JSON, at most {topic.max_bytes} are allowed on '{topic.name}'")
    # msgspec checks no limits when a Struct is built in Python, and `convert` hands a Struct back unread. Reading back
    # the bytes that are sent anyway is the cheapest check (2 us) and covers exactly what a reader will see.
    read = wire.decode(type(event), value)
    if read != event:
        _refuse_not_finite(event)
    wire.check_event(read, now_ms)
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = None
    headers = wire.headers(read, event_id=read.event_id, time_ms=read.event_time_ms, source=source, traceparent=traceparent)
    return OutgoingRecord(topic.name, value, shopper_id(read).encode(), headers)


def _encoded(event: Event) -> bytes:
    try:
        return wire.encode(event)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        field = next((name for name in event.__struct_fields__ if not _can_be_encoded(getattr(event, name))), None)
        path = f"$.{field}" if field else "$"
        raise InvalidMessage(path, getattr(event, field) if field else event, f"cannot be written as JSON: {error}") from None


def _can_be_encoded(value: object) -> bool:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _refuse_not_finite(value: object, path: str = "$") -> None:
    """Raise InvalidMessage at the first NaN or infinity: JSON has none, so it would arrive as a missing value."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidMessage(path, value, "a finite number was expected")
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _refuse_not_finite(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            _refuse_not_finite(part, f"{path}[{place}]")
