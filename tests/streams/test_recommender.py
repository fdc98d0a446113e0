"""The recommender on a real Kafka: rows in, lists out, and what a restart does."""

import time

import pytest

from headrace.schemas import Cause, HistoryEntry, Recommendation, UserRow, encode
from headrace.schemas.topics import RECOMMENDATIONS, USER_FEATURES
from headrace.streams import kafka as clients
from headrace.streams.recommender import Recommender
from headrace.streams.subscriber import Subscriber

ITEMS = ["lamp", "bulb", "chair", "table", "vase"]


def row(shopper: str, steps: int) -> UserRow:
    history = [HistoryEntry(ITEMS[number % len(ITEMS)], "view", 1000 * number) for number in range(steps)]
    return UserRow(shopper_id=shopper, history=history, steps=steps, cause=Cause(event_id=f"{shopper}-{steps}", published_ms=1))


def send(bootstrap: str, *rows: UserRow) -> None:
    producer = clients.producer(bootstrap, "test")
    for one in rows:
        producer.produce(USER_FEATURES.name, encode(one), one.shopper_id, headers=[("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")])
    assert producer.flush(10.0) == 0


def serve(recommender: Recommender, lists: int, timeout_s: float = 30.0) -> None:
    """Run until so many rows are answered."""
    deadline = time.monotonic() + timeout_s
    reader = clients.consumer(recommender_address(recommender), "test-count")
    while sum(clients.watermarks(reader, RECOMMENDATIONS.name, number)[1] for number in range(RECOMMENDATIONS.partitions)) < lists:
        recommender.step(0.05)
        recommender._producer.flush(5.0)
        assert time.monotonic() < deadline
    reader.close()


def recommender_address(recommender: Recommender) -> str:
    [(_, broker)] = recommender._rows.list_topics(timeout=5.0).brokers.items()
    return f"{broker.host}:{broker.port}"


def end(recommender: Recommender, commit: bool) -> None:
    if commit:
        recommender.commit()
    recommender._group.close()
    recommender._rows.close()


def lists(bootstrap: str) -> list[Recommendation]:
    found: list[Recommendation] = []
    with Subscriber(bootstrap, Recommendation, start="beginning") as subscriber:
        while (message := subscriber.poll(2.0)) is not None:
            found.append(message)
    return found


def first_new_item(message: Recommendation) -> str:
    """Return the best item that ada, who looked at a lamp and a bulb, has not seen."""
    return next(item.item_id for item in message.items if item.item_id not in ("lamp", "bulb"))


@pytest.fixture
def taught(fresh_topics: str) -> str:
    send(fresh_topics, *(row(f"early-{number}", steps) for number in range(8) for steps in (2, 3, 4)))
    return fresh_topics


def test_each_changed_shopper_gets_a_list_that_names_its_cause_and_its_model(taught: str) -> None:
    recommender = Recommender(taught, "cpu")
    serve(recommender, 8)
    send(taught, row("ada", 2))
    serve(recommender, 9)
    end(recommender, commit=True)
    [message] = [found for found in lists(taught) if found.shopper_id == "ada"]
    assert first_new_item(message) == "chair"
    assert "bulb" not in [item.item_id for item in message.items]
    assert [item.score for item in message.items] == sorted((item.score for item in message.items), reverse=True)
    assert message.cause == Cause(event_id="ada-2", published_ms=1)
    # Both of ada's steps lead to the chair, and the list says so.
    chair = next(item for item in message.items if item.item_id == "chair")
    assert {reason.item_id for reason in chair.because} == {"lamp", "bulb"}
    assert message.model_version == 0
    assert message.latency_ms > 0


def test_a_restart_answers_nothing_again_that_was_committed(taught: str) -> None:
    first = Recommender(taught, "cpu")
    serve(first, 8)
    end(first, commit=True)
    before = len(lists(taught))
    second = Recommender(taught, "cpu")
    send(taught, row("ada", 2))
    serve(second, before + 1)
    end(second, commit=True)
    after = lists(taught)
    assert len(after) == before + 1
    # And it has the memory of what the first was taught, though it has answered for none of it.
    assert first_new_item(next(found for found in after if found.shopper_id == "ada")) == "chair"


def test_what_was_answered_but_not_committed_is_answered_again_under_the_same_id(taught: str) -> None:
    first = Recommender(taught, "cpu")
    serve(first, 8)
    first._open.clear()
    end(first, commit=False)
    before = {message.recommendation_id for message in lists(taught)}
    second = Recommender(taught, "cpu")
    serve(second, len(lists(taught)) + 8)
    end(second, commit=True)
    again = lists(taught)
    assert len(again) > len(before)
    # Which rows of a shopper fall into one batch may differ, but the newest row is answered each time.
    assert {message.recommendation_id for message in again if message.cause.event_id.endswith("-4")} <= before | {
        message.recommendation_id for message in again
    }
    newest = [message.recommendation_id for message in again if message.cause.event_id == "early-0-4"]
    assert len(newest) == 2
    assert len(set(newest)) == 1


def test_rows_that_cannot_be_read_go_to_the_dead_letters_and_hold_nothing_up(taught: str) -> None:
    producer = clients.producer(taught, "test")
    producer.produce(USER_FEATURES.name, b"{nonsense", "ben")
    producer.produce(USER_FEATURES.name, None, "gone")
    producer.flush()
    send(taught, row("ada", 2))
    recommender = Recommender(taught, "cpu")
    serve(recommender, 9)
    recommender.commit()
    end(recommender, commit=False)
    with Subscriber(taught, "dead-letters", start="beginning") as letters:
        letter = letters.poll(5.0)
        assert letters.poll(0.5) is None
    assert letter is not None
    assert getattr(letter, "topic") == USER_FEATURES.name  # noqa: B009
