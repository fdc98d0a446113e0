"""Whether a row as it lies in Redis holds what it must: its JSON and each of Feast's fields, column by column."""

import math
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import mmh3
import msgspec
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import Struct

from headrace.features.feast_layout import RowTable, decode_value
from headrace.features.oracle import Expected
from headrace.schemas.feature_rows import Row

TOLERANCE = 1e-9
_KINDS = {"int64_val": int, "double_val": float, "string_val": str, "int64_list_val": int, "double_list_val": float, "string_list_val": str}
_PANE_COLUMNS = ("pane_starts_ms", "pane_views", "pane_carts", "pane_purchases", "pane_amounts")
_HISTORY_COLUMNS = ("history_items", "history_kinds", "history_times_ms", "history_prices", "history_categories")


class Difference(Struct, frozen=True):
    """One column of one row that holds something else than it must. Columns of the row's JSON are named `_row:column`.

    A `column` of `_row` alone tells of the row as a whole, `_ts` of the time that Feast takes for the row's.
    """

    view: str
    entity: str
    column: str
    expected: Any
    found: Any

    def line(self) -> str:
        """Return it as one readable line; long values are cut."""
        return f"{self.view} {_shown(self.entity)} {self.column}: expected {_shown(self.expected)}, found {_shown(self.found)}"


def row_differences(table: RowTable[Any], entity: str, row: Row, expected: Expected) -> Iterator[Difference]:
    """Yield where the row's JSON differs from what is expected."""
    name = table.view.name
    held = columns_of(row)
    key = held.pop(row.__struct_fields__[0])
    if key != entity:
        yield Difference(name, entity, f"_row:{row.__struct_fields__[0]}", entity, key)
    if "cause" in held:
        cause = held.pop("cause")
        if cause not in expected["causes"]:
            yield Difference(name, entity, "_row:cause", expected["causes"], cause)
    if "recent" in held:
        recent = {source: _marks(events) for source, events in expected["recent"].items() if events}
        if held.pop("recent") != recent:
            yield Difference(name, entity, "_row:recent", expected["recent"], row.recent)  # type: ignore[union-attr]
    for column, found in held.items():
        if not same(expected[column], found):
            yield Difference(name, entity, f"_row:{column}", expected[column], found)


def feast_differences(table: RowTable[Any], entity: str, fields: Mapping[bytes, bytes], expected: Expected) -> Iterator[Difference]:
    """Yield where Feast's fields of the hash differ from what is expected; that which is not told is NaN or empty in Feast's lists."""
    view = table.view
    for column in view.columns:
        wanted = expected[column.name]
        raw = fields.get(table.field_names[column.name])
        if raw is None:
            yield Difference(view.name, entity, column.name, wanted, "no field")
            continue
        try:
            found = _value(raw)
        except DecodeError:
            yield Difference(view.name, entity, column.name, wanted, raw)
            continue
        in_list = column.kind.endswith("_list_val")
        if not (_of_kind(column.kind, found) and same(wanted, _readable(column.name, found), absent_is_empty=in_list)):
            yield Difference(view.name, entity, column.name, wanted, found)
    stamp = fields.get(f"_ts:{view.name}".encode())
    try:
        seen_ms = None if stamp is None else Timestamp.FromString(stamp).ToMilliseconds()
    except (DecodeError, ValueError):
        seen_ms = None
    if seen_ms != expected["seen_ms"]:
        yield Difference(view.name, entity, "_ts", expected["seen_ms"], stamp if seen_ms is None else seen_ms)


def columns_of(row: Row) -> dict[str, Any]:
    """Return what the row's JSON holds, by column: its panes and history as lists side by side."""
    held = {name: getattr(row, name) for name in row.__struct_fields__}
    if "panes" in held:
        panes = held.pop("panes")
        held |= {
            column: [getattr(pane, field) for pane in panes]
            for column, field in zip(_PANE_COLUMNS, ("start_ms", "views", "carts", "purchases", "amount"), strict=True)
        }
    if "history" in held:
        history = held.pop("history")
        held |= {
            column: [getattr(entry, field) for entry in history]
            for column, field in zip(_HISTORY_COLUMNS, ("item_id", "kind", "time_ms", "price", "category"), strict=True)
        }
    if "cause" in held:
        cause = held["cause"]
        held["cause"] = None if cause is None else (cause.event_id, cause.published_ms)
    return held


def same(expected: Any, found: Any, *, absent_is_empty: bool = False) -> bool:
    """Whether two values are the same; numbers with a fraction may differ by a billionth, of their size or of 1."""
    if type(expected) is type(found) and expected == found:
        return True
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(expected) == len(found)
            and all(same(one, other, absent_is_empty=absent_is_empty) for one, other in zip(expected, found, strict=True))
        )
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if expected is None and absent_is_empty:
        return found is None or found == "" or (isinstance(found, float) and math.isnan(found))
    return False


def _readable(column: str, found: Any) -> Any:
    """Return the value as the row's JSON has it: offsets lie in Feast as a text, whose order means nothing."""
    if column == "offsets" and isinstance(found, str):
        try:
            return msgspec.json.decode(found)
        except msgspec.DecodeError:
            return found
    return found


def _of_kind(kind: str, found: Any) -> bool:
    """Whether a Feast value is of its column's kind; none at all fits any that is no list."""
    wanted = _KINDS[kind]
    if kind.endswith("_list_val"):
        return isinstance(found, list) and all(type(one) is wanted for one in found)
    return found is None or type(found) is wanted


def _marks(events: list[tuple[str, int]]) -> bytes:
    return b"".join(struct.pack("<qq", mmh3.hash64(event_id, x64arch=True)[0], place) for event_id, place in events)


@lru_cache(maxsize=100_000)
def _value(raw: bytes) -> Any:
    return decode_value(raw)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
