"""Reading a feature service for many entities at once: one round trip, with ages and times to live.

Each row is fetched as the JSON that lies beside Feast's fields, and decoded. What follows from it, columns and the features of the
time of asking, is computed when it is looked at: a model that names ten features does not pay for ninety. A test holds every value
to Feast's own `get_online_features`.
"""

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from itertools import chain
from typing import Any

import msgspec
from redis.exceptions import NoScriptError

from headrace.features.asked import AnyUser, AskedView, age_ms, is_over, taste_of_user
from headrace.features.columns import ITEMS, SESSIONS, USERS, View
from headrace.features.feast_layout import RowTable
from headrace.features.online_store import OnlineStore
from headrace.features.redis_scripts import READ_ROWS, READ_ROWS_SHA
from headrace.features.services import Service
from headrace.features.stored_rows import StoredItem, StoredSession, StoredUser
from headrace.features.taste import Taste

# While a command runs, Redis answers nobody else: under a millisecond for so many rows.
ROWS_A_COMMAND = 256
_KINDS: dict[str, type[Any]] = {USERS.name: StoredUser, ITEMS.name: StoredItem, SESSIONS.name: StoredSession}


class EntityMissing(ValueError):
    """An entity does not name what a feature service is asked by."""

    def __init__(self, service: Service, join_key: str, entity: Mapping[str, str]) -> None:
        super().__init__(
            f"the service {service.name!r} was asked for {dict(entity)!r}, without {join_key!r}; give {', '.join(service.join_keys)}"
        )


class FeatureReader:
    """Reads feature services from an online store."""

    def __init__(self, store: OnlineStore) -> None:
        self._client = store.client
        self._tables: dict[str, RowTable[Any]] = {table.view.name: table for table in (store.users, store.items, store.sessions)}
        self._decoders = {name: msgspec.json.Decoder(kind) for name, kind in _KINDS.items()}

    def read(self, service: Service, entities: Sequence[Mapping[str, str]], asked_ms: int) -> list["Features"]:
        """Return what the service knows of each entity, in the order asked, as of `asked_ms`.

        An entity names the join keys of the service, such as {'user_id': 'ada', 'item_id': 'lamp'}. Raises EntityMissing,
        redis.RedisError.
        """
        asked_for = [self._ids(service, view, entities) for view in service.views]
        wanted = [list(dict.fromkeys(ids)) for ids in asked_for]
        keys: list[bytes] = []
        fields: list[bytes] = []
        for view, ids in zip(service.views, wanted, strict=True):
            table = self._tables[view.name]
            keys += map(table.key, ids)
            fields += [table.row_field] * len(ids)
        bodies = iter(self._bodies(keys, fields))
        columns = []
        for view, asked, ids in zip(service.views, asked_for, wanted, strict=True):
            decode = self._decoders[view.name].decode
            rows = {name: None if body is None else decode(body) for name, body in zip(ids, bodies, strict=False)}
            columns.append([rows[name] for name in asked])
        asking = _Asking(service, asked_ms)
        return [Features(asking, ids, rows) for ids, rows in zip(zip(*asked_for, strict=True), zip(*columns, strict=True), strict=True)]

    def _bodies(self, keys: list[bytes], fields: list[bytes]) -> list[bytes | None]:
        """Return what lies at each key under the field beside it, in one round trip."""
        if len(keys) > ROWS_A_COMMAND:
            with self._client.pipeline(transaction=False) as pipe:
                for begun in range(0, len(keys), ROWS_A_COMMAND):
                    part = slice(begun, begun + ROWS_A_COMMAND)
                    pipe.execute_command("EVAL", READ_ROWS, len(keys[part]), *keys[part], *fields[part])
                return [body for bodies in pipe.execute() for body in bodies]
        if not keys:
            return []
        try:
            found: list[bytes | None] = self._client.execute_command("EVALSHA", READ_ROWS_SHA, len(keys), *keys, *fields)
        except NoScriptError:
            # The server was started anew; from here on it knows the script.
            found = self._client.execute_command("EVAL", READ_ROWS, len(keys), *keys, *fields)
        return found

    @staticmethod
    def _ids(service: Service, view: View, entities: Sequence[Mapping[str, str]]) -> list[str]:
        try:
            return [entity[view.join_key] for entity in entities]
        except KeyError:
            missing = next(entity for entity in entities if view.join_key not in entity)
            raise EntityMissing(service, view.join_key, missing) from None


class Features(Mapping[str, Any]):
    """What a service knows of one entity: its features by their full names, 'view__column', as Feast writes them.

    All features of a view are None where there is no row, or where it is older than its time to live; `known`, `stale` and `age_ms`
    tell which, for stored views and for those computed from them. What is computed is computed when it is first looked at.
    """

    __slots__ = ("_asking", "_entities", "_rows", "_values")

    def __init__(self, asking: "_Asking", entities: Sequence[str], rows: Sequence[Any]) -> None:
        self._asking = asking
        self._entities = entities
        self._rows = rows
        self._values: dict[int, Sequence[Any]] = {}

    def __getitem__(self, name: str) -> Any:
        part, place = self._asking.service.places[name]
        return self._values_of(part)[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._asking.service.columns)

    def __len__(self) -> int:
        return len(self._asking.service.columns)

    def to_dict(self) -> dict[str, Any]:
        """Return all features by their full names."""
        service = self._asking.service
        return dict(zip(service.columns, chain.from_iterable(map(self._values_of, range(len(service.parts)))), strict=True))

    def values(self) -> ValuesView[Any]:
        """Return the values of all features, in the order of their names."""
        return self.to_dict().values()

    def items(self) -> ItemsView[str, Any]:
        """Return all features by their full names."""
        return self.to_dict().items()

    def of(self, view: View | AskedView) -> dict[str, Any]:
        """Return the features of one view of the service by their own names."""
        names = [column.name for column in view.columns]
        return dict(zip(names, self._values_of(self._asking.service.parts.index(view)), strict=True))

    def known(self, view: View | AskedView) -> bool:
        """Whether there is a row of this view, of whatever age; of a computed view, all that it needs."""
        return all(row is not None for _, row in self._needed(view))

    def stale(self, view: View | AskedView) -> bool:
        """Whether a row is older than its time to live, so that it is not told."""
        return any(row is not None and is_over(base, row, self._asking.asked_ms) for base, row in self._needed(view))

    def age_ms(self, view: View | AskedView) -> int | None:
        """Return how long ago the newest event of the row was published, the oldest of several; None where one is missing."""
        rows = [row for _, row in self._needed(view)]
        return None if None in rows else max(age_ms(row, self._asking.asked_ms) for row in rows)

    def _needed(self, view: View | AskedView) -> list[tuple[View, Any]]:
        bases = view.of if isinstance(view, AskedView) else (view,)
        return [(base, row) for base, row in zip(self._asking.service.views, self._rows, strict=True) if base in bases]

    def _values_of(self, part: int) -> Sequence[Any]:
        values = self._values.get(part)
        if values is None:
            values = self._values[part] = self._asking.values(part, self._entities, self._rows)
        return values


class _Asking:
    """One question, with what several entities share: a shopper is read beside many items, and computed once."""

    def __init__(self, service: Service, asked_ms: int) -> None:
        self.service = service
        self.asked_ms = asked_ms
        self._values: dict[tuple[int, Sequence[str]], Sequence[Any]] = {}
        self._tastes: dict[int, Taste] = {}

    def values(self, part: int, entities: Sequence[str], rows: Sequence[Any]) -> Sequence[Any]:
        """Return the values of a view, by its number among the service's parts."""
        view = self.service.parts[part]
        places = self.service.rows_of[part]
        needed = [rows[place] for place in places]
        names = tuple([entities[place] for place in places])
        known = self._values.get((part, names))
        if known is not None:
            return known
        if isinstance(view, AskedView):
            values = view.values(needed, names, self.asked_ms, self._taste_of)
        elif needed[0] is None or is_over(view, needed[0], self.asked_ms):
            values = [None] * len(view.columns)
        else:
            values = view.values(needed[0])
        self._values[part, names] = values
        return values

    def _taste_of(self, row: AnyUser) -> Taste:
        # By identity: each row of a question is one object, which lives as long as its answers.
        taste = self._tastes.get(id(row))
        if taste is None:
            taste = self._tastes[id(row)] = taste_of_user(row)
        return taste
