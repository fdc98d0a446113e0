"""The archiver: every version of a row, from the changelogs into the Parquet files of which training data is made.

For each partition: gather versions, write a file aside, rename it, commit. The files alone tell where to go on; what is committed
only shows others how far it got. So a version is archived once, whatever point a crash comes at. Versions are on the changelogs for
a week at least (`min.compaction.lag.ms`): an archiver that was away for longer misses some, and counts them.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, Message, TopicPartition

from headrace.features.archive import ARCHIVED, Stretch, day_of, versions_table
from headrace.features.archive_folder import ArchiveFolder
from headrace.features.archive_merging import merge_small
from headrace.schemas import InvalidMessage, decode
from headrace.streams import kafka, metrics
from headrace.streams.dead_letters import DeadLetters
from headrace.streams.lag import lag_by_topic

log = logging.getLogger(__name__)

COMPONENT = "archiver"
LARGEST_BATCH = 2000
PATIENCE_MS = 500
ROWS_A_FILE = 50_000
FILE_AGE_S = 60.0
BYTES_HELD = 128 << 20
# How long files that were merged are kept, for readers that have listed them.
MERGED_KEPT_S = 600.0

Place = tuple[str, int]


class ForeignArchive(RuntimeError):
    """The archive holds rows of another Kafka, or of one that was emptied."""

    def __init__(self, folder: Path, place: Place, held: int, high: int) -> None:
        super().__init__(
            f"the archive {folder} holds {place[0]}/{place[1]} up to offset {held}, but Kafka ends at {high}: it belongs to another "
            "Kafka, or that one was emptied; give this one a folder of its own (HEADRACE_ARCHIVE)"
        )


@dataclass
class Gathered:
    """Versions of one partition that are in no file yet; `first` and `last` are the offsets of the records read."""

    first: int
    last: int
    since_s: float
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0


class Archiver:
    """Consumes the changelogs as a member of the group `archiver`; any number of archivers share the partitions, on one folder.

    A file holds up to `rows_a_file` versions, or what came within `file_age_s`; beyond `bytes_held` the largest go first.
    """

    def __init__(
        self,
        bootstrap: str,
        archive: Path,
        instance: str = "",
        clock: Callable[[], float] = time.monotonic,
        *,
        rows_a_file: int = ROWS_A_FILE,
        file_age_s: float = FILE_AGE_S,
        bytes_held: int = BYTES_HELD,
    ) -> None:
        self.folder = ArchiveFolder(archive)
        self._consumer = kafka.consumer(bootstrap, COMPONENT, group=COMPONENT, instance=instance, patience_ms=PATIENCE_MS)
        self._dead_letters = DeadLetters(kafka.producer(bootstrap, COMPONENT), COMPONENT)
        self._clock = clock
        self._rows_a_file = rows_a_file
        self._file_age_s = file_age_s
        self._bytes_held = bytes_held
        self._gathered: dict[Place, Gathered] = {}
        self._expected: dict[Place, int] = {}
        self._merged: dict[Path, float] = {}
        self._owns = False
        self._consumer.subscribe(list(ARCHIVED), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        """Work until `stop` is set; then write what is gathered and leave the group. `ready` is set once partitions are assigned."""
        try:
            while not stop.is_set():
                self.step(timeout_s=0.5)
                if self._owns:
                    ready.set()
            self.flush()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the group; what is gathered and not written will be read again."""
        self._gathered.clear()
        self._consumer.close()

    def step(self, timeout_s: float) -> int:
        """Take in what has arrived, waiting up to `timeout_s` for the first record, and write the files that are due.

        Returns the number of records. Raises KafkaException, OSError, ForeignArchive: whoever runs the archiver starts another.
        """
        records = kafka.next_batch(self._consumer, LARGEST_BATCH, timeout_s)
        parts: dict[Place, list[Message]] = {}
        for record in records:
            parts.setdefault((str(record.topic()), _number(record.partition())), []).append(record)
        for place, part in parts.items():
            self._take_in(place, part)
        due_s = self._clock() - self._file_age_s
        self._write([place for place, held in self._gathered.items() if held.rows >= self._rows_a_file or held.since_s <= due_s])
        while sum(held.bytes for held in self._gathered.values()) > self._bytes_held:
            self._write([max(self._gathered, key=lambda place: self._gathered[place].bytes)])
        self._remove_merged()
        for topic, lag in lag_by_topic(self._consumer, list(ARCHIVED)).items():
            metrics.ARCHIVE_LAG.labels(topic).set(lag)
        return len(records)

    def flush(self) -> None:
        """Write all that is gathered, and commit."""
        self._write(list(self._gathered))

    def _take_in(self, place: Place, records: Sequence[Message]) -> None:
        archived = ARCHIVED[place[0]]
        versions: list[tuple[int, Any]] = []
        for record in records:
            offset = _number(record.offset())
            expected = self._expected.get(place, offset)
            metrics.VERSIONS_MISSED.labels(archived.view.name).inc(max(0, offset - expected))
            self._expected[place] = offset + 1
            if record.value() is None:
                # A switch to other rows takes entities back that those do not know; what was readable before stays so.
                continue
            try:
                versions.append((offset, decode(archived.kind, record.value(), record.headers())))
            except InvalidMessage as error:
                self._dead_letters.refuse(record, error)
                metrics.REFUSED.labels(COMPONENT).inc()
        first, last = _number(records[0].offset()), _number(records[-1].offset())
        held = self._gathered.setdefault(place, Gathered(first, last, self._clock()))
        held.last = last
        if versions:
            table = versions_table(archived, versions)
            held.tables.append(table)
            held.rows += len(versions)
            held.bytes += table.nbytes

    def _write(self, places: Sequence[Place]) -> None:
        """Put what is gathered of these partitions into files, then commit."""
        done = []
        for place in places:
            held = self._gathered.pop(place)
            if held.rows:
                topic, partition = place
                stretch = Stretch(topic, partition, held.first, held.last)
                files = self.folder.write(stretch, pa.concat_tables(held.tables))
                self._merge(stretch, files)
                metrics.VERSIONS_ARCHIVED.labels(ARCHIVED[topic].view.name).inc(held.rows)
                log.info("archived", extra={"files": [file.name for file in files], "rows": held.rows})
            done.append(TopicPartition(*place, held.last + 1))
        if done:
            self._dead_letters.confirm()
            self._consumer.commit(offsets=done, asynchronous=False)

    def _merge(self, newest: Stretch, files: Sequence[Path]) -> None:
        due_s = self._clock() + MERGED_KEPT_S
        for day in map(day_of, files):
            merged = merge_small(self.folder, newest, day, self._rows_a_file, set(self._merged))
            self._merged |= dict.fromkeys(merged, due_s)

    def _remove_merged(self) -> None:
        now_s = self._clock()
        for file in [file for file, due_s in self._merged.items() if due_s <= now_s]:
            file.unlink(missing_ok=True)
            del self._merged[file]

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Go on behind what the files hold."""
        starts = []
        for place in places:
            low, high = kafka.watermarks(consumer, place.topic, place.partition)
            held = self.folder.take_up(place.topic, place.partition)
            if held is not None and held >= high:
                raise ForeignArchive(self.folder.root, (place.topic, place.partition), held, high)
            start = low if held is None else max(low, held + 1)
            if held is not None:
                self._expected[place.topic, place.partition] = held + 1
            starts.append(TopicPartition(place.topic, place.partition, start))
        self._gathered.clear()
        consumer.assign(starts)
        self._owns = True
        log.info("partitions assigned", extra={"starts": {f"{place.topic}/{place.partition}": place.offset for place in starts}})

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self.flush()
        self._forget()

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        # They belong to another archiver by now, which reads on from what the files hold.
        self._forget()

    def _forget(self) -> None:
        self._owns = False
        self._gathered.clear()
        self._expected.clear()
        # Whoever takes the partitions up removes them.
        self._merged.clear()


def _number(value: int | None) -> int:
    if value is None:
        raise ValueError("a record without partition or offset came from the consumer")
    return value
