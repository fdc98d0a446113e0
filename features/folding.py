"""Folding batches of events into rows and storing them: what the feature worker, a replay and a rebuild do alike.

Rows are kept at hand between batches. A write that the store refuses means that somebody else has written the row since it was
read: it is read again, and the batch's events of its entity are folded once more, which those that it holds already pass over.

Where rows that are not at hand were nearly all new, as those of visits are, the next are taken for new without a question, which
saves a round trip. Where that was wrong the store refuses the write, as above.
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
# From this share of new ones on, rows that are not at hand are not asked for. It is that of about the last so many.
ASKED_BELOW, SHARE_OF = 0.8, 200

K = TypeVar("K", bound=Hashable)
Arrival = tuple[Event, Place]
Entity = tuple[RowTable[Any], str]
# The row of an event's shopper before and after it.
Step = tuple[UserRow, UserRow]


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

    `expected` holds the positions that the store is known to have reached; a store that is behind them has lost rows. With `asked_below`
    0 no row is ever asked for before it is written, with more than 1 each that is not at hand.
    """

    def __init__(self, store: OnlineStore, rows_kept: int = ROWS_KEPT, asked_below: float = ASKED_BELOW) -> None:
        self.expected: dict[str, int | None] = {}
        self._asked_below = asked_below
        # The share of new ones among rows that were not at hand, by view, and those that a batch took for new.
        self._new_share: dict[str, float] = {}
        self._guessed: set[Entity] = set()
        self._store = store
        self._rows: RowCache[Entity] = RowCache(rows_kept)
        self._empty: dict[str, Callable[[str], Any]] = {
            store.users.view.name: lambda key: UserRow(shopper_id=key),
            store.items.view.name: lambda key: ItemRow(item_id=key),
            store.sessions.view.name: lambda key: SessionRow(session_id=key),
        }

    def start_from(self, positions: Positions) -> None:
        """Forget all rows, and take these as the positions that the store has reached."""
        self._forget()
        self.expected = dict(positions)

    def take_in(self, arrivals: Sequence[Arrival], changes: Sequence[ItemChange], reached: Mapping[str, int]) -> Taken:
        """Fold and store; `reached` holds the last offset of each source in the batch, refused records among them.

        Raises StoreBehind, where rows were lost and nothing of the batch may be counted as done; RowContended; RedisError.
        """
        try:
            return self._take_in(arrivals, changes, reached)
        except BaseException:
            # What is folded and may not be stored must not be built on.
            self._forget()
            raise

    def _forget(self) -> None:
        self._rows.clear()
        # Of the rows that are not at hand from now on, others are new.
        self._new_share.clear()

    def _take_in(self, arrivals: Sequence[Arrival], changes: Sequence[ItemChange], reached: Mapping[str, int]) -> Taken:
        taken = Taken()
        steps: dict[int, Step] = {}
        self._guessed.clear()
        touched = self._fold(arrivals, range(len(arrivals)), changes, steps)
        moved = {}
        for source, offset in reached.items():
            old = self.expected.get(source)
            if old is None or offset > old:
                moved[source] = old, offset
        refused = self._write(touched, moved, taken)
        for source, (_, offset) in moved.items():
            self.expected[source] = offset
        wrong = self._guessed.intersection(refused)
        for entity in self._guessed:
            self._saw(entity[0], is_new=entity not in wrong)
        taken.refused_writes = len(refused) - len(wrong)
        for _ in range(MOST_TRIES):
            if not refused:
                _tell(taken, arrivals, steps)
                return taken
            refused = self._again(refused, arrivals, changes, steps, taken)
            taken.refused_writes += len(refused)
        raise RowContended(f"{len(refused)} rows are written by others all the time, such as {refused[0][1]!r}")

    def _fold(
        self, arrivals: Sequence[Arrival], numbers: Sequence[int], changes: Sequence[ItemChange], steps: dict[int, Step]
    ) -> dict[Entity, Any]:
        """Fold the arrivals of these numbers and the changes; return each touched entity with the row as it was before.

        What each arrival made of its shopper's row is put into `steps`.
        """
        store, rows = self._store, self._rows
        users, items, sessions = store.users, store.items, store.sessions
        wanted: dict[Entity, None] = {}
        for number in numbers:
            event, _ = arrivals[number]
            wanted[users, shopper_id(event)] = None
            if event.session_id is not None:
                wanted[sessions, event.session_id] = None
        for change in changes:
            wanted[items, change.item_id] = None
        before = self._load(wanted)
        after = dict(before)
        for number in numbers:
            event, place = arrivals[number]
            if event.session_id is not None:
                visit = sessions, event.session_id
                after[visit] = fold_session(after[visit], event, place)
            entity: Entity = users, shopper_id(event)
            old: UserRow = after[entity]
            after[entity] = new = fold_user(old, event, place)
            steps[number] = old, new
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
        done = store.compare_and_set(writes, moved, self.expected)
        for write, was_done in zip(writes, done, strict=True):
            name = write.table.view.name
            taken.rows_written[name] = taken.rows_written.get(name, 0) + was_done
        return [entity for entity, was_done in zip(entities, done, strict=True) if not was_done]

    def _again(
        self, refused: Sequence[Entity], arrivals: Sequence[Arrival], changes: Sequence[ItemChange], steps: dict[int, Step], taken: Taken
    ) -> list[Entity]:
        """Read refused rows anew and fold the batch's events of their entities once more."""
        store = self._store
        users = {key for table, key in refused if table is store.users}
        items = {key for table, key in refused if table is store.items}
        sessions = {key for table, key in refused if table is store.sessions}
        for entity in refused:
            self._rows.drop(entity)
        again = [n for n, (event, _) in enumerate(arrivals) if shopper_id(event) in users or event.session_id in sessions]
        redone: dict[int, Step] = {}
        touched = self._fold(arrivals, again, [change for change in changes if change.item_id in items], redone)
        # Rows that were written hold their events by now; what these did to them stays as it was.
        steps.update((number, step) for number, step in redone.items() if step[0].shopper_id in users)
        return self._write(touched, {}, taken)

    def _load(self, wanted: Iterable[Entity]) -> dict[Entity, Any]:
        """Return these rows, reading those that are not at hand, and cannot be taken for new, in one round trip."""
        self._rows.shrink()
        found = {entity: self._rows.get(entity) for entity in wanted}
        missing = []
        for entity, row in found.items():
            if row is None:
                table, key = entity
                # None is guessed twice: it is there.
                if self._new_share.get(table.view.name, 0.0) >= self._asked_below and entity not in self._guessed:
                    self._guessed.add(entity)
                    found[entity] = self._empty[table.view.name](key)
                else:
                    missing.append(entity)
        if missing:
            for entity, row in zip(missing, self._store.read_checked(missing, self.expected), strict=True):
                table, key = entity
                found[entity] = self._empty[table.view.name](key) if row is None else row
                if entity not in self._guessed:
                    self._saw(table, is_new=row is None)
        return found

    def _saw(self, table: RowTable[Any], *, is_new: bool) -> None:
        """Reckon with a row that was not at hand."""
        share = self._new_share.get(table.view.name, 0.0)
        self._new_share[table.view.name] = share + (is_new - share) / SHARE_OF


def _tell(taken: Taken, arrivals: Sequence[Arrival], steps: Mapping[int, Step]) -> None:
    """Count what the arrivals did, and gather the changes that follow from them."""
    for number, (event, place) in enumerate(arrivals):
        old, new = steps[number]
        if new is old:
            taken.replayed += 1
            if not counted(new, event, place):
                continue
        elif new.repeated != old.repeated:
            taken.repeated += 1
            continue
        else:
            taken.counted += 1
            taken.late += new.late - old.late
        taken.changes += [(event, change) for change in changes_of(event, place)]


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
