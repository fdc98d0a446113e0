"""The folds of `features/backfill.py` on Spark: events grouped by shopper, what follows from them by item and by visit.

Spark sorts each group by the moments of its events and hands them on in portions. So a group needs no memory of its own, however
long it is; but one task folds it, and the most popular item tells how long the last task runs.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headrace.deploy.counting import counting
from headrace.deploy.spark_events import Form, UnusableHistory, as_input, event_of, is_url, read_history
from headrace.deploy.spark_session import open_spark, require_spark
from headrace.features.archive import CHANGELOG_OFFSET, CREATED_TIME, EVENT_TIME, created_us, schema_of
from headrace.features.backfill import PlacedChange, PlacedEvent, changes_after, fold_changes, fold_shopper, fold_visit
from headrace.features.columns import ITEMS, SESSIONS, USERS, View
from headrace.features.place import Place
from headrace.schemas import ItemChange, wire
from headrace.schemas.feature_rows import Row
from headrace.schemas.wire import InvalidMessage

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

KeptVersions = Literal["last", "all"]
ROWS_AT_ONCE = 1000
ROWS_A_FILE = 1_000_000
# A backfilled version came by no changelog.
NO_OFFSET = -1
_FOLLOWS = "moment_ms long, source string, offset long, published_ms long, kind string, key string, body binary"
_ORDER = ("moment_ms", "source", "offset", "body")


@dataclass
class Backfilled:
    """What a backfill did. `rows` counts the row versions written, by feature view; `replayed` events at places that came twice."""

    out: str
    master: str
    versions: str
    places: str = ""
    events: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)
    counted: int = 0
    repeated: int = 0
    late: int = 0
    replayed: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Events folded per second, from Spark's start to its end."""
        return self.events / self.seconds if self.seconds > 0 else 0.0


def backfill(events: Sequence[str], out: str, *, versions: KeptVersions, form: Form, master: str | None, plain: bool) -> Backfilled:
    """Fold the history in `events` (paths or URLs) into rows, and write them to the folder `out`, which holds none yet.

    `versions` of 'all' keeps a row after each event, 'last' the last one. Raises UnusableHistory; SparkUnusable, JavaMissing;
    SparkFailed where Spark gives up; OSError; InvalidMessage for a file of unknown layout.
    """
    started_s = time.monotonic()
    if not is_url(out):
        for view in (USERS, ITEMS, SESSIONS):
            if (Path(out) / view.name).exists():
                raise UnusableHistory(f"{Path(out) / view.name} is there already; name another folder for --out, or remove it")
    aside = Path(out) / f".events-{time.time_ns()}"
    done = Backfilled(out, master or "", versions)
    try:
        inputs = _inputs(events, form, aside, done, plain)
        with failures_told(), open_spark(master, "headrace features backfill") as spark:
            done.master = str(spark.sparkContext.master)
            _fold(spark, inputs, versions, done, plain)
    finally:
        if not is_url(out):
            shutil.rmtree(aside, ignore_errors=True)
    done.seconds = time.monotonic() - started_s
    return done


class SparkFailed(RuntimeError):
    """Spark gave up; the text is what it said first."""


def _inputs(events: Sequence[str], form: Form, aside: Path, done: Backfilled, plain: bool) -> list[tuple[str, bool]]:
    def refuse(error: InvalidMessage) -> None:
        done.refused += 1
        done.reasons = [*done.reasons, str(error)][:5]

    inputs = []
    with counting("reading", plain) as show:
        for number, path in enumerate(events):
            told = f"events of {path} written as JSON lines"
            inputs.append(as_input(path, form, aside / f"{number}.jsonl", lambda count, told=told: show(count, count, told), refuse))  # type: ignore[misc]
    if is_url(done.out) and any(path.startswith(str(aside)) for path, _ in inputs):
        raise UnusableHistory(f"a data file can be turned into JSON lines only beside a local --out; the value is {done.out!r}")
    return inputs


def _fold(spark: "SparkSession", inputs: Sequence[tuple[str, bool]], versions: KeptVersions, done: Backfilled, plain: bool) -> None:
    from pyspark import StorageLevel

    with _tasks(spark, "reading", plain):
        history = read_history(spark, inputs)
    done.events, done.places = history.events, history.places
    done.refused, done.reasons = done.refused + history.refused_count, [*done.reasons, *history.refused][:5]
    with _tasks(spark, "shoppers", plain):
        sorted_events = history.placed.withColumnRenamed("event", "body").repartition("shopper").sortWithinPartitions("shopper", *_ORDER)
        steps = sorted_events.mapInArrow(partial(fold_users, versions), _with_row(_FOLLOWS, USERS)).persist(StorageLevel.DISK_ONLY)
        _write(steps.where("kind = 'row'").select("row.*"), USERS, done)
        for name, count in steps.where("kind = 'tally'").groupBy("key").sum("moment_ms").collect():
            setattr(done, name, int(count))
    stages: tuple[tuple[str, View, Any], ...] = (("items", ITEMS, fold_items), ("visits", SESSIONS, fold_visits))
    for kind, view, fold in stages:
        with _tasks(spark, kind, plain):
            follows = steps.where(f"kind = '{kind}'").drop("row", "kind").repartition("key").sortWithinPartitions("key", *_ORDER)
            rows = follows.mapInArrow(partial(fold, versions), _with_row("", view)).select("row.*")
            _write(rows, view, done)


def fold_users(versions: KeptVersions, batches: Iterator["pa.RecordBatch"]) -> Iterator["pa.RecordBatch"]:
    """Fold a portion of history that holds whole shoppers, sorted: rows, what follows for items and visits, and how many counted."""
    out = _Outgoing(USERS, with_follows=True)
    tally = {"counted": 0, "repeated": 0, "late": 0, "replayed": 0}
    for shopper, rows in groupby(_rows_of(batches, "shopper"), key=itemgetter(0)):
        step = None
        for step in fold_shopper(shopper, map(_event, rows)):
            if versions == "all" and step.after is not step.before:
                yield from out.row(shopper, step.after)
            tally["counted"] += step.counted
            tally["replayed"] += step.after is step.before
            placed = step.placed
            for moment_ms, change in changes_after(step):
                yield from out.follow(moment_ms, placed.place, "items", change.item_id, wire.encode(change))
            if step.counted and placed.event.session_id is not None:
                yield from out.follow(placed.moment_ms, placed.place, "visits", placed.event.session_id, wire.encode(placed.event))
        if step is not None:
            tally["repeated"] += step.after.repeated
            tally["late"] += step.after.late
            if versions == "last":
                yield from out.row(shopper, step.after)
    for name, count in tally.items():
        yield from out.follow(count, Place("", 0, 0), "tally", name, b"")
    yield from out.rest()


def fold_items(versions: KeptVersions, batches: Iterator["pa.RecordBatch"]) -> Iterator["pa.RecordBatch"]:
    """Fold the changes of whole items, sorted, into rows."""
    return _fold_follows(versions, ITEMS, fold_changes, lambda row: PlacedChange(row[1], wire.decode(ItemChange, row[5])), batches)


def fold_visits(versions: KeptVersions, batches: Iterator["pa.RecordBatch"]) -> Iterator["pa.RecordBatch"]:
    """Fold the events of whole visits, sorted, into rows."""
    return _fold_follows(versions, SESSIONS, fold_visit, _event, batches)


def _fold_follows(
    versions: KeptVersions,
    view: View,
    fold: Callable[[str, Iterator[Any]], Iterator[Row]],
    read: Callable[[tuple[Any, ...]], Any],
    batches: Iterator["pa.RecordBatch"],
) -> Iterator["pa.RecordBatch"]:
    out = _Outgoing(view)
    for key, rows in groupby(_rows_of(batches, "key"), key=itemgetter(0)):
        row = None
        for row in fold(key, map(read, rows)):
            if versions == "all":
                yield from out.row(key, row)
        if versions == "last" and row is not None:
            yield from out.row(key, row)
    yield from out.rest()


def _rows_of(batches: Iterator["pa.RecordBatch"], key: str) -> Iterator[tuple[Any, ...]]:
    names = (key, "moment_ms", "source", "offset", "published_ms", "body")
    for batch in batches:
        yield from zip(*(batch[name].to_pylist() for name in names), strict=True)


def _event(row: tuple[Any, ...]) -> PlacedEvent:
    _, moment_ms, source, offset, published_ms, body = row
    return PlacedEvent(moment_ms, Place(source, offset, published_ms), event_of(body))


class _Outgoing:
    """Gathers rows of a view, and what follows from events, into portions as Spark takes them."""

    def __init__(self, view: View, with_follows: bool = False) -> None:
        self._view, self._with_follows = view, with_follows
        self._rows: list[tuple[str, Row]] = []
        self._follows: list[tuple[Any, ...]] = []

    def row(self, key: str, row: Row) -> Iterator["pa.RecordBatch"]:
        self._rows.append((key, row))
        if len(self._rows) >= ROWS_AT_ONCE:
            yield self._row_batch()

    def follow(self, moment_ms: int, place: Place, kind: str, key: str, body: bytes) -> Iterator["pa.RecordBatch"]:
        self._follows.append((moment_ms, place.source, place.offset, place.published_ms, kind, key, body))
        if len(self._follows) >= ROWS_AT_ONCE:
            yield self._follow_batch()

    def rest(self) -> Iterator["pa.RecordBatch"]:
        if self._rows:
            yield self._row_batch()
        if self._follows:
            yield self._follow_batch()

    def _row_batch(self) -> "pa.RecordBatch":
        import pyarrow as pa

        versions, self._rows = self._rows, []
        struct = _struct(self._view)
        rows = [row for _, row in versions]
        values = zip(*map(self._view.values, rows), strict=True)
        seen_us, made_us = [row.seen_ms * 1000 for row in rows], map(created_us, rows)
        columns = [[key for key, _ in versions], seen_us, list(made_us), *values, [NO_OFFSET] * len(rows)]
        arrays = [pa.array(column, part.type) for column, part in zip(columns, struct, strict=True)]
        row_column = pa.StructArray.from_arrays(arrays, fields=list(struct))
        if not self._with_follows:
            return pa.RecordBatch.from_arrays([row_column], names=["row"])
        empty = [pa.nulls(len(rows), kind) for kind in _follow_types()]
        empty[4] = pa.array(["row"] * len(rows))
        return pa.RecordBatch.from_arrays([*empty, row_column], names=[*_follow_names(), "row"])

    def _follow_batch(self) -> "pa.RecordBatch":
        import pyarrow as pa

        follows, self._follows = self._follows, []
        arrays = [pa.array(column, kind) for column, kind in zip(zip(*follows, strict=True), _follow_types(), strict=True)]
        return pa.RecordBatch.from_arrays([*arrays, pa.nulls(len(follows), _struct(self._view))], names=[*_follow_names(), "row"])


def _struct(view: View) -> "pa.StructType":
    """Return the columns of a view's files, with times as Spark keeps them."""
    import pyarrow as pa

    parts = [
        pa.field(part.name, pa.timestamp("us", "UTC")) if part.name == EVENT_TIME else part.with_nullable(True) for part in schema_of(view)
    ]
    return pa.struct(parts)


def _follow_names() -> list[str]:
    return [part.split()[0] for part in _FOLLOWS.split(", ")]


def _follow_types() -> list["pa.DataType"]:
    import pyarrow as pa

    types = {"long": pa.int64(), "string": pa.string(), "binary": pa.binary()}
    return [types[part.split()[1]] for part in _FOLLOWS.split(", ")]


def _with_row(columns: str, view: View) -> "StructType":
    """Return columns, written as Spark's DDL, and a column `row` with those of a view."""
    import pyarrow as pa
    from pyspark.sql.pandas.types import from_arrow_schema
    from pyspark.sql.types import StructField, StructType

    first: Any = StructType.fromDDL(columns) if columns else []
    return StructType([*first, StructField("row", from_arrow_schema(pa.schema(list(_struct(view)))))])


def _write(rows: "DataFrame", view: View, done: Backfilled) -> None:
    """Write row versions by day, as `features/archive.py` lays them out, and count them."""
    from pyspark.sql import Observation
    from pyspark.sql import functions as of

    written = Observation()
    folder = f"{done.out.rstrip('/')}/{view.name}" if is_url(done.out) else str((Path(done.out) / view.name).resolve())
    # With the hint Spark joins small portions of days and splits large ones, so that files are few and no day hangs on one task.
    by_day = (
        rows.observe(written, of.count(of.lit(1)).alias("rows"))
        .withColumn("day", of.date_format(EVENT_TIME, "yyyy-MM-dd"))
        .hint("rebalance", "day")
    )
    ordered = by_day.sortWithinPartitions("day", view.join_key, EVENT_TIME, CREATED_TIME, CHANGELOG_OFFSET)
    ordered.write.option("compression", "zstd").option("maxRecordsPerFile", ROWS_A_FILE).partitionBy("day").parquet(folder)
    done.rows[view.name] = int(written.get["rows"])


@contextmanager
def _tasks(spark: "SparkSession", what: str, plain: bool) -> Iterator[None]:
    """Show how many of the tasks that run are done."""
    over = threading.Event()
    tracker = spark.sparkContext.statusTracker()

    with counting(what, plain) as show:

        def watch() -> None:
            while not over.wait(0.25):
                stages = [stage for number in tracker.getActiveStageIds() if (stage := tracker.getStageInfo(number)) is not None]
                total = sum(stage.numTasks for stage in stages)
                if total:
                    show(sum(stage.numCompletedTasks for stage in stages), total, f"tasks of {len(stages)} stages that run now")

        watcher = threading.Thread(target=watch, name="headrace-spark-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


@contextmanager
def failures_told() -> Iterator[None]:
    """Raise SparkFailed, in one line, where Spark or its Java gives up. Raises SparkUnusable where Spark is not installed."""
    require_spark()
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JError, PySparkException) as error:
        lines = [line.strip(": ") for line in str(error).split("JVM stacktrace")[0].splitlines() if line.strip(": ")]
        causes = [line for line in lines if line.startswith(("org.apache.spark", "Caused by"))] or [lines[0], lines[-1]]
        raise SparkFailed(f"Spark gave up: {'; '.join(dict.fromkeys(causes))}") from error
