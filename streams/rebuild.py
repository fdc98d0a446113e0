"""Rebuild: the online store emptied and filled again from Kafka, the changelogs first, then the events of the last day.

Feature workers do the filling, since they know how. Those that run notice within a second that the store has lost its rows, and
restore the partitions that they own; the rebuild only watches them. Where none runs, it is a worker itself for as long as it takes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.features.online_store import OnlineStore, Positions
from headrace.features.shadow import RowCounts, count_rows
from headrace.schemas.topics import CLICKS, ITEM_CHANGES, PURCHASES, Topic
from headrace.streams import kafka
from headrace.streams.feature_worker import COMMIT_EVERY_S, COMPONENT, FeatureWorker

LOOK_EVERY_S = 0.2
ASK_GROUP_EVERY_S = 5.0
# A worker that has read nothing for so long has caught up, though the last offsets are marks of transactions.
QUIET_S = 10.0

Who = Literal["running workers", "this command"]


class WorkersRunning(RuntimeError):
    """Feature workers run, and do the restoring as they always do."""


@dataclass
class Rebuilt:
    """How far a rebuild has come. `keys` counts what Redis holds, `to_go` the events and item changes that are still to be read."""

    by: Who
    before: RowCounts
    after: RowCounts | None = None
    keys: int = 0
    to_go: int = 0
    seconds: float = 0.0


def members(bootstrap: str) -> int:
    """Return how many feature workers are in their group. One that was killed counts until its session has run out."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 10_000})
    try:
        return len(admin.describe_consumer_groups([COMPONENT], request_timeout=10.0)[COMPONENT].result().members)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return 0
        raise


def rebuild(
    bootstrap: str, store: OnlineStore, *, from_events: bool = False, progress: Callable[[Rebuilt], object] = lambda rebuilt: None
) -> Rebuilt:
    """Empty the store's database and see it filled again. With `from_events` all retained events are read, not those of a day.

    Raises WorkersRunning where workers run with `from_events`, before anything is done; what a FeatureWorker raises;
    KafkaException, RedisError.
    """
    running = members(bootstrap)
    if running and from_events:
        raise WorkersRunning(
            f"{running} feature workers run, and would read the events of the last day only; stop them first, or leave out --from-events"
        )
    watch = _Watch(bootstrap, store, Rebuilt("running workers" if running else "this command", count_rows(store)), progress)
    try:
        if running:
            committed = watch.committed()
            store.client.flushdb(asynchronous=True)
            if not watch.until_filled(committed, lambda: members(bootstrap) > 0):
                watch.rebuilt.by = "this command"
        else:
            store.client.flushdb(asynchronous=True)
        if watch.rebuilt.by == "this command":
            with _worker(bootstrap, store, from_events) as (work, ready):
                watch.until_filled(watch.ends((CLICKS, PURCHASES)), lambda: not work.done(), ready)
        watch.rebuilt.after = count_rows(store)
    finally:
        watch.close()
    return watch.rebuilt


@contextmanager
def _worker(bootstrap: str, store: OnlineStore, from_events: bool) -> Iterator[tuple["Future[None]", threading.Event]]:
    """Run a feature worker in a thread until the block ends; then it commits and leaves. Raises what has ended it before."""
    stop, ready = threading.Event(), threading.Event()
    worker = FeatureWorker(bootstrap, store, from_events=from_events)
    with ThreadPoolExecutor(1, "rebuild") as threads:
        work = threads.submit(worker.run, stop, ready)
        try:
            yield work, ready
        finally:
            stop.set()
        work.result()


class _Watch:
    """Compares the store's positions with where they are to come."""

    def __init__(self, bootstrap: str, store: OnlineStore, rebuilt: Rebuilt, progress: Callable[[Rebuilt], object]) -> None:
        self.rebuilt = rebuilt
        self._store = store
        self._progress = progress
        self._started_s = time.monotonic()
        self._consumer: Consumer = kafka.consumer(bootstrap, "feature-rebuild", group=COMPONENT)

    def close(self) -> None:
        """Let go of Kafka."""
        self._consumer.close()

    def ends(self, topics: Sequence[Topic]) -> dict[str, int]:
        """Return the offset behind the last record of each partition that has any."""
        ends: dict[str, int] = {}
        for topic in topics:
            for number in kafka.partitions(self._consumer, topic):
                low, high = kafka.watermarks(self._consumer, topic.name, number)
                if high > low:
                    ends[f"{topic.name}/{number}"] = high
        return ends

    def committed(self) -> dict[str, int]:
        """Return what the group has committed of the events."""
        places = [TopicPartition(topic.name, number) for topic in (CLICKS, PURCHASES) for number in kafka.partitions(self._consumer, topic)]
        found = self._consumer.committed(places, timeout=30.0)
        return {f"{place.topic}/{place.partition}": place.offset for place in found if place.offset > 0}

    def until_filled(self, events: dict[str, int], goes_on: Callable[[], bool], ready: threading.Event | None = None) -> bool:
        """Wait until the store has come to these ends of events, then to that of the item changes that followed from them.

        Returns False as soon as nobody goes on with the work. A worker of our own says by `ready` that it reads.
        """
        if not self._until(events, goes_on, ready):
            return False
        # The changes are surely on their topic once the events are committed; the first commit after a restore may be an older one.
        held = self._store.positions(list(events))
        time.sleep(2 * COMMIT_EVERY_S)
        while any(self.committed().get(source, 0) <= _number(position) for source, position in held.items()):
            if not goes_on():
                return False
            time.sleep(LOOK_EVERY_S)
        return self._until(events | self.ends([ITEM_CHANGES]), goes_on, ready)

    def _until(self, ends: dict[str, int], goes_on: Callable[[], bool], ready: threading.Event | None) -> bool:
        asked_s = moved_s = time.monotonic()
        last: Positions = {}
        while True:
            held = self._store.positions(list(ends))
            now_s = time.monotonic()
            if held != last or (ready is not None and not ready.is_set()):
                last, moved_s = held, now_s
            self._tell(ends, held)
            if self.rebuilt.to_go == 0 or (ready is not None and now_s - moved_s > QUIET_S):
                return True
            if now_s - asked_s > (0.0 if ready is not None else ASK_GROUP_EVERY_S):
                asked_s = now_s
                if not goes_on():
                    return False
            time.sleep(LOOK_EVERY_S)

    def _tell(self, ends: dict[str, int], held: Positions) -> None:
        keys: Any = self._store.client.dbsize()
        self.rebuilt.keys = keys
        self.rebuilt.to_go = sum(max(0, end - 1 - _number(held[source])) for source, end in ends.items())
        self.rebuilt.seconds = time.monotonic() - self._started_s
        self._progress(self.rebuilt)


def _number(position: int | None) -> int:
    return -1 if position is None else position
