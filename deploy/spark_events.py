"""Events of history for Spark: read from files, each with its place in Kafka and its moment.

Where the input tells `source`, `offset` and `published_ms`, they are used. Where it does not, they are made up so that the same
input always gives the same: the source is the partition that a producer chooses for the shopper, the offset counts the events of
that source in the order of the input, and the time of publishing is the event's own.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from headrace.features.backfill import source_of
from headrace.schemas import Click, Event, Purchase, shopper_id, wire
from headrace.schemas.fields import END, Count, TimeMs
from headrace.schemas.wire import InvalidMessage
from headrace.streams.readers import open_events

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

OnBadRow = Callable[[InvalidMessage], None]
Form = Literal["auto", "json", "parquet"]
PLACE = ("source", "offset", "published_ms")
# Offsets of a source that are put in order together, where the input tells them.
OFFSETS_TOGETHER = 100_000
_PARSED = (
    "input int, file string, block long, number long, source string, offset long, published_ms long, shopper string, event binary, "
    "refused string"
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")


class UnusableHistory(ValueError):
    """The input cannot be folded; the text names it and says what was expected."""


@dataclass(frozen=True)
class History:
    """Events with their places, and what the input was like. `refused` holds the first reasons why something was left out."""

    placed: "DataFrame"
    events: int
    refused_count: int
    refused: list[str]
    places: Literal["given", "derived"]


def is_url(path: str) -> bool:
    """Whether a path names its file system, as in 's3a://bucket/events'."""
    return _URL.match(path) is not None


def as_input(path: str, form: Form, aside: Path, tell: Callable[[int], object], refuse: OnBadRow) -> tuple[str, bool]:
    """Return a path that Spark can read, and whether it is Parquet; a known data file is first written to `aside` as JSON lines.

    `tell` gets the number of events written so far, `refuse` what was left out and why. Raises OSError; InvalidMessage for a file
    of unknown layout.
    """
    if is_url(path):
        return path, form == "parquet" or (form == "auto" and path.rstrip("/").endswith(".parquet"))
    file = Path(path)
    if file.is_dir():
        holds_parquet = next(file.rglob("*.parquet"), None) is not None
        return _without_patterns(file), form == "parquet" or (form == "auto" and holds_parquet)
    with file.open("rb") as opened:
        beginning = opened.read(4)
    if form == "parquet" or (form == "auto" and beginning == b"PAR1"):
        return _without_patterns(file), True
    if form == "json" or beginning.startswith(b"{"):
        return _without_patterns(file), False
    if beginning.startswith(b"\x1f\x8b") and file.suffix == ".gz" and _first_byte(file) == b"{":
        return _without_patterns(file), False
    aside.parent.mkdir(parents=True, exist_ok=True)
    with aside.open("wb") as written:
        for number, event in enumerate(open_events(file, on_bad_row=refuse), start=1):
            written.write(wire.encode(event) + b"\n")
            if number % 1000 == 0:
                tell(number)
    return _without_patterns(aside), False


def read_history(spark: "SparkSession", inputs: Sequence[tuple[str, bool]]) -> History:
    """Return the events of these inputs, in their order, as (shopper, moment_ms, source, offset, published_ms, event).

    `event` is JSON. What is no event is left out and counted. Raises UnusableHistory.
    """
    from pyspark import StorageLevel
    from pyspark.sql import functions as of

    frames = [_rows(spark, number, path, is_parquet).mapInArrow(parse, _PARSED) for number, (path, is_parquet) in enumerate(inputs)]
    parsed = frames[0]
    for frame in frames[1:]:
        parsed = parsed.unionAll(frame)
    parsed = parsed.persist(StorageLevel.DISK_ONLY)
    counts = parsed.agg(of.count("event"), of.count("offset"), of.count("refused")).collect()[0]
    events, given, refused_count = (int(count) for count in counts)
    if given and given != events:
        raise UnusableHistory(
            f"{given} events tell their place ({', '.join(PLACE)}) and {events - given} do not; fold inputs of one kind at a time"
        )
    reasons = [row[0] for row in parsed.where("refused IS NOT NULL").select("refused").limit(5).collect()] if refused_count else []
    if not events:
        raise UnusableHistory(f"no events were found in the input; {refused_count} lines were no events: {'; '.join(reasons) or 'none'}")
    placed = _placed(spark, parsed.where("refused IS NULL"), given=bool(given))
    return History(placed, events, refused_count, reasons, "given" if given else "derived")


def parse(batches: Iterator["pa.RecordBatch"]) -> Iterator["pa.RecordBatch"]:
    """Turn rows with a `value`, JSON or the columns of an event, into events that are checked, or the reason why they are none."""
    import pyarrow as pa

    types = [pa.string(), pa.int64(), pa.int64(), pa.string(), pa.binary(), pa.string()]
    names = ["source", "offset", "published_ms", "shopper", "event", "refused"]
    for batch in batches:
        kept = batch.drop_columns(["value"])
        values = zip(batch["value"].to_pylist(), batch["file"].to_pylist(), strict=True)
        events = [read_value(value, file) for value, file in values if value != ""]
        if len(events) < len(batch):
            kept = kept.filter(pa.array([value != "" for value in batch["value"].to_pylist()]))
        columns = list(zip(*events, strict=True)) or [()] * len(names)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        yield pa.RecordBatch.from_arrays([*kept.columns, *arrays], names=[*kept.schema.names, *names])


def event_of(body: bytes) -> Event:
    """Return the event that JSON holds. Raises InvalidMessage."""
    event: Event = wire.decode(Purchase, body) if _type.decode(body).type == "purchase" else wire.decode(Click, body)
    return event


class _Told(Struct):
    """What is read of a line before the event itself."""

    type: str = "click"
    source: Annotated[str, Meta(pattern=rf"^[a-zA-Z0-9._-]+/[0-9]+{END}")] | None = None
    offset: Count | None = None
    published_ms: TimeMs | None = None


_type = msgspec.json.Decoder(_Told)


def read_value(value: Any, file: str) -> tuple[Any, ...]:
    """Return source, offset, time of publishing, shopper and JSON of an event, and None; or the reason alone, last.

    `value` is a line of JSON or the columns of an event; offset is None where it tells none.
    """
    try:
        body = value.removeprefix("\ufeff").encode() if isinstance(value, str) else msgspec.json.encode(_without_nulls(value))
        try:
            told = _type.decode(body)
        except msgspec.DecodeError as error:
            raise InvalidMessage("$", body[:80], str(error)) from None
        place = told.source, told.offset, told.published_ms
        if place != (None, None, None):
            if None in place:
                raise InvalidMessage("$.source", told.source, f"{', '.join(PLACE)} come together or not at all")
            body = msgspec.json.encode({name: part for name, part in msgspec.json.decode(body).items() if name not in PLACE})
        event = event_of(body)
        published_ms = event.event_time_ms if told.published_ms is None else told.published_ms
        wire.check_event(event, published_ms)
    except InvalidMessage as error:
        return None, None, None, None, None, f"{file}: {error}"
    return told.source or source_of(event), told.offset, published_ms, shopper_id(event), wire.encode(event), None


def _rows(spark: "SparkSession", number: int, path: str, is_parquet: bool) -> "DataFrame":
    """Return the rows of an input, each with where it lies: `number` grows within a block of a file."""
    from pyspark.sql import functions as of

    if is_parquet:
        frame = spark.read.parquet(path)
        known = {name for kind in (Click, Purchase) for name in kind.__struct_fields__} | {"type", *PLACE}
        if unknown := set(frame.columns) - known:
            raise UnusableHistory(f"{path}: the columns {', '.join(sorted(unknown))} are none of an event's; leave them out")
        value, row = of.struct(*frame.columns), of.col("_metadata.row_index")
    else:
        frame = spark.read.text(path, lineSep="\n")
        value, row = of.regexp_replace("value", "\r+$", ""), of.monotonically_increasing_id()
    return frame.select(
        value.alias("value"),
        of.lit(number).alias("input"),
        of.col("_metadata.file_path").alias("file"),
        of.col("_metadata.file_block_start").alias("block"),
        row.alias("number"),
    )


def _placed(spark: "SparkSession", events: "DataFrame", *, given: bool) -> "DataFrame":
    """Give events their offsets, where the input tells none, and their moments.

    Both run on along a source. So that no task must see all of a source, it is cut into parts; the number and the newest time of
    each part come here, and what lies before each part goes back.
    """
    import pyarrow as pa
    from pyspark.sql import Window
    from pyspark.sql import functions as of

    if given:
        events = events.withColumn("part", of.floor(of.col("offset") / OFFSETS_TOGETHER))
        part, order = ["source", "part"], [of.col("offset"), of.col("event")]
    else:
        part, order = ["source", "input", "file", "block"], [of.col("number")]
    sizes = events.groupBy(*part).agg(of.count("event").alias("size"), of.max("published_ms").alias("newest_ms")).collect()
    starts = [dict.fromkeys([*part, "events_before", "before_ms"])][:0]
    for _, parts in groupby(sorted(sizes, key=lambda row: tuple(row[name] for name in part)), key=lambda row: row["source"]):
        events_before, before_ms = 0, 0
        for row in parts:
            starts.append({name: row[name] for name in part} | {"events_before": events_before, "before_ms": before_ms})
            events_before, before_ms = events_before + row["size"], max(before_ms, row["newest_ms"])
    along = Window.partitionBy(*part).orderBy(*order)
    so_far = along.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    return events.join(of.broadcast(spark.createDataFrame(pa.Table.from_pylist(starts))), part).select(
        "shopper",
        of.greatest("before_ms", of.max("published_ms").over(so_far)).alias("moment_ms"),
        "source",
        (of.col("offset") if given else of.col("events_before") + of.row_number().over(along) - 1).cast("long").alias("offset"),
        "published_ms",
        "event",
    )


def _first_byte(file: Path) -> bytes:
    import gzip

    with gzip.open(file, "rb") as opened:
        return opened.read(1)


def _without_patterns(path: Path) -> str:
    """Return a path in which Hadoop sees no pattern."""
    return re.sub(r"([\\\[\]{}*?])", r"\\\1", str(path.resolve()))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
