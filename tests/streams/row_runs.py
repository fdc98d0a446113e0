"""Feature workers that run until all is read, and what they leave in the store: for the tests of rebuilding and replaying."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from confluent_kafka import TopicPartition
from msgspec import to_builtins

from headrace.features.online_store import OnlineStore, connect
from headrace.features.shadow import with_database
from headrace.schemas import Event
from headrace.schemas.topics import CLICKS, ITEM_CHANGES, PURCHASES
from headrace.streams import kafka
from headrace.streams.feature_worker import FeatureWorker
from headrace.streams.publisher import EventPublisher

NEAR = 1e-9


def database(url: str, number: int, *, empty: bool = True) -> OnlineStore:
    """The store in a database of its own, emptied."""
    store = OnlineStore(connect(with_database(url, number)))
    if empty:
        store.client.flushdb()
    return store


def publish(bootstrap: str, events: Iterable[Event]) -> None:
    with EventPublisher(bootstrap) as publisher:
        for event in events:
            publisher.publish(event)


def ends(bootstrap: str) -> dict[str, int]:
    """The offset of the last record of each partition that holds any."""
    reader = kafka.consumer(bootstrap, "test-ends")
    places = kafka.assign_all(reader, [CLICKS, PURCHASES, ITEM_CHANGES], kafka.END)
    reader.close()
    return {f"{place.topic}/{place.partition}": place.offset - 1 for place in places if place.offset > 0}


def all_read(bootstrap: str, store: OnlineStore) -> bool:
    """Whether the store has come to the end of each partition, and changes that follow from events are all on their topic."""
    reader = kafka.consumer(bootstrap, "test-committed", group="feature-worker")
    places = [TopicPartition(topic.name, number) for topic in (CLICKS, PURCHASES) for number in range(topic.partitions)]
    committed = {f"{place.topic}/{place.partition}": place.offset - 1 for place in reader.committed(places, timeout=10.0)}
    reader.close()
    last = ends(bootstrap)
    held = store.positions(list(last))
    return all(min(_number(held[source]), committed.get(source, offset)) >= offset for source, offset in last.items())


def work(bootstrap: str, store: OnlineStore, **options: Any) -> None:
    """Run a worker until it has read all, and what followed from it."""
    with working(bootstrap, store, **options):
        # What was committed before the worker began may mislead the first time.
        for _ in range(2):
            wait_until(lambda: all_read(bootstrap, store), "the worker has read all", 120.0)
            time.sleep(0.8)


@contextmanager
def working(bootstrap: str, store: OnlineStore, **options: Any) -> Iterator["Future[None]"]:
    """A worker in a thread; at the end it commits and leaves. What has ended it before is raised by its result alone."""
    stop, ready = threading.Event(), threading.Event()
    worker = FeatureWorker(bootstrap, store, **options)
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(worker.run, stop, ready)
        try:
            wait_until(lambda: ready.is_set() or result.done(), "the worker has partitions", 60.0)
            yield result
        finally:
            stop.set()


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def bodies(store: OnlineStore, *, sessions: bool = False) -> dict[bytes, bytes]:
    """The bytes of each row of users and items, and of visits where asked for."""
    found: dict[bytes, bytes] = {}
    for table in (store.users, store.items, *((store.sessions,) if sessions else ())):
        for key in store.client.scan_iter(match=table.pattern, count=10_000):
            body: Any = store.client.hget(key, table.row_field)  # type: ignore[arg-type]
            found[key] = body
    return found


def values(store: OnlineStore) -> dict[tuple[str, str], dict[str, Any]]:
    """All rows as plain values, without what the order between partitions decides: the event that a row was last told of."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for user in store.scan_users():
        rows["user", user.shopper_id] = to_builtins(user) | {"cause": None}
    for item in store.scan_items():
        rows["item", item.item_id] = to_builtins(item)
    for session in store.scan_sessions():
        rows["session", session.session_id] = to_builtins(session)
    return rows


def _number(position: int | None) -> int:
    return -1 if position is None else position


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two values differ, floats by more than 1e-9 of their size."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return [] if abs(ours - theirs) <= NEAR * max(1.0, abs(ours)) else [f"{path}: {ours} and {theirs}"]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [found for key in ours.keys() | theirs.keys() for found in differences(ours.get(key), theirs.get(key), f"{path}/{key}")]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return [found for n, pair in enumerate(zip(ours, theirs, strict=True)) for found in differences(*pair, f"{path}/{n}")]
    return [] if ours == theirs else [f"{path}: {ours} and {theirs}"]
