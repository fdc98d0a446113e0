"""The rows in Redis: read in one round trip, written only where nobody else has written meanwhile.

A write says which row it builds on. Redis compares that row's offsets with those of the stored one and refuses where they
differ: so a worker that was paused, and wakes after its partition has moved, cannot overwrite its successor, and neither of
two workers that share a visit loses what the other has counted.

Beside the rows lie positions: the last offset of each source partition whose rows are all written. They are written after the
rows, and Redis loses the newest writes first; so a position that is lower than its worker remembers, or gone, tells that rows
are gone too, and from where to read again.

All rows may be exchanged at once for others (`headrace features switch`). A store whose rows came by an exchange says of which
generation they are, and a write that was made for another generation is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from headrace.features.columns import ITEMS, SESSIONS, USERS
from headrace.features.feast_layout import Layout, R, RowTable
from headrace.features.redis_scripts import MOVE_POSITION, MOVE_POSITION_SHA, READ_ROWS, READ_ROWS_SHA, WRITE_ROWS, WRITE_ROWS_SHA, pack
from headrace.schemas import ItemRow, SessionRow, UserRow

PROJECT = "headrace"
DEFINITIONS_KEY = "headrace:definitions"
POSITION_KEY = "headrace:position:"
GENERATION_KEY = "headrace:generation"
# A visit is kept for a week, so that Redis does not fill with those of guests who never come back.
SESSION_KEPT_MS = 7 * 24 * 3600 * 1000
# A command for many rows costs a fraction of many commands. While one runs, Redis answers nobody: under a millisecond each.
ROWS_A_WRITE, ROWS_A_READ = 32, 256
SENT_AT_ONCE = 16 * 1024

K = TypeVar("K")
Positions = Mapping[str, int | None]


class StoreBehind(RuntimeError):
    """The store has lost writes: its positions are older than what was written to it. `sources` names them."""

    def __init__(self, sources: Sequence[str]) -> None:
        super().__init__(f"the online store has lost what was written last of {', '.join(sources)}")
        self.sources = list(sources)


class StoreExchanged(StoreBehind):
    """All rows were exchanged for others since they were read; what was made of the old ones is not written."""

    def __init__(self, sources: Sequence[str]) -> None:
        RuntimeError.__init__(self, "the rows of the online store were exchanged for others")
        self.sources = list(sources)


class RowWrite(NamedTuple):
    """A row to be written in place of the one that it was made of; `body` is the new row as JSON."""

    table: RowTable[Any]
    before: Any
    after: Any
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
        self._generation: bytes | None = None

    def take_up(self) -> None:
        """Build on the rows that are there now; whoever keeps rows at hand must forget those that were read before."""
        held: Any = self.client.get(GENERATION_KEY)
        self._generation = held or b""

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

    def compare_and_set(
        self, writes: Sequence[RowWrite], moved: Mapping[str, tuple[int | None, int]], expected: Positions = MappingProxyType({})
    ) -> list[bool]:
        """Write each row whose stored row is still the one that it builds on, then move positions; one round trip.

        A row that builds on nothing is written only while no position is older than `expected`, so that none takes the place of one that
        was lost. `moved` holds for each source what its position was and what it becomes. Returns for each write whether it was done.
        Raises StoreBehind where a position is older than `moved` says that it was, StoreExchanged where the rows are of another
        generation than at the last `take_up`, redis.RedisError where the server refuses.
        """
        if self._generation is None:
            self.take_up()
        generation = GENERATION_KEY, self._generation
        layouts = _numbers_by(write.table.layout_over(write.before, write.after) for write in writes)
        parts = [(layout, part) for layout, numbers in layouts for part in _portions(numbers, ROWS_A_WRITE)]

        def commands() -> Iterator[Sequence[Any]]:
            for layout, part in parts:
                yield self._writing(layout, [writes[number] for number in part], expected)
            for source, (old, new) in moved.items():
                yield "EVALSHA", MOVE_POSITION_SHA, 1, POSITION_KEY + source, "" if old is None else old, new, *generation

        answers = self._ask(commands)
        done = [False] * len(writes)
        for (_, part), answer in zip(parts, answers, strict=False):
            if not answer:
                raise StoreExchanged(list(moved))
            for number, was_done in zip(part, answer, strict=True):
                done[number] = bool(was_done)
        held = {source: int(raw) if raw else None for source, raw in zip(moved, answers[len(parts) :], strict=True)}
        require_positions({source: old for source, (old, _) in moved.items()}, held)
        return done

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
        parts = [(table, part) for table, numbers in _numbers_by(table for table, _ in wanted) for part in _portions(numbers, ROWS_A_READ)]

        def commands() -> Iterator[Sequence[Any]]:
            if sources:
                yield "MGET", *(POSITION_KEY + source for source in sources)
            for table, part in parts:
                keys = [table.key(wanted[number][1]) for number in part]
                yield "EVALSHA", READ_ROWS_SHA, len(keys), *keys, *[table.row_field] * len(keys)

        answers = self._ask(commands)
        held = answers.pop(0) if sources else []
        require_positions(expected, {source: None if raw is None else int(raw) for source, raw in zip(sources, held, strict=True)})
        rows: list[Any] = [None] * len(wanted)
        for (table, part), bodies in zip(parts, answers, strict=True):
            for number, body in zip(part, bodies, strict=True):
                rows[number] = table.row(body)
        return rows

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
        return self.read_checked([(table, entity) for entity in entities], {})

    def _ask(self, commands: Callable[[], Iterable[Sequence[Any]]]) -> list[Any]:
        """Send commands and return the answers; once more from the start where the server does not know a script yet."""
        try:
            return self._exchange(commands)
        except redis.exceptions.NoScriptError:
            # It was started anew. A row that was written all the same is refused now, as one that somebody else has written.
            for script in (READ_ROWS, WRITE_ROWS, MOVE_POSITION):
                self.client.script_load(script)
            return self._exchange(commands)

    def _exchange(self, commands: Callable[[], Iterable[Sequence[Any]]]) -> list[Any]:
        """Send commands as they are made, so that Redis works on the first while the last are made; return the answers.

        A pipeline of the client would send none before all are made. Small ones go together: each sending wakes the server.
        All are made and sent again where the connection breaks.
        """
        connection = self.client.connection_pool.get_connection()

        def attempt() -> list[Any]:
            asked = 0
            unsent = bytearray()
            for command in commands():
                unsent += b"".join(connection.pack_command(*command))
                asked += 1
                if len(unsent) > SENT_AT_ONCE:
                    connection.send_packed_command([unsent])
                    unsent = bytearray()
            if unsent:
                connection.send_packed_command([unsent])
            return [connection.read_response() for _ in range(asked)]

        try:
            answers: list[Any] = connection.retry.call_with_retry(attempt, lambda _: connection.disconnect())
        except BaseException:
            # Answers may still be on their way.
            connection.disconnect()
            raise
        finally:
            self.client.connection_pool.release(connection)
        return answers

    def _writing(self, layout: Layout, writes: Sequence[RowWrite], expected: Positions) -> list[Any]:
        """Return the command that writes these fields of rows of one table."""
        table = writes[0].table
        keys = [table.key(table.key_of(write.after)) for write in writes]
        rows = [[table.token(write.before), *table.values(layout, write.after, write.body)] for write in writes]
        reached: list[Any] = []
        if not all(write.before.offsets for write in writes):
            for source, offset in expected.items():
                if offset is not None:
                    reached += (POSITION_KEY + source, offset)
        about = (GENERATION_KEY, self._generation, table.offsets_field, SESSION_KEPT_MS if table is self.sessions else 0)
        return ["EVALSHA", WRITE_ROWS_SHA, len(keys), *keys, *about, layout.packed_names, pack(rows), *reached]


def require_positions(expected: Positions, held: Positions) -> None:
    """Raise StoreBehind where a position is gone or older than expected."""
    behind = []
    for source, offset in expected.items():
        found = held.get(source)
        if offset is not None and (found is None or found < offset):
            behind.append(source)
    if behind:
        raise StoreBehind(behind)


def _numbers_by(kinds: Iterable[K]) -> list[tuple[K, list[int]]]:
    """Return each kind with the numbers of the entries that are of it."""
    numbers: dict[K, list[int]] = {}
    for number, kind in enumerate(kinds):
        numbers.setdefault(kind, []).append(number)
    return list(numbers.items())


def _portions(numbers: Sequence[int], most: int) -> list[Sequence[int]]:
    return [numbers[begun : begun + most] for begun in range(0, len(numbers), most)]
