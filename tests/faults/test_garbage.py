"""Garbage on `clicks`, past every check at the edge: each record is kept with a reason, and the stream does not stop."""

import json
import time
from typing import Any

import pytest

from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import Click, DeadLetter, wire
from headrace.schemas.topics import CLICKS, PURCHASES
from headrace.streams import kafka as clients
from headrace.streams.feature_worker import FeatureWorker
from headrace.streams.publisher import EventPublisher
from headrace.streams.subscriber import Subscriber

GOOD: dict[str, Any] = {"type": "click", "event_id": "e", "event_time_ms": 1_700_000_000_000, "item_id": "lamp", "user_id": "ada"}

# What is sent, the field that the reason must name, and words that it must hold.
GARBAGE = {
    "not JSON": (b"<html>hello</html>", "$", "not JSON"),
    "not UTF-8": (b'{"item_id": "\xff\xfe"}', "$", "not JSON"),
    "half of it": (json.dumps(GOOD).encode()[:40], "$", "not JSON"),
    "nothing": (b"", "$", "not JSON"),
    "a tombstone": (None, "$", "tombstone"),
    "a list": (b"[1, 2, 3]", "$", "object"),
    "a number for the item": (json.dumps(GOOD | {"item_id": 7}).encode(), "$.item_id", "`str`"),
    "text for the time": (json.dumps(GOOD | {"event_time_ms": "yesterday"}).encode(), "$.event_time_ms", "`int`"),
    "an empty item": (json.dumps(GOOD | {"item_id": ""}).encode(), "$.item_id", "length"),
    "a negative price": (json.dumps(GOOD | {"price": -1}).encode(), "$.price", ">= 0"),
    "an action that there is not": (json.dumps(GOOD | {"action": "stare"}).encode(), "$.action", "stare"),
    "an unknown field": (json.dumps(GOOD | {"itm_id": "lamp"}).encode(), "itm_id", "unknown field"),
    "no item": (json.dumps({name: value for name, value in GOOD.items() if name != "item_id"}).encode(), "$", "item_id"),
    "a purchase": (json.dumps(GOOD | {"type": "purchase"}).encode(), "$.type", "purchase"),
    "a time in 2099": (json.dumps(GOOD | {"event_time_ms": 4_070_908_800_000}).encode(), "$.event_time_ms", "in the future"),
    "no user and no session": (
        json.dumps({name: value for name, value in GOOD.items() if name != "user_id"}).encode(),
        "$.user_id",
        "session_id",
    ),
    "a deep nest": (b'{"item_id": ' + b"[" * 5000 + b"]" * 5000 + b"}", "$", ""),
    "almost a megabyte": (json.dumps(GOOD | {"category": "x" * 900_000}).encode(), "$.category", "length"),
}


def click(number: int) -> Click:
    return Click(event_id=f"e{number}", event_time_ms=1_700_000_000_000 + number, item_id="lamp", user_id=f"user-{number % 4}")


@pytest.fixture
def letters(fresh_topics: str, clean_redis: str) -> tuple[list[DeadLetter], OnlineStore]:
    """Publish garbage between good clicks, let a worker take it all in, and return what it refused."""
    store = OnlineStore(connect(clean_redis))
    producer = clients.producer(fresh_topics, "vandal")
    with EventPublisher(fresh_topics) as publisher:
        for number, (raw, _, _) in enumerate(GARBAGE.values()):
            publisher.publish(click(number))
            for partition in range(CLICKS.partitions):
                producer.produce(CLICKS.name, raw, "ada", partition=partition)
        producer.produce(PURCHASES.name, json.dumps(GOOD).encode(), "ada", partition=0)
        producer.flush(10.0)
        publisher.publish(click(len(GARBAGE)))
    worker = FeatureWorker(fresh_topics, store)
    deadline = time.monotonic() + 60
    while sum(row.views for row in store.read_users([f"user-{number}" for number in range(4)]) if row) < len(GARBAGE) + 1:
        worker.step(0.1)
        assert time.monotonic() < deadline, "the good clicks did not come through"
    worker.commit()
    worker._consumer.close()
    found: list[DeadLetter] = []
    with Subscriber(fresh_topics, DeadLetter, start="beginning") as subscriber:
        while (letter := subscriber.poll(3.0)) is not None:
            found.append(letter)
    return found, store


def test_each_kind_of_garbage_is_kept_with_a_reason_and_the_good_clicks_come_through(letters: tuple[list[DeadLetter], OnlineStore]) -> None:
    found, store = letters
    assert len(found) == CLICKS.partitions * len(GARBAGE) + 1
    assert len({(letter.topic, letter.partition, letter.offset) for letter in found}) == len(found)
    assert {letter.component for letter in found} == {"feature-worker"}
    for name, (raw, field, words) in GARBAGE.items():
        of_this = [letter for letter in found if letter.raw == (raw or b"") and letter.topic == CLICKS.name]
        of_this = [letter for letter in of_this if words in letter.reason]
        assert len(of_this) == CLICKS.partitions, f"{name}: {[letter.reason for letter in found if letter.raw == (raw or b'')]}"
        assert {letter.partition for letter in of_this} == set(range(CLICKS.partitions))
        assert field in f"{of_this[0].field} {of_this[0].reason}", name
    assert store.read_users(["ada"]) == [None]
    rows = [row for row in store.read_items(["lamp"]) if row is not None]
    assert [row.views for row in rows] in ([], [len(GARBAGE) + 1]) or rows[0].views <= len(GARBAGE) + 1


def test_two_megabytes_are_refused_before_they_are_sent(fresh_topics: str) -> None:
    large = Click(event_id="e", event_time_ms=1, item_id="lamp", user_id="ada", category="x" * 2_000_000)
    with EventPublisher(fresh_topics) as publisher, pytest.raises(wire.InvalidMessage, match="bytes as JSON, at most 1000000 are allowed"):
        publisher.publish(large)
