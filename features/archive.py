"""Row versions as Parquet: what a file of them holds, how files are named, and what a folder holds.

A file is ARCHIVE/VIEW/day=YYYY-MM-DD/TOPIC-PARTITION-FIRST-LAST.parquet. It holds every version of that day (in UTC) among the
records from offset FIRST to LAST of one partition of a changelog. Versions of one stretch of offsets that are of several days lie
in several files of the same name; each file names all of these days in its metadata, so that a stretch of which a killed writer
has put down only a part is known. Rows of visits have no changelog, and are not archived.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.features.columns import ITEMS, USERS, View
from headrace.features.feast_layout import R
from headrace.schemas import ItemRow, UserRow
from headrace.schemas.feature_rows import Row
from headrace.schemas.topics import ITEM_FEATURES, USER_FEATURES, Topic

EVENT_TIME, CREATED_TIME, CHANGELOG_OFFSET = "event_timestamp", "created_timestamp", "changelog_offset"
_DAYS = b"headrace.days"
_DAY_MS = 24 * 3600 * 1000
_NAME = re.compile(r"(?P<topic>[a-zA-Z0-9._-]+)-(?P<partition>\d+)-(?P<first>\d+)-(?P<last>\d+)\.parquet")


@dataclass(frozen=True)
class ArchivedView(Generic[R]):
    """A feature view whose row versions are archived: the changelog that they come by, and how to read them."""

    topic: Topic
    view: View
    kind: type[R]
    key_of: Callable[[R], str]


USER_VERSIONS = ArchivedView(USER_FEATURES, USERS, UserRow, lambda row: row.shopper_id)
ITEM_VERSIONS = ArchivedView(ITEM_FEATURES, ITEMS, ItemRow, lambda row: row.item_id)
ARCHIVED: Mapping[str, ArchivedView[Any]] = {archived.topic.name: archived for archived in (USER_VERSIONS, ITEM_VERSIONS)}


@dataclass(frozen=True, order=True)
class Stretch:
    """The records of one partition of a changelog from offset `first` to `last`."""

    topic: str
    partition: int
    first: int
    last: int

    @property
    def file_name(self) -> str:
        """The name of the files that hold it."""
        return f"{self.topic}-{self.partition}-{self.first}-{self.last}.parquet"

    def holds(self, other: "Stretch") -> bool:
        """Whether all offsets of another stretch of the same partition are among these."""
        return (self.topic, self.partition) == (other.topic, other.partition) and self.first <= other.first and other.last <= self.last


def stretch_of(file_name: str) -> Stretch | None:
    """Return what a file of that name holds; None for a name of another form."""
    found = _NAME.fullmatch(file_name)
    return found and Stretch(found["topic"], int(found["partition"]), int(found["first"]), int(found["last"]))


def schema_of(view: View) -> pa.Schema:
    """Return the columns of a view's files: the join key, two times, the features, and the offset on the changelog.

    `event_timestamp` is the time from which the version could be read. `created_timestamp` orders versions of the same
    `event_timestamp`; it is no clock, but 1970 and as many microseconds as the row's partitions had events up to its offsets: of two
    rows of an entity, the one that has taken in more is the later. Where even that is equal, the higher `changelog_offset` is.
    """
    return pa.schema(
        [
            pa.field(view.join_key, pa.string(), nullable=False),
            pa.field(EVENT_TIME, pa.timestamp("ms", "UTC"), nullable=False),
            pa.field(CREATED_TIME, pa.timestamp("us", "UTC"), nullable=False),
            *(pa.field(column.name, _ARROW[column.kind]) for column in view.columns),
            pa.field(CHANGELOG_OFFSET, pa.int64(), nullable=False),
        ]
    )


def versions_table(archived: ArchivedView[R], versions: Sequence[tuple[int, R]]) -> pa.Table:
    """Return row versions, each with its offset on the changelog, as a table of `schema_of(archived.view)`."""
    rows = [row for _, row in versions]
    values = list(zip(*map(archived.view.values, rows), strict=True)) or [()] * len(archived.view.columns)
    columns = [
        [archived.key_of(row) for row in rows],
        [row.seen_ms for row in rows],
        [created_us(row) for row in rows],
        *values,
        [offset for offset, _ in versions],
    ]
    schema = schema_of(archived.view)
    return pa.Table.from_arrays([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def created_us(row: Row) -> int:
    """Return the order of a row among the versions of its entity that are of the same millisecond."""
    # One more than each offset: the event at offset 0 counts too.
    return sum(offset + 1 for offset in row.offsets.values())


def by_day(table: pa.Table) -> dict[str, pa.Table]:
    """Return the versions of each day (`YYYY-MM-DD`, in UTC), sorted by entity and time so that what is alike lies together."""
    numbers = table[EVENT_TIME].cast(pa.int64()).to_numpy() // _DAY_MS
    days = sorted(set(numbers.tolist()))
    parts = {day: table if len(days) == 1 else table.filter(pa.array(numbers == day)) for day in days}
    order = [(table.column_names[0], "ascending"), *((name, "ascending") for name in (EVENT_TIME, CREATED_TIME, CHANGELOG_OFFSET))]
    return {datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).date().isoformat(): part.sort_by(order) for day, part in parts.items()}


def with_days(table: pa.Table, days: Sequence[str]) -> pa.Table:
    """Return the table with the days, over which its stretch spreads, in its metadata."""
    return table.replace_schema_metadata({_DAYS: json.dumps(list(days)).encode()})


def days_of(file: Path) -> set[str]:
    """Return the days over which the stretch that a file belongs to spreads. Raises OSError, pyarrow.ArrowInvalid."""
    metadata = pq.read_schema(file).metadata or {}
    return set(json.loads(metadata[_DAYS])) if _DAYS in metadata else {day_of(file)}


def day_of(file: Path) -> str:
    """Return the day whose folder a file lies in."""
    return file.parent.name.removeprefix("day=")


def files_of(folder: Path, topic: str, partition: int, day: str = "*") -> Iterator[tuple[Stretch, Path]]:
    """Yield the files of a view's folder that hold versions from one partition of a changelog, of one day or of all."""
    for file in folder.glob(f"day={day}/{topic}-{partition}-*.parquet"):
        stretch = stretch_of(file.name)
        if stretch is not None and (stretch.topic, stretch.partition) == (topic, partition):
            yield stretch, file


_ARROW: dict[str, pa.DataType] = {
    "int64_val": pa.int64(),
    "double_val": pa.float64(),
    "string_val": pa.string(),
    "int64_list_val": pa.list_(pa.int64()),
    "double_list_val": pa.list_(pa.float64()),
    "string_list_val": pa.list_(pa.string()),
}
