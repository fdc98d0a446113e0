"""The feature worker on a real Kafka and a real Redis."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import pytest
from confluent_kafka import Consumer
from msgspec import Struct

from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import Click, HistoryEntry, ItemChange, ItemRow, OrderLine, Purchase, UserRow, decode
from headrace.schemas.topics import ITEM_CHANGES, ITEM_FEATURES, USER_FEATURES, Topic
from headrace.streams import kafka as clients
from headrace.streams.feature_worker import CHANGES_A_STEP, MOST_CHANGES_WAITING, FeatureWorker, changes_due
from headrace.streams.publisher import EventPublisher

M = TypeVar("M", bound=Struct)

CLICKS = [
    Click(event_id=f"e{number}", event_time_ms=1_700_000_000_000 + number, item_id=f"item-{number % 3}", user_id=f"user-{number % 5}")
    for number in range(50)
]
PURCHASE = Purchase(
    event_id="p1",
    event_time_ms=1_700_000_001_000,
    order_id="o1",
    lines=[OrderLine(item_id="item-0", quantity=2, unit_price=9.5), OrderLine(item_id="item-9")],
    currency="EUR",
    user_id="user-0",
)


@pytest.fixture
def store(clean_redis: str) -> OnlineStore:
    return OnlineStore(connect(clean_redis))


@pytest.fixture
def published(fresh_topics: str) -> str:
    with EventPublisher(fresh_topics) as publisher:
        for click in CLICKS:
            publisher.publish(click)
        publisher.publish(PURCHASE)
    return fresh_topics


def work(worker: FeatureWorker, store: OnlineStore, units: int = 2, timeout_s: float = 30.0) -> None:
    """Let the worker run until the purchase has come through to its item, and all clicks to theirs."""
    deadline = time.monotonic() + timeout_s
    while True:
        worker.step(0.1)
        items = [row for row in store.read_items([f"item-{number}" for number in range(3)]) if row is not None]
        if sum(row.views for row in items) >= len(CLICKS) and sum(row.units for row in items) >= units:
            return
        assert time.monotonic() < deadline, f"not there after {timeout_s} s: {items}"


def close(worker: FeatureWorker, commit: bool) -> None:
    if commit:
        worker.commit()
    worker.close()


def messages(bootstrap: str, topic: Topic, kind: type[M]) -> list[M]:
    reader = clients.consumer(bootstrap, "test-reader")
    clients.assign_all(reader, [topic])
    return [decode(kind, record.value(), record.headers()) for record in drained(reader)]


def drained(reader: Consumer) -> Iterator[object]:
    while (record := reader.poll(2.0)) is not None:
        yield record
    reader.close()


def rows(store: OnlineStore) -> tuple[Sequence[UserRow | None], Sequence[ItemRow | None]]:
    return store.read_users([f"user-{number}" for number in range(5)]), store.read_items(["item-0", "item-1", "item-2", "item-9"])


def test_events_become_rows_in_the_online_store_and_on_the_changelogs(published: str, store: OnlineStore) -> None:
    worker = FeatureWorker(published, store)
    work(worker, store)
    close(worker, commit=True)
    (user, *_), (first, _, _, last) = rows(store)
    assert user is not None
    assert (user.views, user.purchases, user.steps) == (10, 1, 12)
    assert user.history[-2:] == [
        HistoryEntry("item-0", "purchase", PURCHASE.event_time_ms, 9.5),
        HistoryEntry("item-9", "purchase", PURCHASE.event_time_ms),
    ]
    assert first is not None
    assert (first.views, first.purchases, first.units, first.price) == (17, 1, 2, 9.5)
    assert last is not None
    assert (last.views, last.units) == (0, 1)
    newest = {row.shopper_id: row for row in messages(published, USER_FEATURES, UserRow)}
    assert newest["user-0"].history == user.history
    assert newest["user-0"].cause is not None
    assert newest["user-0"].cause.event_id in {"p1", "e45"}
    assert {row.item_id: row.views for row in messages(published, ITEM_FEATURES, ItemRow)}["item-0"] == 17


def test_a_worker_that_dies_before_its_commit_leaves_rows_that_its_successor_does_not_count_again(
    published: str, store: OnlineStore
) -> None:
    first = FeatureWorker(published, store)
    work(first, store)
    before = rows(store)
    # Everything is written and sent, nothing is committed beyond what the first half second allowed: all of it comes again.
    first._producer.flush()
    first._item_producer.flush()
    first._commits.forget()
    close(first, commit=False)
    second = FeatureWorker(published, store)
    for _ in range(30):
        second.step(0.1)
    close(second, commit=True)
    assert rows(store) == before
    assert max(change.quantity for change in messages(published, ITEM_CHANGES, ItemChange)) == 2


def test_item_changes_wait_for_events_until_many_have_gathered() -> None:
    assert changes_due(MOST_CHANGES_WAITING - 1, events_came=True) == 0
    assert changes_due(MOST_CHANGES_WAITING, events_came=True) == MOST_CHANGES_WAITING
    assert changes_due(3, events_came=False) == 3
    assert changes_due(100, events_came=False) == CHANGES_A_STEP
    waiting, steps = MOST_CHANGES_WAITING - 1, 0
    while waiting:
        waiting, steps = waiting - changes_due(waiting, events_came=False), steps + 1
    assert steps < 50
