"""Feast's layout of online rows in Redis, as bytes.

A row is a Redis hash under the serialized entity key (version 3) followed by the project's name; each feature is a field, named
by the murmur3 hash of 'view:feature', that holds a `feast.types.Value`; `_ts:view` holds the row's timestamp. Beside them lies
`_row:view`, the whole row as JSON, which only Headrace reads. A test holds this module to Feast's own `get_online_features`.
Feast itself is not imported, since that takes seconds: only its generated `Value` message is loaded, and plain numbers and texts
are written as the bytes that it would make of them.
"""

import importlib.util
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import mmh3
import msgspec

from headrace.features.columns import ITEM_VIEW, SESSION_VIEW, USER_VIEW, View
from headrace.features.redis_scripts import pack
from headrace.schemas import encode
from headrace.schemas.feature_rows import Row

R = TypeVar("R", bound=Row)

_STRING = 2
# What most events leave as it is. A row of which nothing is stored yet is written whole.
_SELDOM = {
    USER_VIEW: {
        *("carts", "purchases", "spend", "decayed_carts", "decayed_purchases", "decayed_spend"),
        *("last_purchase_ms", "late", "repeated"),
    },
    ITEM_VIEW: {"carts", "purchases", "units", "revenue", "price", "lowest_price", "highest_price", "category", "late"},
    SESSION_VIEW: {"carts", "purchases", "spend", "first_ms"},
}


@dataclass(frozen=True, eq=False)
class Layout:
    """Fields that are written together: their names, also as MessagePack, how each value is encoded, and which of the view's they are."""

    names: list[bytes]
    packed_names: bytes
    encoders: list[Callable[[Any], bytes]]
    picked: Callable[[Sequence[Any]], Sequence[Any]]


class RowTable(Generic[R]):
    """How the rows of one feature view lie in Redis. `key_of` names the row's entity."""

    def __init__(self, view: View, kind: type[R], key_of: Callable[[R], str], project: str) -> None:
        name = view.join_key.encode()
        self.view = view
        self.kind = kind
        self.key_of = key_of
        self.row_field = f"_row:{view.name}".encode()
        self.field_names = {
            column.name: struct.pack("<I", mmh3.hash(f"{view.name}:{column.name}", signed=False)) for column in view.columns
        }
        self.offsets_field = self.field_names["offsets"]
        self._head = struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<I", _STRING)
        self._tail = project.encode()
        self._timestamp_field = f"_ts:{view.name}".encode()
        seldom = [column.name for column in view.columns if column.name in _SELDOM[view.name]]
        self._seldom = attrgetter(*seldom)
        self._all = self._layout(range(len(view.columns)))
        self._often = self._layout([number for number, column in enumerate(view.columns) if column.name not in seldom])
        self._decoder = msgspec.json.Decoder(kind)

    def key(self, entity: str) -> bytes:
        """Return the Redis key of an entity."""
        raw = entity.encode()
        return self._head + struct.pack("<I", len(raw)) + raw + self._tail

    @property
    def pattern(self) -> bytes:
        """What Redis's SCAN must match to find the keys of this table."""
        return self._head + b"*" + self._tail

    def entity(self, key: bytes) -> str:
        """Return the value that `key` was made of."""
        return key[len(self._head) + 4 : len(key) - len(self._tail)].decode()

    def fields(self, row: R, body: bytes | None = None) -> list[bytes]:
        """Return names and values in turn, as HSET takes them. `body` is the row as JSON, where it is at hand."""
        names = self._all.names
        fields = [b""] * (2 * len(names))
        fields[::2] = names
        fields[1::2] = self.values(self._all, row, body or encode(row))
        return fields

    def layout_over(self, before: R, row: R) -> Layout:
        """Return the fields that must be written over the stored row `before`: what seldom changes is left out where it has not."""
        return self._often if before.offsets and self._seldom(before) == self._seldom(row) else self._all

    def values(self, layout: Layout, row: R, body: bytes) -> list[bytes]:
        """Return the values of these fields, in their order. `body` is the row as JSON."""
        picked = layout.picked(self.view.values(row))
        # None is a message with nothing set: Feast reads its own `null_val` as the number 0.
        values = [b"" if value is None else encoded(value) for encoded, value in zip(layout.encoders, picked, strict=True)]
        return [_timestamp(row.seen_ms), body, *values]

    def token(self, row: R) -> bytes:
        """Return what the field `offsets` holds where `row` is stored: by it a row is known to be the very one that was read."""
        return _text(msgspec.json.encode(row.offsets)) if row.offsets else b""

    def row(self, body: bytes | None) -> R | None:
        """Return the row that `_row:view` holds."""
        return None if body is None else self._decoder.decode(body)

    def _layout(self, numbers: Sequence[int]) -> Layout:
        columns = [self.view.columns[number] for number in numbers]
        names = [self._timestamp_field, self.row_field, *(self.field_names[column.name] for column in columns)]
        return Layout(names, pack(names), [_ENCODERS[column.kind] for column in columns], itemgetter(*numbers))


def decode_value(raw: bytes) -> Any:
    """Return what a Feast `Value` holds: a number, a text, a list, or None."""
    message = _Value.FromString(raw)
    kind = message.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    value = getattr(message, kind)
    return list(value.val) if kind.endswith("_list_val") else value


def _load_value_message() -> Any:
    """Load Feast's generated `Value` message from its file, without running Feast's package."""
    spec = importlib.util.find_spec("feast")
    if spec is None or spec.origin is None:
        raise ImportError("feast is not installed; it defines how online rows are encoded")
    path = Path(spec.origin).parent / "protos" / "feast" / "types" / "Value_pb2.py"
    message = importlib.util.spec_from_file_location("headrace_feast_value", path)
    if message is None or message.loader is None:
        raise ImportError(f"{path} is missing: this version of feast keeps its messages elsewhere")
    module = importlib.util.module_from_spec(message)
    message.loader.exec_module(module)
    return module.Value


_Value = _load_value_message()


def _varint(number: int) -> bytes:
    """Protocol Buffers' variable-length form of a number of 0 or more."""
    if number < _LARGEST_READY:
        return _READY[number]
    if 1 << 35 <= number < 1 << 42:
        # Times in milliseconds, which are most of the large numbers: six bytes, two at a time.
        return _CONTINUED[number & 0x3FFF] + _CONTINUED[number >> 14 & 0x3FFF] + _READY[number >> 28]
    return _any_varint(number)


def _any_varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


_LARGEST_READY = 1 << 14
_READY = [_any_varint(number) for number in range(_LARGEST_READY)]
# 14 bits each, as two bytes after which more follow.
_CONTINUED = [bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(_LARGEST_READY)]


def _timestamp(time_ms: int) -> bytes:
    """A `google.protobuf.Timestamp`."""
    seconds, rest = divmod(time_ms, 1000)
    return _seconds(seconds) + _NANOSECONDS[rest]


@lru_cache(1000)
def _seconds(seconds: int) -> bytes:
    # Rows that are written together were told of at about the same time.
    return b"\x08" + _varint(seconds) if seconds else b""


_NANOSECONDS = [b"\x10" + _any_varint(rest * 1_000_000) if rest else b"" for rest in range(1000)]


def _int(value: int) -> bytes:
    return _READY_INTS[value] if value < _LARGEST_READY else b"\x20" + _varint(value)


_READY_INTS = [b"\x20" + number for number in _READY]


def _double(value: float) -> bytes:
    return _pack_double(0x29, value)


_pack_double = struct.Struct("<Bd").pack


def _string(value: str) -> bytes:
    return _text(value.encode())


def _text(raw: bytes) -> bytes:
    return b"\x12" + _varint(len(raw)) + raw


def _ints(values: Sequence[int]) -> bytes:
    if not values:
        return b"\x72\x00"
    # Numbers below 128 are their own variable-length form: most counts in panes are.
    packed = bytes(values) if max(values) < 0x80 else b"".join(map(_time, values))
    return _list_head(0x72, len(packed)) + packed


@lru_cache(100_000)
def _time(time_ms: int) -> bytes:
    # Panes begin at the same times in many rows, and a history comes again with each of its shopper's events.
    return _varint(time_ms)


def _doubles(values: Sequence[float]) -> bytes:
    if not values:
        return b"\x7a\x00"
    packed = _packing(len(values))(*values)
    return _list_head(0x7A, len(packed)) + packed


@lru_cache
def _packing(doubles: int) -> Callable[..., bytes]:
    return struct.Struct(f"<{doubles}d").pack


@lru_cache(4096)
def _list_head(tag: int, length: int) -> bytes:
    """What stands before a list of numbers that take up `length` bytes side by side."""
    inner = b"\n" + _varint(length)
    return bytes((tag,)) + _varint(len(inner) + length) + inner


def _strings(values: Sequence[str]) -> bytes:
    inner = b"".join(map(_list_string, values))
    return b"\x62" + _varint(len(inner)) + inner


@lru_cache(100_000)
def _list_string(value: str) -> bytes:
    # Items, kinds and categories come again and again.
    raw = value.encode()
    return b"\n" + _varint(len(raw)) + raw


_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "int64_val": _int,
    "double_val": _double,
    "string_val": _string,
    "int64_list_val": _ints,
    "double_list_val": _doubles,
    "string_list_val": _strings,
}
