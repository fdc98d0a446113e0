"""The archiver on a real Kafka: every version of a row is archived once, whatever kills it."""

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from headrace.deploy.settings import Settings
from headrace.deploy.supervisor import Supervisor
from headrace.features.archive import ARCHIVED, CHANGELOG_OFFSET, EVENT_TIME, Stretch, day_of, days_of, stretch_of
from headrace.features.columns import ITEM_VIEW, USER_VIEW
from headrace.schemas import HistoryEntry, ItemRow, Pane, UserRow, encode
from headrace.schemas.topics import DAY_MS, DEAD_LETTERS, ITEM_FEATURES, USER_FEATURES, Topic
from headrace.streams import kafka as clients
from headrace.streams.archiver import MERGED_KEPT_S, Archiver, ForeignArchive

START_MS = 1_760_054_390_000  # ten seconds before midnight, UTC
SEED = 20261

_RUN = """
import sys, threading
from pathlib import Path
from headrace.streams.archiver import Archiver
Archiver(sys.argv[1], Path(sys.argv[2]), "one", rows_a_file=60, file_age_s=0.3).run(threading.Event(), threading.Event())
"""


def user_row(shopper: int, version: int, seen_ms: int) -> UserRow:
    return UserRow(
        shopper_id=f"user-{shopper}",
        history=[HistoryEntry("lamp", "view", seen_ms, 1.5, "light"), HistoryEntry("chair", "cart", seen_ms)],
        panes=[Pane(seen_ms - 5, views=version)],
        steps=version,
        views=version,
        updated_ms=seen_ms,
        seen_ms=seen_ms,
        offsets={"clicks/0": version},
    )


def item_row(item: int, version: int, seen_ms: int) -> ItemRow:
    return ItemRow(item_id=f"item-{item}", views=version, price=2.5, updated_ms=seen_ms, seen_ms=seen_ms, offsets={"clicks/1": version})


class Changelogs:
    """Publishes versions of the rows of some shoppers and items; `sent` counts them."""

    def __init__(self, bootstrap: str) -> None:
        self.sent = 0
        self._producer = clients.producer(bootstrap, "test")
        self._numbers = itertools.count()

    def send(self, versions: int, step_ms: int = 100) -> None:
        for number in itertools.islice(self._numbers, versions):
            seen_ms = START_MS + number * step_ms
            user, item = user_row(number % 7, number, seen_ms), item_row(number % 5, number, seen_ms)
            self._producer.produce(USER_FEATURES.name, encode(user), user.shopper_id)
            self._producer.produce(ITEM_FEATURES.name, encode(item), item.item_id)
            self.sent += 2
        self._producer.flush()

    def send_raw(self, topic: Topic, value: bytes) -> None:
        self._producer.produce(topic.name, value, "key")
        self._producer.flush()


@pytest.fixture
def changelogs(fresh_topics: str) -> Changelogs:
    return Changelogs(fresh_topics)


@pytest.fixture
def started(fresh_topics: str, tmp_path: Path) -> Iterator[Callable[..., Archiver]]:
    """Start archivers on one folder; their clock stands still, so that only count and size make files."""
    archivers: list[Archiver] = []

    def start(**limits: int) -> Archiver:
        archivers.append(Archiver(fresh_topics, tmp_path, clock=lambda: 0.0, **limits))
        return archivers[-1]

    yield start
    for archiver in archivers:
        archiver.close()


def take_in(archiver: Archiver, records: int, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while records > 0:
        records -= archiver.step(0.1)
        assert time.monotonic() < deadline, f"{records} records have not come"
    assert records == 0


def archived(folder: Path) -> pa.Table:
    """Return place and entity of every version in the folder's files."""
    tables = []
    for view in (USER_VIEW, ITEM_VIEW):
        for file in folder.glob(f"{view}/day=*/*.parquet"):
            stretch = stretch_of(file.name)
            assert stretch is not None
            table = pq.read_table(file, partitioning=None)
            key = table.column_names[0]
            assert set(table[CHANGELOG_OFFSET].to_pylist()) <= set(range(stretch.first, stretch.last + 1))
            assert {str(time.date()) for time in table[EVENT_TIME].to_pylist()} == {day_of(file)}
            places = [(stretch.topic, stretch.partition, offset) for offset in table[CHANGELOG_OFFSET].to_pylist()]
            tables.append(pa.table({"entity": table[key], "place": [str(place) for place in places], "views": table["views"]}))
    return pa.concat_tables(tables) if tables else pa.table({"entity": [], "place": [], "views": []})


def assert_all_once(folder: Path, versions: int) -> None:
    table = archived(folder)
    places = table["place"].to_pylist()
    assert len(places) == len(set(places)) == versions
    assert sorted(table["views"].to_pylist()) == sorted([*range(versions // 2)] * 2)
    assert not list(folder.glob(".writing/*"))


def files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*/day=*/*.parquet"))


def test_every_version_is_archived_with_its_values_in_the_folder_of_its_day(
    changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path
) -> None:
    changelogs.send(200)
    archiver = started()
    take_in(archiver, 400)
    assert files(tmp_path) == []
    archiver.flush()
    assert_all_once(tmp_path, 400)
    assert {day_of(file) for file in files(tmp_path)} == {"2025-10-09", "2025-10-10"}
    both = [file for file in files(tmp_path) if day_of(file) == "2025-10-09"]
    assert all(days_of(file) == {"2025-10-09", "2025-10-10"} for file in both)
    expected = user_row(3, 3, START_MS + 300)
    [found] = [
        row
        for file in files(tmp_path)
        if USER_VIEW in str(file)
        for row in pq.read_table(file, partitioning=None).to_pylist()
        if row["user_id"] == "user-3" and row["views"] == 3
    ]
    view = ARCHIVED[USER_FEATURES.name].view
    asked = [column.name for column in view.columns]
    # Not a number is not equal to itself: the second step told no price.
    assert {name: str(found[name]) for name in asked} == dict(zip(asked, map(str, view.values(expected)), strict=True))
    assert found[EVENT_TIME].timestamp() * 1000 == expected.seen_ms


def test_a_file_is_made_when_enough_has_come_or_is_held(changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path) -> None:
    changelogs.send(50)
    archiver = started(rows_a_file=20)
    take_in(archiver, 100)
    assert files(tmp_path)
    archiver.flush()
    assert_all_once(tmp_path, 100)


def test_what_is_held_in_memory_is_bounded(changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path) -> None:
    changelogs.send(100)
    archiver = started(bytes_held=1)
    take_in(archiver, 200)
    assert archiver._gathered == {}
    assert_all_once(tmp_path, 200)


def test_killed_before_its_files_are_renamed_it_archives_them_once(
    changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path
) -> None:
    changelogs.send(200)
    killed = started()
    take_in(killed, 400)
    for place, held in killed._gathered.items():
        killed.folder.write_aside(Stretch(*place, held.first, held.last), pa.concat_tables(held.tables))
    killed.close()
    assert list(tmp_path.glob(".writing/*.parquet"))
    assert files(tmp_path) == []
    successor = started()
    take_in(successor, 400)
    assert not list(tmp_path.glob(".writing/*"))
    successor.flush()
    assert_all_once(tmp_path, 400)


def test_killed_between_two_renames_of_one_stretch_it_archives_both_days_once(
    changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path
) -> None:
    changelogs.send(200)
    killed = started()
    take_in(killed, 400)
    for number, (place, held) in enumerate(killed._gathered.items()):
        written = killed.folder.write_aside(Stretch(*place, held.first, held.last), pa.concat_tables(held.tables))
        assert len(written) == 2
        killed.folder.publish([written[number % 2]])
    killed.close()
    assert files(tmp_path)
    successor = started()
    take_in(successor, 400)
    successor.flush()
    assert_all_once(tmp_path, 400)


def test_killed_before_its_commit_it_goes_on_behind_what_its_files_hold(
    changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path
) -> None:
    changelogs.send(100)
    killed = started()
    take_in(killed, 200)
    for place, held in killed._gathered.items():
        killed.folder.write(Stretch(*place, held.first, held.last), pa.concat_tables(held.tables))
    killed.close()
    changelogs.send(40)
    successor = started()
    take_in(successor, 80)
    successor.flush()
    assert_all_once(tmp_path, 280)


def test_sigkill_at_any_time_leaves_each_version_archived_once(changelogs: Changelogs, fresh_topics: str, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    noise = random.Random(SEED)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _RUN, fresh_topics, str(tmp_path)])

    process = start()
    try:
        for _ in range(8):
            until_s = time.monotonic() + noise.uniform(1.0, 3.0)
            while time.monotonic() < until_s:
                changelogs.send(60, step_ms=noise.choice([1, 20, 2000]))
                time.sleep(0.03)
            process.kill()
            process.wait()
            process = start()
        deadline = time.monotonic() + 60
        while archived(tmp_path).num_rows < changelogs.sent:
            assert time.monotonic() < deadline, f"{archived(tmp_path).num_rows} of {changelogs.sent}"
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    assert_all_once(tmp_path, changelogs.sent)
    assert len(files(tmp_path)) > 20


def test_small_files_are_merged_and_removed_when_their_readers_are_done(
    changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path
) -> None:
    archiver, sent = started(), 0
    now_s = 0.0
    archiver._clock = lambda: now_s
    for _ in range(16):
        changelogs.send(24, step_ms=10)
        take_in(archiver, 48)
        archiver.flush()
        sent += 48
        assert len(set(archived(tmp_path)["place"].to_pylist())) == sent
    before = files(tmp_path)
    now_s = MERGED_KEPT_S
    archiver.step(0.0)
    assert len(files(tmp_path)) < len(before) / 3
    assert_all_once(tmp_path, sent)
    archiver.close()
    changelogs.send(10)
    successor = started()
    take_in(successor, 20)
    successor.flush()
    assert_all_once(tmp_path, sent + 20)


def test_killed_after_merging_it_leaves_each_version_once(changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path) -> None:
    archiver = started()
    for _ in range(20):
        changelogs.send(24)
        take_in(archiver, 48)
        archiver.flush()
    table = archived(tmp_path)
    assert table.num_rows > len(set(table["place"].to_pylist())) == 960
    archiver.close()
    changelogs.send(10)
    successor = started()
    take_in(successor, 20)
    successor.flush()
    assert_all_once(tmp_path, 980)


def test_an_archive_of_another_kafka_is_refused(changelogs: Changelogs, started: Callable[..., Archiver], tmp_path: Path) -> None:
    changelogs.send(20)
    first = started()
    take_in(first, 40)
    first.flush()
    first.close()
    [file, *_] = [file for file in files(tmp_path) if ITEM_VIEW in str(file)]
    stretch = stretch_of(file.name)
    assert stretch is not None
    for part in (part for part in files(tmp_path) if part.name == file.name):
        part.rename(part.with_name(Stretch(stretch.topic, stretch.partition, stretch.first, 10_000).file_name))
    second = started()
    with pytest.raises(ForeignArchive, match=r"up to offset 10000, but Kafka ends at .*HEADRACE_ARCHIVE"):
        take_in(second, 1)


def test_a_record_that_is_no_row_goes_to_dead_letters_and_stops_nothing(
    changelogs: Changelogs, started: Callable[..., Archiver], fresh_topics: str, tmp_path: Path
) -> None:
    changelogs.send(10)
    changelogs.send_raw(USER_FEATURES, b'{"shopper_id": 5}')
    changelogs.send(10)
    archiver = started()
    take_in(archiver, 41)
    archiver.flush()
    assert_all_once(tmp_path, 40)
    reader = clients.consumer(fresh_topics, "test-reader")
    clients.assign_all(reader, [DEAD_LETTERS])
    assert reader.poll(10.0) is not None
    reader.close()


def test_the_changelogs_keep_every_version_for_a_week(fresh_topics: str, admin: AdminClient) -> None:
    asked = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in (USER_FEATURES, ITEM_FEATURES)]
    for answer in admin.describe_configs(asked).values():
        assert answer.result()["min.compaction.lag.ms"].value == str(7 * DAY_MS)


def test_as_a_part_it_writes_what_it_holds_when_it_is_asked_to_stop(changelogs: Changelogs, fresh_topics: str, tmp_path: Path) -> None:
    changelogs.send(50)
    for _ in range(5):
        supervisor = Supervisor(Settings(kafka=fresh_topics, home=tmp_path), ["archiver"], lambda text: None)
        supervisor.start()
        try:
            supervisor.wait_until_ready(60.0, lambda ready: None)
            # It holds versions for a minute by itself; how soon they have come is up to the machine.
            time.sleep(2.0)
        finally:
            supervisor.stop()
        if archived(tmp_path / "archive").num_rows == 100:
            break
    assert_all_once(tmp_path / "archive", 100)
