"""The wire format: JSON values, CloudEvents attributes and `traceparent` in the Kafka headers.

Headers follow the CloudEvents 1.0 Kafka protocol binding, binary content mode: `ce_id`, `ce_source`, `ce_type`, `ce_time`,
`ce_specversion`, `ce_dataschema`, and `content-type`. `traceparent` follows W3C Trace Context.

Unknown fields are refused, since a misspelt optional field would otherwise be lost in silence. The exception is a record
whose `ce_dataschema` says that a later minor version of the same major wrote it: there they are passed over, so that
a field may be added while older workers still run.
"""

import json
import re
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

from headrace.schemas.events import GUEST_PREFIX, Event

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 4
MAX_FUTURE_MS = 5 * 60 * 1000

Headers = list[tuple[str, str | bytes | None]]
AnyHeaders = Headers | dict[str, str | bytes | None] | None
M = TypeVar("M", bound=Struct)

_encoder = msgspec.json.Encoder()
_PATH = re.compile(r" - at `(?P<path>\$[^`]*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<index>\d+|\.\.\.)\]")


class InvalidMessage(ValueError):
    """A message that cannot be taken in. `field` is its path (`$` for the whole), `value` what stood there, `expected` what should."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
        super().__init__(f"{field}: {expected}; the value is {shown}")
        self.field = field
        self.value = value
        self.expected = expected


def encode(message: Struct) -> bytes:
    """Return the message as JSON."""
    return _encoder.encode(message)


def decode(kind: type[M], value: bytes | None, headers: AnyHeaders = None) -> M:
    """Return the message of type `kind` that `value` holds as JSON.

    Raises InvalidMessage, which names the field and its value, where `value` is no such message.
    """
    if value is None:
        raise InvalidMessage("$", None, f"a {kind.__name__} as JSON was expected, not an empty record (tombstone)")
    minor = _minor_version(kind, headers) if headers else SCHEMA_MINOR
    try:
        if minor > SCHEMA_MINOR:
            return msgspec.convert(_known_fields(kind, msgspec.json.decode(value)), kind)
        decoded: M = _decoder(kind).decode(value)
        return decoded
    except msgspec.ValidationError as error:
        raise _explain(error, value) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage("$", value[:80], f"not JSON: {error}") from None


def check_event(event: Event, now_ms: int, max_future_ms: int = MAX_FUTURE_MS) -> None:
    """Raise InvalidMessage where an event of the right shape makes no sense at time `now_ms`."""
    if event.user_id is None and event.session_id is None:
        raise InvalidMessage("$.user_id", None, "a user_id, or for a guest a session_id, was expected")
    if event.user_id is not None and event.user_id.startswith(GUEST_PREFIX):
        raise InvalidMessage("$.user_id", event.user_id, f"the prefix '{GUEST_PREFIX}' is kept for guests; send a session_id instead")
    if event.event_time_ms > now_ms + max_future_ms:
        ahead_s, allowed_s = (event.event_time_ms - now_ms) / 1000, max_future_ms / 1000
        expected = f"lies {ahead_s:.0f} s in the future, at most {allowed_s:.0f} s are allowed; it counts milliseconds since 1970, in UTC"
        raise InvalidMessage("$.event_time_ms", event.event_time_ms, expected)


def headers(message: Struct, *, event_id: str, time_ms: int, source: str, traceparent: str | None = None) -> Headers:
    """Return the CloudEvents attributes of a message, with a new trace where none is handed on."""
    name = type(message).__name__
    stamp = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", cloud_event_type(name)),
        ("ce_time", stamp.replace("+00:00", "Z").encode()),
        ("ce_dataschema", data_schema(name)),
        ("content-type", b"application/json"),
        ("traceparent", (traceparent or new_traceparent()).encode()),
    ]


def new_traceparent() -> str:
    """Return a W3C `traceparent` of a new trace, which is not sampled: nobody has recorded a span of it."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


def header(headers: AnyHeaders, name: str) -> str | None:
    """Return the text of the last header of that name, or None."""
    found = None
    for key, value in headers.items() if isinstance(headers, dict) else headers or ():
        if key == name and value is not None:
            found = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def now_ms() -> int:
    """Return the wall clock in whole milliseconds."""
    return time.time_ns() // 1_000_000


@cache
def _decoder(kind: type[M]) -> msgspec.json.Decoder[M]:
    return msgspec.json.Decoder(kind)


@cache
def cloud_event_type(name: str) -> bytes:
    """Return the `ce_type` of the message type of that name."""
    return f"headrace.{kebab(name)}.v{SCHEMA_MAJOR}".encode()


@cache
def data_schema(name: str) -> bytes:
    """Return the `ce_dataschema` of the message type of that name, which is its JSON Schema's `$id` too."""
    return f"urn:headrace:{kebab(name)}:{SCHEMA_MAJOR}.{SCHEMA_MINOR}".encode()


def kebab(name: str) -> str:
    """Return `UserRow` as `user-row`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def _minor_version(kind: type[Struct], headers: AnyHeaders) -> int:
    return _minor_version_of(kind, header(headers, "ce_dataschema"))


@lru_cache(1000)
def _minor_version_of(kind: type[Struct], schema: str | None) -> int:
    prefix = f"urn:headrace:{kebab(kind.__name__)}:"
    if schema is None or not schema.startswith(prefix):
        return SCHEMA_MINOR
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", schema.removeprefix(prefix))
    if match is None:
        return SCHEMA_MINOR
    if int(match[1]) != SCHEMA_MAJOR:
        raise InvalidMessage(
            "ce_dataschema", schema, f"this reader understands major version {SCHEMA_MAJOR}; upgrade it, or publish that version"
        )
    return int(match[2])


def _known_fields(kind: object, value: object) -> object:
    """Return `value` without the object fields that `kind` does not define, at any depth."""
    if isinstance(kind, type) and issubclass(kind, Struct) and isinstance(value, Mapping):
        config = kind.__struct_config__
        known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        kept = {name: _known_fields(known[name], part) for name, part in value.items() if name in known}
        if config.tag_field in value:
            kept[config.tag_field] = value[config.tag_field]
        return kept
    if get_origin(kind) is list and isinstance(value, list):
        return [_known_fields(get_args(kind)[0], part) for part in value]
    for option in get_args(kind):
        if isinstance(value, Mapping | list):
            value = _known_fields(option, value)
    return value


def _explain(error: msgspec.ValidationError, raw: bytes) -> InvalidMessage:
    text = str(error)
    match = _PATH.search(text)
    path = match["path"] if match else "$"
    expected = text[: match.start()] if match else text
    return InvalidMessage(path, _value_at(path, raw), expected)


def _value_at(path: str, raw: bytes) -> Any:
    try:
        value = json.loads(raw)
        for step in _STEP.finditer(path):
            if step["index"] == "...":
                break
            value = value[step["name"]] if step["name"] else value[int(step["index"])]
    except (ValueError, LookupError, TypeError, RecursionError):
        return raw[:80]
    return value
