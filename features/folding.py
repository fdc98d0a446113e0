"""Folding batches of events into rows and storing them: what the feature worker, a replay and a rebuild do alike.

Rows are kept at hand between batches. A write that the store refuses means that somebody else has written the row since it was
read: it is read again, and the batch's events of its entity are folded once more, which those that it holds already pass over.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from headrace.features.feast_layout import RowTable
from headrace.features.item_row import changes_of, fold_item
from headrace.features.online_store import OnlineStore, Positions, RowWrite
from headrace.features.place import Place
from headrace.features.session_row import fold_session
from headrace.features.user_row import counted, fold_user
from headrace.schemas import Event, ItemChange, ItemRow, SessionRow, UserRow, encode, shopper_id

ROWS_KEPT = 200_000
MOST_TRIES = 8

K = TypeVar("K", bound=Hashable)
Arrival = tuple[Event, Place]
Entity = tuple[RowTable[Any], str]


class RowContended(RuntimeError):
    """Others write the same row all the time; they should not: a shopper's and an item's events have one worker each."""


@dataclass
class Taken:
    """What a batch did: the rows that it touched, with their JSON, and the changes for the rows of its items.

    Rows whose events had been there before are among them, since what follows from them may not have been sent.
    """

    users: dict[str, tuple[UserRow, bytes]] = field(default_factory=dict)
    items: dict[str, tuple[ItemRow, bytes]] = field(default_factory=dict)
    changes: list[tuple[Event, ItemChange]] = field(default_factory=list)
    rows_written: dict[str, int] = field(default_factory=dict)
    counted: int = 0
    replayed: int = 0
    repeated: int = 0
    late: int = 0
    refused_writes: int = 0


class RowFolder:
    """Keeps rows at hand, folds events and item changes into them, and stores them. For one thread.

    `expected` holds the positions that the store is known to have reached; a store that is behind them has lost rows.
    """

    def __init__(self, store: OnlineStore, rows_kept: int = ROWS_KEPT) -> None:
        self.expected: dict[str, int | None] = {}
        self._store = store
        self._rows: RowCache[Entity] = RowCache(rows_kept)
        self._empty: dict[str, Callable[[str], Any]] = {
            store.users.view.name: lambda key: UserRow(shopper_id=key),
            store.items.view.name: lambda key: ItemRow(item_id=key),
            store.sessions.view.name: lambda key: SessionRow(session_id=key),
        }

    def start_from(self, positions: Positions) -> None:
        """Forget all rows, and take these as the positions that the store has reached."""
        self._rows.clear()
        self.expected = dict(positions)

    def take_in(self, arrivals: Sequence[Arrival], changes: Sequence[ItemChange], reached: Mapping[str, int]) -> Taken:
        """Fold and store; `reached` holds the last offset of each source in the batch, refused records among them.

        Raises StoreBehind, where rows were lost and nothing of the batch may be counted as done; RowContended; RedisError.
        """
        try:
            return self._take_in(arrivals, changes, reached)
        except BaseException:
            # What is folded and may not be stored must not be built on.
            self._rows.clear()
            raise

    def _take_in(self, arrivals: Sequence[Arrival], changes: Sequence[ItemChange], reached: Mapping[str, int]) -> Taken:
        taken = Taken()
        touched = self._fold(arrivals, changes, taken)
        moved = {}
        for source, offset in reached.items():
            old = self.expected.get(source)
            if old is None or offset > old:
                moved[source] = old, offset
        refused = self._write(touched, moved, taken)
        for source, (_, offset) in moved.items():
            self.expected[source] = offset
        for _ in range(MOST_TRIES):
            if not refused:
                return taken
            taken.refused_writes += len(refused)
            refused = self._again(refused, arrivals, changes, taken)
        raise RowContended(f"{len(refused)} rows are written by others all the time, such as {refused[0][1]!r}")

    def _fold(self, arrivals: Sequence[Arrival], changes: Sequence[ItemChange], taken: Taken) -> dict[Entity, Any]:
        """Fold all, and return each touched entity with the row as it was before."""
        store, rows = self._store, self._rows
        users, items, sessions = store.users, store.items, store.sessions
        wanted: dict[Entity, None] = {}
        for event, _ in arrivals:
            wanted[users, shopper_id(event)] = None
            if event.session_id is not None:
                wanted[sessions, event.session_id] = None
        for change in changes:
            wanted[items, change.item_id] = None
        before = self._load(wanted)
        after = dict(before)
        for event, place in arrivals:
            if event.session_id is not None:
                visit = sessions, event.session_id
                after[visit] = fold_session(after[visit], event, place)
            entity: Entity = users, shopper_id(event)
            old: UserRow = after[entity]
            new = fold_user(old, event, place)
            if new is old:
                taken.replayed += 1
                if not counted(new, event, place):
                    continue
            elif new.repeated != old.repeated:
                taken.repeated += 1
                after[entity] = new
                continue
            else:
                taken.counted += 1
                taken.late += new.late - old.late
                after[entity] = new
            taken.changes += [(event, change) for change in changes_of(event, place)]
        for change in changes:
            entity = items, change.item_id
            after[entity] = fold_item(after[entity], change)
        rows.update(after)
        return before

    def _write(self, before: Mapping[Entity, Any], moved: Mapping[str, tuple[int | None, int]], taken: Taken) -> list[Entity]:
        """Store what has changed; return the entities whose rows the store refused."""
        store = self._store
        writes: list[RowWrite] = []
        entities: list[Entity] = []
        for entity, old in before.items():
            table, key = entity
            row = self._rows[entity]
            if row is old and table is store.sessions:
                # Nothing follows from it, so nobody needs its JSON.
                continue
            body = encode(row)
            if row is not old:
                writes.append(RowWrite(table, old, row, body))
                entities.append(entity)
            if table is store.users:
                taken.users[key] = row, body
            elif table is store.items:
                taken.items[key] = row, body
        done = store.compare_and_set(writes, moved)
        for write, was_done in zip(writes, done, strict=True):
            name = write.table.view.name
            taken.rows_written[name] = taken.rows_written.get(name, 0) + was_done
        return [entity for entity, was_done in zip(entities, done, strict=True) if not was_done]

    def _again(self, refused: Sequence[Entity], arrivals: Sequence[Arrival], changes: Sequence[ItemChange], taken: Taken) -> list[Entity]:
        """Read refused rows anew and fold the batch's events of their entities once more."""
        store = self._store
        users = {key for table, key in refused if table is store.users}
        items = {key for table, key in refused if table is store.items}
        sessions = {key for table, key in refused if table is store.sessions}
        for entity in refused:
            self._rows.drop(entity)
        again = [(event, place) for event, place in arrivals if shopper_id(event) in users or event.session_id in sessions]
        # What follows from an event is in `taken` already.
        touched = self._fold(again, [change for change in changes if change.item_id in items], Taken())
        return self._write(touched, {}, taken)

    def _load(self, wanted: Iterable[Entity]) -> dict[Entity, Any]:
        """Return these rows, reading those that are not at hand in one round trip."""
        self._rows.shrink()
        found = {entity: self._rows.get(entity) for entity in wanted}
        missing = [entity for entity, row in found.items() if row is None]
        if missing:
            for entity, row in zip(missing, self._store.read_checked(missing, self.expected), strict=True):
                table, key = entity
                found[entity] = self._empty[table.view.name](key) if row is None else row
        return found


class RowCache(Generic[K]):
    """The rows used last, by entity."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[K, Any] = OrderedDict()

    def get(self, key: K) -> Any:
        """Return a row, None where it is not at hand."""
        return self._rows.get(key)

    def __getitem__(self, key: K) -> Any:
        return self._rows[key]

    def update(self, rows: Mapping[K, Any]) -> None:
        """Keep these rows, as the ones used last."""
        for key, row in rows.items():
            self._rows[key] = row
            self._rows.move_to_end(key)

    def shrink(self) -> None:
        """Drop the rows that were not used for longest."""
        while len(self._rows) > self._limit:
            self._rows.popitem(last=False)

    def drop(self, key: K) -> None:
        """Forget a row."""
        self._rows.pop(key, None)

    def clear(self) -> None:
        """Forget all rows."""
        self._rows.clear()
