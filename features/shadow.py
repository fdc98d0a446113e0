"""A shadow store: rows in another database of the same Redis, made beside the live ones and exchanged for them in one step.

Redis keeps up to 16 numbered databases, more where it is configured so; Redis Cluster has but one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import redis
from msgspec import Struct
from redis.connection import parse_url

from headrace.features.feast_layout import RowTable
from headrace.features.online_store import GENERATION_KEY, OnlineStore, connect

SHADOW_KEY = "headrace:shadow"
KEYS_AT_ONCE = 1000


class NoSuchDatabase(ValueError):
    """The number names no database that could hold a shadow store."""


class Shadow(Struct, frozen=True, kw_only=True):
    """How the rows of a database came to be: replayed from events published from `from_ms` to before `to_ms`, where these are given.

    `finished_ms` is None while a replay runs, and stays so where it was broken off.
    """

    begun_ms: int
    finished_ms: int | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    events: int = 0


@dataclass(frozen=True)
class RowCounts:
    """How many rows a database holds."""

    users: int
    items: int
    sessions: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.users + self.items + self.sessions


def database_of(url: str) -> int:
    """Return the number of the database that a Redis URL names."""
    return int(parse_url(url).get("db", 0))


def with_database(url: str, number: int) -> str:
    """Return the URL with the number of its database set."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "db"]
    if parts.scheme == "unix":
        return f"unix://{parts.netloc}{parts.path}?{urlencode([*query, ('db', str(number))])}"
    return urlunsplit(parts._replace(path=f"/{number}", query=urlencode(query)))


def open_database(url: str, number: int) -> OnlineStore:
    """Return the store in database `number` of the Redis at `url`, whose own database is the live one.

    Raises NoSuchDatabase for the live one, for a number that Redis does not have, and for Redis Cluster; redis.RedisError.
    """
    if number == database_of(url):
        raise NoSuchDatabase(f"database {number} is the live one; give another number for the shadow, such as {1 if number != 1 else 2}")
    with connect(url) as client:
        cluster: Any = client.info("cluster")
    if cluster.get("cluster_enabled"):
        raise NoSuchDatabase("this is Redis Cluster, which has one database only; a shadow store needs a Redis that is no cluster")
    store = OnlineStore(connect(with_database(url, number)))
    try:
        store.client.ping()
    except redis.ResponseError as error:
        if "out of range" not in str(error):
            raise
        raise NoSuchDatabase(f"this Redis has no database {number} ({error}); its setting `databases` says how many it has") from None
    return store


def read_shadow(store: OnlineStore) -> Shadow | None:
    """Return what the database says of how its rows came to be; None where it says nothing."""
    raw: Any = store.client.get(SHADOW_KEY)
    return None if raw is None else msgspec.json.decode(raw, type=Shadow)


def write_shadow(store: OnlineStore, shadow: Shadow) -> None:
    """Say how the rows came to be."""
    store.client.set(SHADOW_KEY, msgspec.json.encode(shadow))


def begin_generation(store: OnlineStore, name: str) -> None:
    """Give the rows of an empty store a name of their own, by which writes meant for other rows are known and refused."""
    store.client.set(GENERATION_KEY, name)
    store.take_up()


def exchange(live: OnlineStore, number: int, now_ms: int) -> None:
    """Make database `number` the live one and the other way round, in one step.

    The rows that were live so far are marked as complete, so that they can be switched back to.
    """
    mark = msgspec.json.encode(Shadow(begun_ms=now_ms, finished_ms=now_ms))
    database = int(live.client.connection_pool.connection_kwargs.get("db", 0))
    with live.client.pipeline(transaction=True) as pipe:
        pipe.set(SHADOW_KEY, mark, nx=True)
        pipe.execute_command("SWAPDB", database, number)
        pipe.execute()


def count_rows(store: OnlineStore) -> RowCounts:
    """Return how many rows of each kind there are, in one pass over the keys."""
    heads = [table.pattern.partition(b"*")[0] for table in (store.users, store.items, store.sessions)]
    counts = [0, 0, 0]
    for key in store.client.scan_iter(count=10_000):
        for number, head in enumerate(heads):
            counts[number] += key.startswith(head)
    return RowCounts(*counts)


def missing_from(other: OnlineStore, store: OnlineStore, table: RowTable[Any]) -> Iterator[str]:
    """Yield the entities of a table that have a row in `store` and none in `other`."""
    keys = store.client.scan_iter(match=table.pattern, count=KEYS_AT_ONCE)
    while part := list(islice(keys, KEYS_AT_ONCE)):
        with other.client.pipeline(transaction=False) as pipe:
            for key in part:
                pipe.exists(key)
            there = pipe.execute()
        yield from (table.entity(key) for key, found in zip(part, there, strict=True) if not found)
