"""Feast's layout of online rows in Redis, written and read directly.

`store.push` takes tens of milliseconds an event; the bytes it leaves behind are simple. A row is a Redis hash under the
serialized entity key (version 3) followed by the project's name; each feature is a field, named by the murmur3 hash of
'view:feature', that holds a `feast.types.Value`; `_ts:view` holds the row's timestamp. A test holds this module to Feast's own
`get_online_features`. Feast itself is not imported, since that takes seconds: only its generated `Value` message is loaded.
"""

import importlib.util
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import mmh3
import redis
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import Struct
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from headrace.schemas import HistoryEntry, ItemRow, UserRow

PROJECT = "headrace"
USER_VIEW, ITEM_VIEW = "user_history", "item_counts"
FEATURE_SERVICE = "next_item"

_STRING = 2
R = TypeVar("R", bound=Struct)


def connect(url: str, timeout_s: float = 5.0) -> redis.Redis:
    """Return a client that tries again for some seconds while the server is away."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.02), retries=10),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )


class OnlineStore:
    """The user and item rows in Redis."""

    def __init__(self, client: redis.Redis, project: str = PROJECT) -> None:
        self._client = client
        self._users = _Table(USER_VIEW, "user_id", project, _user_columns, _user_row)
        self._items = _Table(ITEM_VIEW, "item_id", project, _item_columns, _item_row)

    def write(self, users: Iterable[UserRow], items: Iterable[ItemRow]) -> None:
        """Write rows in one round trip. Raises redis.RedisError where the server refuses."""
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.execute_command("HSET", self._users.key(user.shopper_id), *self._users.fields(user, user.updated_ms))
            for item in items:
                pipe.execute_command("HSET", self._items.key(item.item_id), *self._items.fields(item, item.updated_ms))
            pipe.execute()

    def read_users(self, shopper_ids: Sequence[str]) -> list[UserRow | None]:
        """Return the rows of these shoppers in the order asked, None for one that has none."""
        return self._read(self._users, shopper_ids)

    def read_items(self, item_ids: Sequence[str]) -> list[ItemRow | None]:
        """Return the rows of these items in the order asked, None for one that has none."""
        return self._read(self._items, item_ids)

    def scan_users(self) -> Iterator[UserRow]:
        """Yield the rows of all shoppers. Rows that are written meanwhile may or may not be among them."""
        return self._scan(self._users)

    def scan_items(self) -> Iterator[ItemRow]:
        """Yield the rows of all items."""
        return self._scan(self._items)

    def _scan(self, table: "_Table[R]", at_once: int = 1000) -> Iterator[R]:
        keys = self._client.scan_iter(match=table.pattern, count=at_once)
        while part := list(dict.fromkeys(islice(keys, at_once))):
            yield from (row for row in self._read(table, [table.entity(key) for key in part]) if row is not None)

    def _read(self, table: "_Table[R]", keys: Sequence[str]) -> list[R | None]:
        with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.execute_command("HMGET", table.key(key), *table.field_names)
            return [table.row(key, values) for key, values in zip(keys, pipe.execute(), strict=True)]


class _Table(Generic[R]):
    """How one feature view lies in Redis."""

    def __init__(
        self, view: str, join_key: str, project: str, columns: Callable[[R], dict[str, Any]], build: Callable[[str, dict[str, Any]], R]
    ) -> None:
        name = join_key.encode()
        self._head = struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<I", _STRING)
        self._tail = project.encode()
        self._timestamp_name = f"_ts:{view}".encode()
        self._columns = columns
        self._build = build
        self._view = view
        self._names = list(_COLUMNS[view])
        self._hashed = {name: struct.pack("<I", mmh3.hash(f"{view}:{name}", signed=False)) for name in self._names}
        self.field_names = list(self._hashed.values())

    def key(self, value: str) -> bytes:
        raw = value.encode()
        return self._head + struct.pack("<I", len(raw)) + raw + self._tail

    @property
    def pattern(self) -> bytes:
        """What Redis's SCAN must match to find the keys of this table."""
        return self._head + b"*" + self._tail

    def entity(self, key: bytes) -> str:
        """Return the value that `key` was made of."""
        return key[len(self._head) + 4 : len(key) - len(self._tail)].decode()

    def fields(self, row: R, updated_ms: int) -> list[bytes]:
        """Return names and values in turn, as HSET takes them."""
        stamp = Timestamp(seconds=updated_ms // 1000, nanos=updated_ms % 1000 * 1_000_000)
        fields = [self._timestamp_name, stamp.SerializeToString()]
        for name, value in self._columns(row).items():
            fields += (self._hashed[name], _encode(_COLUMNS[self._view][name], value))
        return fields

    def row(self, key: str, values: Sequence[bytes | None]) -> R | None:
        if all(value is None for value in values):
            return None
        return self._build(key, {name: _decode(value) for name, value in zip(self._names, values, strict=True) if value is not None})


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

_COLUMNS: dict[str, dict[str, str]] = {
    USER_VIEW: {
        "history_items": "string_list_val",
        "history_kinds": "string_list_val",
        "history_times_ms": "int64_list_val",
        "steps": "int64_val",
        "views": "int64_val",
        "carts": "int64_val",
        "purchases": "int64_val",
        "updated_ms": "int64_val",
        "offsets": "string_val",
    },
    ITEM_VIEW: {
        "views": "int64_val",
        "carts": "int64_val",
        "purchases": "int64_val",
        "units": "int64_val",
        "decayed_views": "double_val",
        "decayed_purchases": "double_val",
        "price": "double_val",
        "category": "string_val",
        "updated_ms": "int64_val",
        "offsets": "string_val",
    },
}


def _encode(kind: str, value: Any) -> bytes:
    message = _Value()
    # None is a message with nothing set: Feast reads its own `null_val` as the number 0.
    if value is None:
        return b""
    if kind.endswith("_list_val"):
        # An empty list would otherwise be no list, and be read back as none.
        getattr(message, kind).SetInParent()
        getattr(message, kind).val.extend(value)
    else:
        setattr(message, kind, value)
    return bytes(message.SerializeToString())


def _decode(raw: bytes) -> Any:
    message = _Value.FromString(raw)
    kind = message.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    value = getattr(message, kind)
    return list(value.val) if kind.endswith("_list_val") else value


def _user_columns(row: UserRow) -> dict[str, Any]:
    return {
        "history_items": [entry.item_id for entry in row.history],
        "history_kinds": [entry.kind for entry in row.history],
        "history_times_ms": [entry.time_ms for entry in row.history],
        "steps": row.steps,
        "views": row.views,
        "carts": row.carts,
        "purchases": row.purchases,
        "updated_ms": row.updated_ms,
        "offsets": json.dumps(row.offsets),
    }


def _user_row(shopper_id: str, columns: dict[str, Any]) -> UserRow:
    items, kinds, times = (columns.pop(name, []) for name in ("history_items", "history_kinds", "history_times_ms"))
    history = [HistoryEntry(*entry) for entry in zip(items, kinds, times, strict=True)]
    return UserRow(shopper_id=shopper_id, history=history, **columns | {"offsets": json.loads(columns["offsets"])})


def _item_columns(row: ItemRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _COLUMNS[ITEM_VIEW]} | {"offsets": json.dumps(row.offsets)}


def _item_row(item_id: str, columns: dict[str, Any]) -> ItemRow:
    return ItemRow(item_id=item_id, **columns | {"offsets": json.loads(columns["offsets"])})
