"""One event, followed over a real Kafka and a real Redis from its publishing to the swap of the weights that learned from it."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.features.online_store import OnlineStore, connect
from headrace.online_model.scorer import Scorer
from headrace.schemas import Click, Recommendation, wire
from headrace.schemas.topics import CLICKS, RECOMMENDATIONS
from headrace.streams import kafka as clients
from headrace.streams import tracing
from headrace.streams.feature_worker import FeatureWorker
from headrace.streams.learner import example_of
from headrace.streams.publisher import EventPublisher
from headrace.streams.recommender import Recommender
from headrace.streams.trainer import Trainer
from headrace.streams.training_buffer import Example, ExampleBuffer
from headrace.streams.weights_channel import WeightsFollower

FOLLOWED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ALSO_FOLLOWED = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = int(FOLLOWED.split("-")[1], 16)
OTHER_ID = int(ALSO_FOLLOWED.split("-")[1], 16)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.set_up("test", exporter=exporter)
    yield exporter
    tracing.shut_down()


def publish(bootstrap: str) -> None:
    """Publish 60 views of 6 shoppers, of which the last two are followed."""
    now = wire.now_ms()
    with EventPublisher(bootstrap, "test") as publisher:
        for number in range(60):
            click = Click(
                event_id=f"e-{number}", user_id=f"shopper-{number % 6}", item_id=f"item-{(number // 6 + number) % 9}", action="view",
                event_time_ms=now - 60_000 + number,
            )  # fmt: skip
            publisher.publish(click, traceparent={58: FOLLOWED, 59: ALSO_FOLLOWED}.get(number))


def until(holds: Callable[[], bool], step: Callable[[], Any], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        step()
        assert time.monotonic() < deadline


def examples(bootstrap: str) -> list[Example]:
    """Read the clicks as the learner's agents do."""

    class Received:
        def __init__(self, record: Any) -> None:
            self.value = record.value()
            self.message = self
            self.headers, self.topic, self.partition, self.offset = record.headers(), record.topic(), record.partition(), record.offset()
            self.timestamp = record.timestamp()[1] / 1000

    reader = clients.consumer(bootstrap, "test-learner")
    clients.assign_all(reader, [CLICKS])
    found: list[Example] = []
    until(lambda: len(found) == 60, lambda: found.extend(made for record in clients.next_batch(reader, 100, 1.0)
                                                          if (made := example_of(Click, Received(record))) is not None))  # fmt: skip
    reader.close()
    return found


def swaps(bootstrap: str, learn: Callable[[], None]) -> int:
    """Follow the weights as a scorer does while `learn` publishes some; return the version that is served."""
    scorer = Scorer()
    follower = WeightsFollower(bootstrap, "test-weights", scorer.apply)
    until(follower.caught_up.is_set, lambda: follower.step(0.1))
    before = scorer.version
    learn()
    until(lambda: scorer.version > before, lambda: follower.step(0.1))
    follower.close()
    return scorer.version


def test_one_trace_leads_from_publishing_to_the_swap(fresh_topics: str, clean_redis: str, spans: InMemorySpanExporter) -> None:
    publish(fresh_topics)

    worker = FeatureWorker(fresh_topics, OnlineStore(connect(clean_redis)))
    until(lambda: has(spans, "fold and store", TRACE_ID) and has(spans, "fold and store", OTHER_ID), lambda: worker.step(0.1))
    worker.commit()
    worker.close()

    recommender = Recommender(fresh_topics, "cpu")
    until(lambda: has(spans, "recommend", TRACE_ID) and has(spans, "recommend", OTHER_ID), lambda: recommender.step(0.1))
    recommender.commit()
    recommender._group.close()
    recommender._rows.close()
    assert trace_of_list_for("shopper-4", fresh_topics) == TRACE_ID

    buffer = ExampleBuffer(lambda done: None)
    trainer = Trainer(fresh_topics, OnlineStore(connect(clean_redis)), buffer)
    stop, ready = threading.Event(), threading.Event()
    stop.set()
    trainer.run(stop, ready)
    version = swaps(fresh_topics, lambda: trainer.learn("count", examples(fresh_topics)))

    # The round lies in the trace of the followed event that the learner saw first.
    traceparent, other_id = (FOLLOWED, OTHER_ID) if has(spans, "learn", TRACE_ID) else (ALSO_FOLLOWED, TRACE_ID)
    chain = in_trace(spans, int(traceparent.split("-")[1], 16))
    assert {"publish", "fold and store", "recommend", "learn", "gate", "publish weights", "swap"} <= set(chain)
    # Each lies below the one that led to it.
    published = int(traceparent.split("-")[2], 16)
    for name, parent in [
        ("publish", published),
        ("fold and store", own(chain["publish"])),
        ("recommend", own(chain["fold and store"])),
        ("learn", own(chain["publish"])),
        ("gate", own(chain["learn"])),
        ("publish weights", own(chain["learn"])),
        ("swap", own(chain["publish weights"])),
    ]:
        assert above(chain[name]) == parent, name
    assert (chain["swap"].attributes or {})["headrace.model_version"] == version
    # The other followed event finds the round by a link, and the round it.
    other = in_trace(spans, other_id)
    assert {"publish", "fold and store", "learn with others"} <= set(other)
    assert [link.context.span_id for link in other["learn with others"].links] == [own(chain["learn"])]
    assert [link.context.trace_id for link in chain["learn"].links] == [other_id]
    # Nobody else is followed.
    assert {span.context.trace_id for span in spans.get_finished_spans() if span.context} == {TRACE_ID, OTHER_ID}


def in_trace(spans: InMemorySpanExporter, trace_id: int) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans() if span.context and span.context.trace_id == trace_id}


def has(spans: InMemorySpanExporter, name: str, trace_id: int) -> bool:
    return name in in_trace(spans, trace_id)


def own(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def above(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def trace_of_list_for(shopper: str, bootstrap: str) -> int | None:
    reader = clients.consumer(bootstrap, "test-lists")
    clients.assign_all(reader, [RECOMMENDATIONS])
    found: dict[str, str] = {}

    def read() -> None:
        for record in clients.next_batch(reader, 100, 0.5):
            made = wire.decode(Recommendation, record.value(), record.headers())
            found[made.shopper_id] = wire.header(record.headers(), "traceparent") or ""

    until(lambda: shopper in found, read)
    reader.close()
    return int(found[shopper].split("-")[1], 16)
