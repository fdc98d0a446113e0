"""Reading a feature service for many entities at once: one round trip, with ages and times to live.

Each row is fetched as the JSON that lies beside Feast's fields, and decoded at once. What follows from it, columns and the features
of the time of asking, is computed when it is looked at. A test holds every value to Feast's own `get_online_features`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from headrace.features.asked import AskedView, age_ms, is_over
from headrace.features.columns import ITEMS, SESSIONS, USERS, View
from headrace.features.feast_layout import RowTable
from headrace.features.online_store import OnlineStore
from headrace.features.services import Service
from headrace.features.stored_rows import StoredItem, StoredSession, StoredUser

# While a command runs, Redis answers nobody else: under a millisecond for so many rows.
ROWS_A_COMMAND = 256
# KEYS: rows. ARGV: a field. Returns what it holds in each.
_READ_ROWS = """
local found = {}
for number, key in ipairs(KEYS) do found[number] = redis.call('HGET', key, ARGV[1]) end
return found
"""
_KINDS: dict[str, type[Any]] = {USERS.name: StoredUser, ITEMS.name: StoredItem, SESSIONS.name: StoredSession}


class EntityMissing(ValueError):
    """An entity does not name what a feature service is asked by."""

    def __init__(self, service: Service, join_key: str, entity: Mapping[str, str]) -> None:
        super().__init__(
            f"the service {service.name!r} was asked for {dict(entity)!r}, without {join_key!r}; give {', '.join(service.join_keys)}"
        )


class Features(Mapping[str, Any]):
    """What a service knows of one entity: its columns by their full names, 'view__column', as Feast writes them.

    All columns of a view are None where there is no row, or where it is older than its time to live; `known`, `stale` and `age_ms`
    tell which, for stored views and for those computed from them.
    """

    __slots__ = ("_asked_ms", "_entities", "_rows", "_service", "_values")

    def __init__(self, service: Service, entities: Sequence[str], rows: Sequence[Any], asked_ms: int) -> None:
        self._service = service
        self._entities = entities
        self._rows = rows
        self._asked_ms = asked_ms
        self._values: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        if self._values is None:
            self._values = self._computed()
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._service.columns)

    def __len__(self) -> int:
        return len(self._service.columns)

    def known(self, view: View | AskedView) -> bool:
        """Whether there is a row of this view, of whatever age; of a computed view, all that it needs."""
        return all(row is not None for _, row in self._needed(view))

    def stale(self, view: View | AskedView) -> bool:
        """Whether a row is older than its time to live, so that it is not told."""
        return any(row is not None and is_over(base, row, self._asked_ms) for base, row in self._needed(view))

    def age_ms(self, view: View | AskedView) -> int | None:
        """Return how long ago the newest event of the row was published, the oldest of several; None where one is missing."""
        ages = [None if row is None else age_ms(row, self._asked_ms) for _, row in self._needed(view)]
        return None if None in ages else max(age for age in ages if age is not None)

    def _needed(self, view: View | AskedView) -> list[tuple[View, Any]]:
        bases = view.of if isinstance(view, AskedView) else (view,)
        return [(base, row) for base, row in zip(self._service.views, self._rows, strict=True) if base in bases]

    def _computed(self) -> dict[str, Any]:
        values: list[Any] = []
        service, asked_ms = self._service, self._asked_ms
        for view, row in zip(service.views, self._rows, strict=True):
            if row is None or is_over(view, row, asked_ms):
                values += [None] * len(view.columns)
            else:
                values += view.values(row)
        for asked in service.asked:
            places = [service.views.index(base) for base in asked.of]
            values += asked.values([self._rows[place] for place in places], [self._entities[place] for place in places], asked_ms)
        return dict(zip(service.columns, values, strict=True))


class FeatureReader:
    """Reads feature services from an online store."""

    def __init__(self, store: OnlineStore) -> None:
        self._client = store.client
        self._tables: dict[str, RowTable[Any]] = {table.view.name: table for table in (store.users, store.items, store.sessions)}
        self._decoders = {name: msgspec.json.Decoder(kind) for name, kind in _KINDS.items()}

    def read(self, service: Service, entities: Sequence[Mapping[str, str]], asked_ms: int) -> list[Features]:
        """Return what the service knows of each entity, in the order asked, as of `asked_ms`.

        An entity names the join keys of the service, such as {'user_id': 'ada', 'item_id': 'lamp'}. Raises EntityMissing,
        redis.RedisError.
        """
        asked_for = [self._ids(service, view, entities) for view in service.views]
        found = self._rows(service, [list(dict.fromkeys(ids)) for ids in asked_for])
        columns = [list(map(rows.__getitem__, ids)) for rows, ids in zip(found, asked_for, strict=True)]
        return [
            Features(service, ids, rows, asked_ms)
            for ids, rows in zip(zip(*asked_for, strict=True), zip(*columns, strict=True), strict=True)
        ]

    def _rows(self, service: Service, wanted: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Return for each view the rows of the entities wanted, each once, in one round trip."""
        with self._client.pipeline(transaction=False) as pipe:
            for view, ids in zip(service.views, wanted, strict=True):
                table = self._tables[view.name]
                for begun in range(0, len(ids), ROWS_A_COMMAND):
                    keys = list(map(table.key, ids[begun : begun + ROWS_A_COMMAND]))
                    pipe.execute_command("EVAL", _READ_ROWS, len(keys), *keys, table.row_field)
            answers = iter(pipe.execute())
        found = []
        for view, ids in zip(service.views, wanted, strict=True):
            decode = self._decoders[view.name].decode
            bodies = [body for _ in range(0, len(ids), ROWS_A_COMMAND) for body in next(answers)]
            found.append({name: None if body is None else decode(body) for name, body in zip(ids, bodies, strict=True)})
        return found

    @staticmethod
    def _ids(service: Service, view: View, entities: Sequence[Mapping[str, str]]) -> list[str]:
        try:
            return [entity[view.join_key] for entity in entities]
        except KeyError:
            missing = next(entity for entity in entities if view.join_key not in entity)
            raise EntityMissing(service, view.join_key, missing) from None
