"""Every example runs as it stands, against a real broker."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from headrace.schemas import Cause, Click, DeadLetter, DriftAlert, ModelUpdate, Recommendation, RecommendedItem, wire
from headrace.schemas.drift_alerts import DriftCause
from headrace.streams import kafka as kafka_client
from headrace.streams.subscriber import Subscriber, topic_of

EXAMPLES = Path(__file__).parents[2] / "examples"
HASH = "0" * 64

RECOMMENDATION = Recommendation(
    recommendation_id="r-1", shopper_id="ada", items=[RecommendedItem(item_id="tent", score=0.25, part="covisitation")], model_version=3,
    weights_sha256=HASH, created_ms=5, latency_ms=1.5, cause=Cause(event_id="e", published_ms=4),
)  # fmt: skip
ALERT = DriftAlert(
    alert_id="a-1", signal="next-item-loss", detector="adwin", severity="warning", level_before=3.1, level_after=5.2, window=200,
    observations=9000, model_version=3, event_time_ms=1, created_ms=2, reaction="fine-tuning begins",
)  # fmt: skip
EPISODE = msgspec.structs.replace(
    ALERT, episode_id="e-1", causes=[DriftCause(signal="price", share=0.62, level_before=10.0, level_after=20.0)]
)  # fmt: skip
UPDATE = ModelUpdate(
    model="next-item", kind="delta", version=4, base_version=3, weights_sha256=HASH, base_sha256=HASH, payload_sha256=HASH, payload_bytes=1,
    payload_parts=1, payload_offset=0, trigger="drift", feature_service="s", created_ms=1, learned_events=512, learned_offsets={},
    learned_published_ms=[], holdout_loss=None, live_holdout_loss=None,
)  # fmt: skip
LETTER = DeadLetter(
    topic="clicks", partition=2, offset=7, reason="$: not JSON", field="$", raw=b"{oh", component="feature-worker", created_ms=1
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("fresh_topics")


@contextmanager
def running(name: str, bootstrap: str) -> Iterator["queue.SimpleQueue[str]"]:
    """Run an example and give the lines that it prints."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    variables = os.environ | {"HEADRACE_KAFKA": bootstrap}
    with subprocess.Popen([sys.executable, EXAMPLES / name], env=variables, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout
        assert output is not None
        reading = threading.Thread(target=lambda: [lines.put(line.rstrip("\n")) for line in output])
        reading.start()
        try:
            yield lines
        finally:
            process.kill()
            process.wait()
            reading.join()


def send(bootstrap: str, message: Struct) -> None:
    producer = kafka_client.producer(bootstrap, "test")
    headers = wire.headers(message, event_id="1", time_ms=1, source="test")
    producer.produce(topic_of(type(message)).name, wire.encode(message), "key", headers=headers)
    assert producer.flush(10.0) == 0


def first_line(lines: "queue.SimpleQueue[str]", again: Callable[[], None]) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        again()
        try:
            return lines.get(timeout=0.5)
        except queue.Empty:
            continue
    raise AssertionError("the example printed nothing within 30 s")


def test_publish_events(kafka: str) -> None:
    with running("publish_events.py", kafka) as lines:
        assert first_line(lines, lambda: None) == "2 events are acknowledged"
    with Subscriber(kafka, Click, start="beginning") as clicks:
        click = clicks.poll(10.0)
    assert click is not None
    assert click.item_id == "running-shoes-red-07"


def test_subscribe_recommendations_sees_those_that_come_after_its_start(kafka: str) -> None:
    with running("subscribe_recommendations.py", kafka) as lines:
        assert first_line(lines, lambda: send(kafka, RECOMMENDATION)) == "ada tent=0.250"


@pytest.mark.parametrize(
    ("name", "message", "line"),
    [
        ("watch_drift_alerts.py", ALERT, "warning: next-item-loss went from 3.100 to 5.200; fine-tuning begins"),
        ("follow_drift_episodes.py", EPISODE, "e-1: concept drift of next-item-loss, mostly by price (62%); fine-tuning begins"),
        ("follow_model_updates.py", UPDATE, "next-item delta 3 -> 4 after 512 events"),
        ("read_dead_letters.py", LETTER, "clicks/2/7: $: not JSON: b'{oh'"),
    ],
)
def test_readers_of_what_is_kept_see_what_came_before_their_start(kafka: str, name: str, message: Struct, line: str) -> None:
    send(kafka, message)
    with running(name, kafka) as lines:
        assert first_line(lines, lambda: None) == line


def test_follow_drift_episodes_tells_start_and_end_once_each(kafka: str) -> None:
    for state, created_ms in (("started", 2_000), ("ongoing", 3_000), ("ongoing", 4_000), ("resolved", 62_000)):
        send(kafka, msgspec.structs.replace(EPISODE, state=state, created_ms=created_ms))
    with running("follow_drift_episodes.py", kafka) as lines:
        told = [first_line(lines, lambda: None), first_line(lines, lambda: None)]
    assert told[0].startswith("e-1: concept drift of next-item-loss")
    assert told[1] == "e-1: over after 60 s; next-item-loss is at 5.200"
