"""All rows of a store against what the oracle expects of them: what differs, what is missing, and what cannot be told any more."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.features import oracle
from headrace.features.columns import SESSION_VIEW
from headrace.features.feast_layout import RowTable
from headrace.features.place import REMEMBERED
from headrace.features.row_check import Difference, columns_of, feast_differences, row_differences
from headrace.schemas import ItemRow
from headrace.schemas.feature_rows import Row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ROWS_AT_ONCE = 500
_NOTHING = "nothing"

# A hash of Redis: fields and values.
Fields = Mapping[bytes, bytes]


@dataclass
class Comparison:
    """Rows as they were found, and what came of comparing them. `lost_below` holds by source how far back its events are gone.

    `differences` counts all, `shown` keeps the first `limit` of them. `unverifiable` counts rows that differ, or of which there is
    no event, and that may hold events which are gone. `compared` counts rows by view.
    """

    db: "DuckDBPyConnection"
    limit: int
    lost_below: dict[str, int] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    differences: int = 0
    unverifiable: int = 0
    shown: list[Difference] = field(default_factory=list)
    _found: set[tuple[str, str]] = field(default_factory=set)
    _unreadable: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Create the oracle's tables, and one for the rows that are found."""
        oracle.create_tables(self.db)
        self.db.execute('CREATE TABLE found ("view" VARCHAR, entity VARCHAR, fields BLOB)')

    def differ(self, difference: Difference) -> None:
        """Count a difference, and show it where there is room."""
        self.differences += 1
        if len(self.shown) < self.limit:
            self.shown.append(difference)

    def add_rows(self, table: RowTable[Any], hashes: Sequence[tuple[str, Fields]]) -> None:
        """Keep rows as they lie in Redis, each with its entity. Of a row that comes twice the first is kept."""
        view = table.view.name
        reached: list[tuple[str, Mapping[str, int]]] = []
        kept: list[tuple[str, str, bytes]] = []
        for entity, fields in hashes:
            if (view, entity) in self._found:
                continue
            self._found.add((view, entity))
            kept.append((view, entity, msgspec.msgpack.encode(fields)))
            row = _row(table, fields)
            if row is None:
                self._unreadable.add((view, entity))
            else:
                reached.append((entity, row.offsets))
        self.compared[view] = self.compared.get(view, 0) + len(kept)
        _keep(self.db, kept)
        oracle.add_reached(self.db, view, reached)

    def check_missing(self, table: RowTable[Any], bounds: Mapping[str, int], now_ms: int) -> None:
        """Count rows that are not there or have not come as far as they must: to `bounds`, by source (see `oracle.unreached`)."""
        view = table.view.name
        oldest_ms = now_ms - table.view.ttl_s * 1000
        for lacking in oracle.unreached(self.db, view, bounds):
            entity = view, lacking.entity
            if entity in self._unreadable:
                continue
            if entity in self._found:
                self.differ(Difference(view, lacking.entity, "offsets", f"at least {lacking.offsets}", "an older row"))
            elif view != SESSION_VIEW or lacking.published_ms > oldest_ms:
                # The row of a visit runs out, and one that nobody may read any more need not be there.
                self.differ(Difference(view, lacking.entity, "_row", f"a row that has reached {lacking.offsets}", _NOTHING))

    def check_rows(self, table: RowTable[Any], progress: Callable[[int, int], object]) -> None:
        """Compare all rows of a table that were found; `progress` is told how many, and of how many."""
        total = self.compared.setdefault(table.view.name, 0)
        expected = chain(oracle.expected_rows(self.db.cursor(), table.view.name), [(None, {})])
        entity, columns = next(expected)
        for done, (stored, fields) in enumerate(self._stored(table.view.name)):
            row = _row(table, fields)
            if row is None:
                self._check_unreadable(table, stored, fields)
            elif stored != entity:
                self._check_unfounded(table, stored, row, fields)
            else:
                self._check_row(table, stored, row, fields, columns)
            if stored == entity:
                entity, columns = next(expected)
            if done % ROWS_AT_ONCE == 0:
                progress(done, total)
        if entity is not None:
            raise RuntimeError(f"the oracle expects a row of {entity!r} that was not found; rows and expectations are out of step")
        progress(total, total)

    def _check_row(self, table: RowTable[Any], entity: str, row: Row, fields: Fields, columns: oracle.Expected) -> None:
        differences = [*row_differences(table, entity, row, columns), *feast_differences(table, entity, fields, columns)]
        if differences and not self._is_whole(row):
            self._check_against_itself(table, entity, row, fields)
            return
        for difference in differences:
            self.differ(difference)

    def _check_against_itself(self, table: RowTable[Any], entity: str, row: Row, fields: Fields) -> None:
        """Part of the row's events is gone; whether Feast's fields say what the row's JSON says can be told all the same."""
        self.unverifiable += 1
        for difference in feast_differences(table, entity, fields, columns_of(row)):
            self.differ(difference)

    def _check_unfounded(self, table: RowTable[Any], entity: str, row: Row, fields: Fields) -> None:
        """A row of which there is no event: they are all gone, or there never were any."""
        if row.offsets and all(offset < self.lost_below.get(source, 0) for source, offset in row.offsets.items()):
            self._check_against_itself(table, entity, row, fields)
        else:
            self.differ(Difference(table.view.name, entity, "_row", "no row, since it has no events", row.offsets))

    def _check_unreadable(self, table: RowTable[Any], entity: str, fields: Fields) -> None:
        held = fields.get(table.row_field)
        found = _NOTHING if held is None else held.decode(errors="replace")
        self.differ(Difference(table.view.name, entity, "_row", f"a {table.kind.__name__} as JSON", found))

    def _is_whole(self, row: Row) -> bool:
        """Whether all events of a row are still there. The row of a shopper or a visit with few remembers them all, with their offsets."""
        for source in row.offsets:
            lost_below = self.lost_below.get(source, 0)
            if lost_below == 0:
                continue
            if isinstance(row, ItemRow):
                return False
            recent = row.recent.get(source, b"")
            remembered = [int.from_bytes(recent[at + 8 : at + 16], "little") for at in range(0, len(recent), 16)]
            if not remembered or len(remembered) >= REMEMBERED or min(remembered) < lost_below:
                return False
        return True

    def _stored(self, view: str) -> Iterator[tuple[str, Fields]]:
        cursor = self.db.cursor().execute('SELECT entity, fields FROM found WHERE "view" = $view ORDER BY entity', {"view": view})
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            for entity, fields in rows:
                yield entity, msgspec.msgpack.decode(fields, type=dict[bytes, bytes])


def _row(table: RowTable[Any], fields: Fields) -> Any:
    try:
        return table.row(fields.get(table.row_field))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _keep(db: "DuckDBPyConnection", kept: Sequence[tuple[str, str, bytes]]) -> None:
    import pyarrow as pa

    if kept:
        kinds = pa.string(), pa.string(), pa.binary()
        columns = [pa.array(values, kind) for values, kind in zip(zip(*kept, strict=True), kinds, strict=True)]
        db.register("kept", pa.table(columns, names=["view", "entity", "fields"]))
        db.execute("INSERT INTO found SELECT * FROM kept")
        db.unregister("kept")
