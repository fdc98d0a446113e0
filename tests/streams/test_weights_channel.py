"""The way of weights over Kafka: in order, whole, and past whatever is broken."""

import threading

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY
from weights_chain import MODEL, Chain

from headrace.online_model.weights import BadUpdate, ModelCopy
from headrace.schemas import ModelUpdate, encode
from headrace.schemas.topics import MODEL_UPDATES, MODEL_WEIGHTS
from headrace.streams import kafka as kafka_client
from headrace.streams import weights_channel
from headrace.streams.live_scorer import LiveScorer
from headrace.streams.weights_channel import WeightsFollower

pytestmark = pytest.mark.usefixtures("fresh_topics")


class Followed:
    """A follower that applies to a copy of the model and notes what it applied."""

    def __init__(self, bootstrap: str) -> None:
        self.copy = ModelCopy()
        self.versions: list[int] = []
        self.follower = WeightsFollower(bootstrap, "test-follower", self._apply)

    def until(self, version: int) -> None:
        for _ in range(200):
            if self.versions and self.versions[-1] == version:
                return
            self.follower.step(0.1)
        raise AssertionError(f"version {version} did not come, only {self.versions}")

    def idle(self) -> None:
        for _ in range(5):
            self.follower.step(0.1)

    def _apply(self, update: ModelUpdate, payload: bytes) -> None:
        self.copy.apply(update, payload)
        self.versions.append(update.version)


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("headrace_weight_updates_refused_total", {"reason": reason}) or 0.0


def send_raw(bootstrap: str, topic: str, value: bytes | None) -> None:
    producer = kafka_client.producer(bootstrap, "test")
    producer.produce(topic, value, MODEL, partition=0, on_delivery=kafka_client.must_arrive)
    producer.flush(10.0)


def test_a_snapshot_and_its_deltas_arrive_in_order(kafka: str) -> None:
    followed = Followed(kafka)
    chain = Chain(kafka)
    chain.snapshot()
    for number in range(5):
        chain.delta(f"new-{number}")
    followed.until(6)
    assert followed.versions == [1, 2, 3, 4, 5, 6]
    assert (followed.copy.sha256, followed.copy.items) == (chain.copy.sha256, chain.copy.items)
    followed.follower.close()


def test_one_who_starts_late_takes_up_from_the_newest_snapshot(kafka: str) -> None:
    chain = Chain(kafka)
    chain.snapshot()
    chain.delta()
    chain.delta()
    chain.snapshot()
    chain.delta()
    followed = Followed(kafka)
    assert followed.follower.newest is not None
    assert followed.follower.newest.version == 4
    assert not followed.follower.caught_up.is_set()
    followed.until(4)
    assert followed.versions == [3, 4]
    assert followed.follower.caught_up.is_set()
    assert followed.copy.sha256 == chain.copy.sha256
    followed.follower.close()


def test_where_nothing_is_published_yet_a_follower_has_caught_up_at_once(kafka: str) -> None:
    followed = Followed(kafka)
    followed.follower.step(0.1)
    assert followed.follower.caught_up.is_set()
    assert followed.follower.newest is None
    followed.follower.close()


def test_a_payload_of_several_parts_comes_whole(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_channel, "PART_BYTES", 10_000)
    chain = Chain(kafka)
    assert chain.snapshot().payload_parts > 10
    followed = Followed(kafka)
    chain.delta()
    followed.until(2)
    assert followed.copy.sha256 == chain.copy.sha256
    followed.follower.close()


def test_a_payload_larger_than_the_producers_buffer_goes_out_part_by_part(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_channel, "PART_BYTES", 10_000)
    chain = Chain(kafka)
    chain.publisher._producer = kafka_client.producer(kafka, "small", **{"queue.buffering.max.messages": 3})
    chain.snapshot()
    followed = Followed(kafka)
    followed.until(1)
    followed.follower.close()


def test_a_corrupted_payload_is_refused_and_counted_and_the_next_snapshot_heals(kafka: str) -> None:
    chain = Chain(kafka)
    chain.snapshot()
    followed = Followed(kafka)
    followed.until(1)
    bad_before, lost_before = refused("damaged"), refused("lost")
    good = chain.publisher.send_payload

    def corrupted(model: str, payload: bytes) -> tuple[int, int]:
        return good(model, payload[:-1] + bytes([payload[-1] ^ 1]))

    chain.publisher.send_payload = corrupted
    chain.delta()
    chain.publisher.send_payload = good
    chain.delta()
    followed.idle()
    assert followed.versions == [1], "neither the broken version nor one that builds on it is taken in"
    assert refused("damaged") == bad_before + 1
    assert refused("lost") == lost_before + 1
    chain.snapshot()
    chain.delta()
    followed.until(4)
    assert followed.versions == [1, 3, 4]
    assert followed.copy.sha256 == chain.copy.sha256
    followed.follower.close()


def test_manifests_that_are_garbage_are_skipped(kafka: str) -> None:
    before = refused("bad_manifest")
    chain = Chain(kafka)
    send_raw(kafka, MODEL_UPDATES.name, b"not json")
    chain.snapshot()
    followed = Followed(kafka)
    for value in (None, b"", b"{}", b"\xff\x00", b'{"version": -1}', b"[" * 100_000):
        send_raw(kafka, MODEL_UPDATES.name, value)
    chain.delta()
    followed.until(2)
    assert refused("bad_manifest") == before + 7
    followed.follower.close()


def test_a_manifest_that_points_at_bytes_that_never_were_holds_nobody_up(kafka: str) -> None:
    before = refused("missing_parts")
    chain = Chain(kafka)
    first = chain.snapshot()
    followed = Followed(kafka)
    followed.until(1)
    chain.resend(first, version=2, payload_offset=2**40)
    chain.delta()
    followed.until(2)
    assert refused("missing_parts") == before + 1
    assert followed.copy.sha256 == chain.copy.sha256
    followed.follower.close()


def test_bytes_that_the_topic_has_dropped_hold_nobody_up(kafka: str) -> None:
    chain = Chain(kafka)
    update = chain.snapshot()
    admin = AdminClient({"bootstrap.servers": kafka})
    end = update.payload_offset + update.payload_parts
    for outcome in admin.delete_records([TopicPartition(MODEL_WEIGHTS.name, 0, end)]).values():
        outcome.result()
    followed = Followed(kafka)
    followed.idle()
    assert followed.follower.caught_up.is_set()
    assert followed.versions == []
    chain.snapshot()
    followed.until(1)
    followed.follower.close()


def test_another_writer_between_the_parts_is_noticed(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_channel, "PART_BYTES", 200_000)
    chain = Chain(kafka)
    plain = chain.publisher._producer

    class Disturbed:
        def produce(self, *arguments: object, **named: object) -> None:
            plain.produce(*arguments, **named)
            plain.flush(10.0)
            send_raw(kafka, MODEL_WEIGHTS.name, b"theirs")

        def flush(self, timeout_s: float) -> int:
            return plain.flush(timeout_s)

    chain.publisher._producer = Disturbed()
    with pytest.raises(KafkaException, match="another learner"):
        chain.snapshot()


def test_a_live_scorer_swaps_what_comes_and_keeps_what_it_has_where_an_update_is_bad(kafka: str) -> None:
    chain = Chain(kafka)
    chain.snapshot()
    live = LiveScorer(kafka, "test-live", "cpu")
    live.start()
    try:
        assert live.follower.caught_up.wait(20.0)
        assert live.scorer.version == 1
        with pytest.raises(BadUpdate):
            live.scorer.apply(chain.links[0][0], b"")
        update = chain.delta()
        waited = threading.Event()
        for _ in range(200):
            if live.scorer.version == 2:
                break
            waited.wait(0.05)
        assert (live.scorer.version, live.scorer.sha256) == (2, update.weights_sha256)
        assert live.failure is None
    finally:
        live.stop()
    assert len(encode(update)) < 2_000, "a manifest stays small"
