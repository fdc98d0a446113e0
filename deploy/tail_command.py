"""`headrace tail`: a topic's messages, one a line."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from msgspec import Struct

from headrace.schemas import wire
from headrace.streams.subscriber import Subscriber

_TIMES = ("event_time_ms", "created_ms", "updated_ms")
_SHOWN_PARTS = 5
_SHOWN_CHARACTERS = 100


def tail_lines(bootstrap: str, topic: str, *, start: Literal["end", "beginning"], count: int | None, as_json: bool) -> Iterator[str]:
    """Yield one line for each message. Raises NotSubscribable, BrokerUnreachable, TopicMissing."""
    with Subscriber(bootstrap, topic, start=start) as subscriber:
        for message in islice(subscriber, count):
            yield wire.encode(message).decode() if as_json else readable(message)


def readable(message: Struct) -> str:
    """Return the message as one line: its time, its type, then what it holds; long parts are cut."""
    values = {name: getattr(message, name) for name in message.__struct_fields__}
    stamp = next((values.pop(name) for name in _TIMES if values.get(name) is not None), None)
    told = [] if stamp is None else [_time(stamp)]
    told.append(type(message).__name__)
    told += [f"{name}={_short(value)}" for name, value in values.items() if value not in (None, "", [], {})]
    return " ".join(told)


def _short(value: object) -> str:
    if isinstance(value, Struct):
        parts = [getattr(value, name) for name in value.__struct_fields__]
        return "/".join(_short(part) for part in parts if part is not None)
    if isinstance(value, list):
        more = f",+{len(value) - _SHOWN_PARTS}" if len(value) > _SHOWN_PARTS else ""
        return "[" + ",".join(_short(part) for part in value[:_SHOWN_PARTS]) + more + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_short(part)}" for name, part in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        # What a shop or an attacker sends must not move the reader's cursor.
        value = "".join(character if character.isprintable() else repr(character)[1:-1] for character in value)
        return value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."
    return str(value)


def _time(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError):
        return f"{time_ms}ms"
