"""The rows in Redis: read in one round trip, written only where nobody else has written meanwhile.

A write says which row it builds on. Redis compares that row's offsets with those of the stored one and refuses where they
differ: so a worker that was paused, and wakes after its partition has moved, cannot overwrite its successor, and neither of
two workers that share a visit loses what the other has counted.

Beside the rows lie positions: the last offset of each source partition whose rows are all written. They are written after the
rows, and Redis loses the newest writes first; so a position that is lower than its worker remembers, or gone, tells that rows
are gone too, and from where to read again.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from headrace.features.columns import ITEMS, SESSIONS, USERS
from headrace.features.feast_layout import R, RowTable
from headrace.schemas import ItemRow, SessionRow, UserRow

PROJECT = "headrace"
FEATURE_SERVICE = "next_item"
DEFINITIONS_KEY = "headrace:definitions"
POSITION_KEY = "headrace:position:"
# A visit is kept for a week, so that Redis does not fill with those of guests who never come back.
SESSION_KEPT_MS = 7 * 24 * 3600 * 1000

Positions = Mapping[str, int | None]

# KEYS: the row. ARGV: the field of the offsets, what it must hold, how long the row lives in ms or 0, then fields and values.
_WRITE_ROW = """
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if held ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
if ARGV[3] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
"""
# KEYS: the position. ARGV: what it must hold, the new one. Returns what is held afterwards.
_MOVE_POSITION = """
local held = redis.call('GET', KEYS[1]) or ''
if held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
"""


class StoreBehind(RuntimeError):
    """The store has lost writes: its positions are older than what was written to it. `sources` names them."""

    def __init__(self, sources: Sequence[str]) -> None:
        super().__init__(f"the online store has lost what was written last of {', '.join(sources)}")
        self.sources = list(sources)


@dataclass(frozen=True)
class RowWrite(Generic[R]):
    """A row to be written in place of the one that it was made of; `body` is the new row as JSON."""

    table: RowTable[R]
    before: R
    after: R
    body: bytes


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
    """The rows of users, items and sessions in one Redis database, which belongs to Headrace alone."""

    def __init__(self, client: redis.Redis, project: str = PROJECT) -> None:
        self.client = client
        self.users: RowTable[UserRow] = RowTable(USERS, UserRow, lambda row: row.shopper_id, project)
        self.items: RowTable[ItemRow] = RowTable(ITEMS, ItemRow, lambda row: row.item_id, project)
        self.sessions: RowTable[SessionRow] = RowTable(SESSIONS, SessionRow, lambda row: row.session_id, project)

    def write(self, users: Iterable[UserRow] = (), items: Iterable[ItemRow] = (), sessions: Iterable[SessionRow] = ()) -> None:
        """Write rows over whatever is there, in one round trip. Raises redis.RedisError where the server refuses."""
        with self.client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.execute_command("HSET", self.users.key(user.shopper_id), *self.users.fields(user))
            for item in items:
                pipe.execute_command("HSET", self.items.key(item.item_id), *self.items.fields(item))
            for session in sessions:
                pipe.execute_command("HSET", self.sessions.key(session.session_id), *self.sessions.fields(session))
            pipe.execute()

    def compare_and_set(self, writes: Sequence[RowWrite[Any]], moved: Mapping[str, tuple[int | None, int]]) -> list[bool]:
        """Write each row whose stored row is still the one that it builds on, then move positions; one round trip.

        `moved` holds for each source what its position was and what it becomes. Returns for each write whether it was done.
        Raises StoreBehind where a position is older than `moved` says that it was, redis.RedisError where the server refuses.
        """
        with self.client.pipeline(transaction=False) as pipe:
            # Sent along each time: a server that was started anew has forgotten them.
            pipe.script_load(_WRITE_ROW)
            pipe.script_load(_MOVE_POSITION)
            for write in writes:
                table = write.table
                lives_ms = SESSION_KEPT_MS if table is self.sessions else 0
                pipe.execute_command(
                    "EVALSHA",
                    _WRITE_ROW_SHA,
                    1,
                    table.key(table.key_of(write.after)),
                    table.offsets_field,
                    table.token(write.before),
                    lives_ms,
                    *table.fields(write.after, write.body),
                )
            for source, (old, new) in moved.items():
                pipe.execute_command("EVALSHA", _MOVE_POSITION_SHA, 1, POSITION_KEY + source, "" if old is None else old, new)
            _, _, *answers = pipe.execute()
        held = {source: int(raw) if raw else None for source, raw in zip(moved, answers[len(writes) :], strict=True)}
        require_positions({source: old for source, (old, _) in moved.items()}, held)
        return [bool(answer) for answer in answers[: len(writes)]]

    def read_users(self, shopper_ids: Sequence[str]) -> list[UserRow | None]:
        """Return the rows of these shoppers in the order asked, None for one that has none."""
        return self._read(self.users, shopper_ids)

    def read_items(self, item_ids: Sequence[str]) -> list[ItemRow | None]:
        """Return the rows of these items in the order asked, None for one that has none."""
        return self._read(self.items, item_ids)

    def read_sessions(self, session_ids: Sequence[str]) -> list[SessionRow | None]:
        """Return the rows of these visits in the order asked, None for one that has none."""
        return self._read(self.sessions, session_ids)

    def read_checked(self, wanted: Sequence[tuple[RowTable[Any], str]], expected: Positions) -> list[Any]:
        """Return rows of any tables in the order asked, once the positions are seen to be no older than `expected`.

        Raises StoreBehind: a row that was lost must not be taken for one that never was.
        """
        sources = list(expected)
        with self.client.pipeline(transaction=False) as pipe:
            for source in sources:
                pipe.execute_command("GET", POSITION_KEY + source)
            for table, entity in wanted:
                pipe.execute_command("HGET", table.key(entity), table.row_field)
            answers = pipe.execute()
        require_positions(expected, {source: None if raw is None else int(raw) for source, raw in zip(sources, answers, strict=False)})
        return [table.row(body) for (table, _), body in zip(wanted, answers[len(sources) :], strict=True)]

    def positions(self, sources: Sequence[str]) -> dict[str, int | None]:
        """Return the position of each source; None where nothing of it was written."""
        held: Any = self.client.mget([POSITION_KEY + source for source in sources]) if sources else []
        return {source: None if raw is None else int(raw) for source, raw in zip(sources, held, strict=True)}

    def definitions(self) -> str | None:
        """Return the fingerprint of the feature definitions that the rows were made by; None for an empty store."""
        raw: Any = self.client.get(DEFINITIONS_KEY)
        return None if raw is None else raw.decode()

    def claim_definitions(self, fingerprint: str) -> str:
        """Say by which definitions the rows are made, unless that is said already; return what is said."""
        self.client.set(DEFINITIONS_KEY, fingerprint, nx=True)
        return self.definitions() or fingerprint

    def scan_users(self) -> Iterator[UserRow]:
        """Yield the rows of all shoppers. Rows that are written meanwhile may or may not be among them."""
        return self._scan(self.users)

    def scan_items(self) -> Iterator[ItemRow]:
        """Yield the rows of all items."""
        return self._scan(self.items)

    def scan_sessions(self) -> Iterator[SessionRow]:
        """Yield the rows of all visits."""
        return self._scan(self.sessions)

    def _scan(self, table: RowTable[R], at_once: int = 1000) -> Iterator[R]:
        keys = self.client.scan_iter(match=table.pattern, count=at_once)
        while part := list(dict.fromkeys(islice(keys, at_once))):
            yield from (row for row in self._read(table, [table.entity(key) for key in part]) if row is not None)

    def _read(self, table: RowTable[R], entities: Sequence[str]) -> list[R | None]:
        with self.client.pipeline(transaction=False) as pipe:
            for entity in entities:
                pipe.execute_command("HGET", table.key(entity), table.row_field)
            return [table.row(body) for body in pipe.execute()]


def require_positions(expected: Positions, held: Positions) -> None:
    """Raise StoreBehind where a position is gone or older than expected."""
    behind = []
    for source, offset in expected.items():
        found = held.get(source)
        if offset is not None and (found is None or found < offset):
            behind.append(source)
    if behind:
        raise StoreBehind(behind)


def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


_WRITE_ROW_SHA = _sha(_WRITE_ROW)
_MOVE_POSITION_SHA = _sha(_MOVE_POSITION)
