"""The way of weights over Kafka: in order, whole, and past whatever is broken."""

import threading
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace
from prometheus_client import REGISTRY
from weights_chain import Chain

from headrace.online_model.weights import BadUpdate, ModelCopy
from headrace.schemas import ModelUpdate, encode
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import MODEL_UPDATES, MODEL_WEIGHTS
from headrace.schemas.wire import Headers
from headrace.streams import kafka as kafka_client
from headrace.streams import weights_channel
from headrace.streams.live_scorer import LiveScorer
from headrace.streams.signing import SIGNATURE_HEADER, SigningKey, TrustedKeys
from headrace.streams.weight_store import WeightStore
from headrace.streams.weights_channel import WeightsFollower

pytestmark = pytest.mark.usefixtures("fresh_topics")


class Followed:
    """A follower that applies to a copy of the model and notes what it applied."""

    def __init__(self, bootstrap: str, *, trusted: TrustedKeys | None = None, store: WeightStore | None = None) -> None:
        self.copy = ModelCopy()
        self.versions: list[int] = []
        self.follower = WeightsFollower(bootstrap, "test-follower", self._apply, trusted=trusted, store=store)

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


def send_raw(bootstrap: str, topic: str, value: bytes | None, tags: Headers | None = None) -> None:
    producer = kafka_client.producer(bootstrap, "test")
    producer.produce(topic, value, MODEL, partition=0, headers=tags or [], on_delivery=kafka_client.must_arrive)
    producer.flush(10.0)


def drop_parts(bootstrap: str, update: ModelUpdate) -> None:
    """Let the topic lose the bytes of an update and all before it."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    end = update.payload_offset + update.payload_parts
    for outcome in admin.delete_records([TopicPartition(MODEL_WEIGHTS.name, 0, end)]).values():
        outcome.result()


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
    drop_parts(kafka, chain.snapshot())
    followed = Followed(kafka)
    followed.idle()
    assert followed.follower.caught_up.is_set()
    assert followed.versions == []
    chain.snapshot()
    followed.until(1)
    followed.follower.close()


def test_only_updates_that_a_trusted_key_has_signed_are_taken_in(kafka: str, tmp_path: Path) -> None:
    key, stranger = SigningKey.create(tmp_path), SigningKey.create(tmp_path / "stranger")
    trusted = TrustedKeys(tmp_path / "trusted")
    before = refused("forged")
    chain = Chain(kafka, signing=key)
    first = chain.snapshot()
    assert first.key_id == key.key_id
    followed = Followed(kafka, trusted=trusted)
    followed.until(1)
    for signing in (None, stranger):
        chain.publisher._signing = signing
        chain.resend(first, version=2, weights_sha256="a" * 64)
    value = encode(replace(first, version=3, weights_sha256="a" * 64))
    send_raw(kafka, MODEL_UPDATES.name, value, [(SIGNATURE_HEADER, key.sign(encode(first)))])
    chain.publisher._signing = key
    chain.delta()
    followed.until(2)
    assert followed.versions == [1, 2]
    assert refused("forged") == before + 3
    trusted.revoke(key.key_id)
    chain.delta()
    followed.idle()
    assert followed.versions == [1, 2]
    assert refused("forged") == before + 4
    # One who starts now trusts nothing of it.
    late = Followed(kafka, trusted=trusted)
    late.idle()
    assert (late.versions, late.follower.newest) == ([], None)
    for one in (followed, late):
        one.follower.close()


def test_snapshots_go_to_the_store_and_a_scorer_finds_there_what_the_topic_has_dropped(kafka: str, tmp_path: Path) -> None:
    key = SigningKey.create(tmp_path / "keys")
    trusted = TrustedKeys(tmp_path / "keys/trusted")
    store = WeightStore(tmp_path / "weights", trusted)
    chain = Chain(kafka, signing=key, store=store)
    chain.snapshot()
    chain.delta()
    snapshot = chain.snapshot()
    assert snapshot.payload_uri == store.place_of(snapshot)
    assert snapshot.shapes["items.values"] == [31, 64]
    drop_parts(kafka, snapshot)
    chain.delta()
    without = Followed(kafka, trusted=trusted)
    without.idle()
    assert without.versions == []
    followed = Followed(kafka, trusted=trusted, store=store)
    followed.until(3)
    assert followed.versions == [2, 3]
    assert followed.copy.sha256 == chain.copy.sha256
    for one in (followed, without):
        one.follower.close()


@pytest.mark.parametrize("pause_s", [0.0, 3.0])
def test_after_a_lost_update_the_way_back_leads_over_the_newest_snapshot(
    pause_s: float, kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the pause the store, which is asked at the start, is not asked at once, and no further update comes to remind of it.
    monkeypatch.setattr(weights_channel, "STORE_PAUSE_S", pause_s)
    store = WeightStore(tmp_path)
    chain = Chain(kafka, store=store)
    chain.snapshot()
    followed = Followed(kafka, store=store)
    followed.until(1)
    lost = refused("lost")
    send = chain.publisher._producer.produce

    class Deaf:
        """Loses manifests, and passes all else on."""

        def produce(self, topic: str, *arguments: object, **named: object) -> None:
            if topic == MODEL_WEIGHTS.name:
                send(topic, *arguments, **named)

        def flush(self, timeout_s: float) -> int:
            return int(hearing.flush(timeout_s))

    hearing, chain.publisher._producer = chain.publisher._producer, Deaf()
    chain.delta()
    chain.snapshot()
    chain.publisher._producer = hearing
    chain.delta()
    followed.until(3)
    assert followed.versions == [1, 2, 3], "the snapshot of version 2 came from the store alone"
    assert refused("lost") == lost + 1
    assert followed.copy.sha256 == chain.copy.sha256
    followed.follower.close()


def test_what_comes_twice_or_comes_back_is_refused_and_harms_nobody(kafka: str) -> None:
    chain = Chain(kafka)
    chain.snapshot()
    first, second = chain.delta(), chain.delta()
    followed = Followed(kafka)
    followed.until(3)
    doubled, replayed = refused("doubled"), refused("replayed")
    chain.resend(second)
    chain.resend(first)
    chain.resend(first, model="another")
    chain.delta()
    followed.until(4)
    assert (refused("doubled"), refused("replayed")) == (doubled + 1, replayed + 1)
    assert followed.copy.sha256 == chain.copy.sha256
    followed.follower.close()


def test_a_store_that_fails_does_not_keep_weights_from_going_out(kafka: str, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("no folder")
    failures = REGISTRY.get_sample_value("headrace_weight_store_failures_total") or 0.0
    store = WeightStore(tmp_path / "weights")
    chain = Chain(kafka, store=store)
    assert chain.snapshot().payload_uri is None
    assert REGISTRY.get_sample_value("headrace_weight_store_failures_total") == failures + 1
    followed = Followed(kafka, store=store)
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
    assert len(encode(update)) < 3_000, "a manifest stays small"
