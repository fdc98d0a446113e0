"""The training thread on a real Kafka and a real Redis: what it publishes, how it goes on after a crash, what it tells."""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.json import encode as encode_json

from headrace.deploy.bench.manifests import manifest_of
from headrace.features.online_store import OnlineStore, connect
from headrace.online_model.fine_tuning import Round
from headrace.online_model.gate import Verdict
from headrace.online_model.weights import ModelCopy, snapshot_payload
from headrace.schemas import HistoryEntry, ModelUpdate, UserRow, encode
from headrace.schemas.feature_rows import Kind
from headrace.streams.model_access import ModelAccess
from headrace.streams.quarantine import read_batch, read_quarantine
from headrace.streams.shopper_histories import NewSteps, ShopperHistories
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.subscriber import Subscriber
from headrace.streams.trainer import SNAPSHOT_EVERY, Trainer, rest_s, resume
from headrace.streams.training_buffer import Example, ExampleBuffer
from headrace.streams.weight_store import WeightStore


@pytest.fixture
def store(clean_redis: str) -> OnlineStore:
    return OnlineStore(connect(clean_redis))


def example(shopper: str, item: str, time_ms: int, kind: Kind = "view", offset: int = 0) -> Example:
    return Example(shopper, (HistoryEntry(item, kind, time_ms),), time_ms, time_ms, "clicks/0", offset)


def examples(first: int, count: int = 40) -> list[Example]:
    """Views by ten shoppers who go round the same ring of items."""
    return [
        example(f"shopper-{number % 10}", f"item-{(number // 10 + number) % 12}", number, offset=number)
        for number in range(first, first + count)
    ]


def access_in(folder: Path) -> ModelAccess:
    """A key of its own, trusted, and a weight store."""
    SigningKey.create(folder / "keys")
    trusted = TrustedKeys(folder / "keys/trusted")
    return ModelAccess(trusted, WeightStore(folder / "weights", trusted), folder / "keys/signing.pem")


def trainer(kafka: str, store: OnlineStore, released: list[Example] | None = None, access: ModelAccess | None = None) -> Trainer:
    def release(done: Sequence[Example]) -> None:
        if released is not None:
            released.extend(done)

    made = Trainer(kafka, store, ExampleBuffer(release), access=access)
    stop, ready = threading.Event(), threading.Event()
    stop.set()
    made.run(stop, ready)
    assert ready.is_set()
    return made


def manifests(kafka: str) -> list[ModelUpdate]:
    found: list[ModelUpdate] = []
    with Subscriber(kafka, ModelUpdate, start="beginning") as updates:
        while (update := updates.poll(3.0)) is not None:
            found.append(update)
    return found


def test_rounds_are_published_as_a_chain_from_a_first_snapshot(fresh_topics: str, store: OnlineStore) -> None:
    released: list[Example] = []
    learner = trainer(fresh_topics, store, released)
    for first in (0, 40, 80):
        learner.learn("count", examples(first))
    snapshot, *deltas = manifests(fresh_topics)
    assert (snapshot.kind, snapshot.version, snapshot.trigger) == ("snapshot", 1, "start")
    assert [(update.kind, update.base_version, update.version) for update in deltas] == [("delta", 1, 2), ("delta", 2, 3), ("delta", 3, 4)]
    assert all(update.base_sha256 == before.weights_sha256 for before, update in zip([snapshot, *deltas], deltas, strict=False))
    assert deltas[-1].learned_offsets == {"clicks/0": 119}
    assert deltas[-1].learned_events == 120
    assert deltas[-1].learned_published_ms == list(range(80, 120))
    assert len(released) == 120


def test_a_successor_takes_up_the_weights_and_does_not_learn_the_same_events_again(fresh_topics: str, store: OnlineStore) -> None:
    first = trainer(fresh_topics, store)
    first.learn("count", examples(0))
    first.learn("count", examples(40))
    second = trainer(fresh_topics, store)
    assert same_weights(second._tuner.live, first._tuner.live)
    # The first died before it could acknowledge the last 60 events: they come again, with 20 new ones.
    second.learn("count", examples(20, 80))
    newest = manifests(fresh_topics)[-1]
    assert (newest.version, newest.base_version) == (4, 3)
    assert newest.learned_events == 100
    assert newest.learned_offsets == {"clicks/0": 99}
    assert newest.learned_published_ms == list(range(80, 100))


def test_events_that_are_all_known_make_no_version_and_are_released(fresh_topics: str, store: OnlineStore) -> None:
    trainer(fresh_topics, store).learn("count", examples(0))
    released: list[Example] = []
    trainer(fresh_topics, store, released).learn("count", examples(0))
    assert [update.version for update in manifests(fresh_topics)] == [1, 2]
    assert len(released) == 40


def test_a_refused_candidate_is_kept_with_its_weights_and_events(
    fresh_topics: str, store: OnlineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = access_in(tmp_path)
    learner = trainer(fresh_topics, store, access=access)
    refused = Verdict(False, "made worse on purpose", 3.0, 2.0, "losses", {"loss_evidence": 7.0})
    with monkeypatch.context() as patch:
        patch.setattr(learner._tuner, "_judge", lambda candidate: refused)
        learner.learn("count", examples(0))
    assert access.store is not None
    [kept] = read_quarantine(access.store)
    assert (kept.version, kept.base_version, kept.check, kept.reason) == (2, 1, "losses", "made worse on purpose")
    assert (kept.candidate_loss, kept.live_loss, kept.metrics) == (3.0, 2.0, {"loss_evidence": 7.0})
    assert (kept.first_offsets, kept.last_offsets) == ({"clicks/0": 0}, {"clicks/0": 39})
    assert [event.steps for event in read_batch(access.store, kept)] == [example.steps for example in examples(0)]
    assert kept.payload_uri is not None
    payload = access.store.read_file(kept.payload_uri)
    assert hashlib.sha256(payload).hexdigest() == kept.payload_sha256
    learner.learn("count", examples(40))
    # What went out is another candidate, under the version that the refused one would have had.
    [_, delta] = manifests(fresh_topics)
    assert (delta.version, delta.payload_sha256 == kept.payload_sha256) == (2, False)


def test_candidates_are_tried_on_the_histories_that_the_operator_names(fresh_topics: str, store: OnlineStore, tmp_path: Path) -> None:
    file = tmp_path / "trusted.jsonl"
    file.write_bytes(encode_json([HistoryEntry("item-1", "view", 1), HistoryEntry("item-2", "view", 2)]) + b"\n")
    learner = trainer(fresh_topics, store, access=ModelAccess(trusted_set=file))
    assert not learner._tuner.gate.trusted.is_open


def test_now_and_then_a_snapshot_repeats_the_newest_version_whole(fresh_topics: str, store: OnlineStore) -> None:
    learner = trainer(fresh_topics, store)
    place = 0
    while learner._newest_version < SNAPSHOT_EVERY:
        # The gate may refuse a round or two of such a small shop.
        learner.learn("count", examples(10 * place, 10))
        place += 1
    delta, snapshot = manifests(fresh_topics)[-2:]
    assert (delta.kind, snapshot.kind) == ("delta", "snapshot")
    assert (
        (delta.version, delta.weights_sha256) == (snapshot.version, snapshot.weights_sha256) == (SNAPSHOT_EVERY, learner._tuner.live.sha256)
    )
    copy, newest = resume(fresh_topics)
    assert newest == snapshot
    assert same_weights(copy, learner._tuner.live)


def test_what_goes_out_is_signed_stored_and_says_what_it_learned(fresh_topics: str, store: OnlineStore, tmp_path: Path) -> None:
    access = access_in(tmp_path)
    learner = trainer(fresh_topics, store, access=access)
    learner.learn("count", examples(0))
    start, delta = manifests(fresh_topics)
    key = access.key()
    assert key is not None
    assert start.key_id == delta.key_id == key.key_id
    assert (delta.window_start_ms, delta.window_end_ms) == (0, 39)
    assert delta.shapes["positions"] == [20, 64]
    assert access.store is not None
    assert [one.update for one in access.store.manifests()] == [start]
    unsigned = trainer(fresh_topics, store, access=ModelAccess(access.trusted))
    assert same_weights(unsigned._tuner.live, learner._tuner.live)
    unsigned.learn("count", examples(40))
    assert same_weights(resume(fresh_topics, access=access)[0], learner._tuner.live), "nobody believes what is not signed"


def test_a_learner_whose_topics_are_gone_goes_on_from_the_store_with_a_chain_of_higher_versions(
    fresh_topics: str, store: OnlineStore, tmp_path: Path
) -> None:
    access = access_in(tmp_path)
    first = access.key()
    assert first is not None
    assert access.store is not None
    weights = ModelCopy()
    weights.add_items(["lamp"])
    payload = snapshot_payload(weights)
    told = {"payload_offset": 7, "created_ms": 1, "learned_events": 9, "learned_offsets": {"clicks/0": 1_000_000}, "key_id": first.key_id}
    stored = manifest_of(payload, "snapshot", (60, "a" * 64), 60, "a" * 64, **told)
    access.store.put(stored, payload, encode(stored), first.sign(encode(stored)))
    learner = trainer(fresh_topics, store, access=access)
    assert learner._tuner.live.items == ["", "lamp"]
    learner.learn("count", examples(0))
    assert [(update.kind, update.version) for update in manifests(fresh_topics)] == [("snapshot", 61), ("delta", 62)]


def test_a_candidate_that_the_gate_refuses_is_not_published(fresh_topics: str, store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = trainer(fresh_topics, store)
    run = learner._tuner.run

    def ruined(*arguments: Any, **named: Any) -> Round:
        learned = run(*arguments, **named)
        return Round(Verdict(False, "made worse on purpose"), learned.touched, learned.new_items, learned.losses)

    with monkeypatch.context() as patch:
        patch.setattr(learner._tuner, "run", ruined)
        learner.learn("count", examples(0))
    learner.learn("count", examples(40))
    assert [(update.base_version, update.version) for update in manifests(fresh_topics)] == [(1, 1), (1, 2)]
    # The chain is whole: whoever follows it has what the learner has.
    assert same_weights(resume(fresh_topics)[0], learner._tuner.live)


def test_a_shopper_who_is_new_to_the_learner_brings_the_past_that_the_online_store_has() -> None:
    row = UserRow(shopper_id="ada", history=[HistoryEntry("lamp", "view", 1), HistoryEntry("bulb", "cart", 5)], steps=2)
    histories = ShopperHistories(lambda shoppers: [row if shopper == "ada" else None for shopper in shoppers])
    # The row already holds the event of time 5, which is the one to be learned.
    first, lamp = example("ada", "bulb", 5, "cart"), row.history[0]
    assert histories.extend([first]) == [NewSteps("ada", [lamp, *first.steps], 1)]
    later, other = example("ada", "vase", 6), example("ben", "vase", 6)
    assert histories.extend([later, other]) == [
        NewSteps("ada", [lamp, *first.steps, *later.steps], 1),
        NewSteps("ben", [*other.steps], 1),
    ]


def test_each_shopper_of_a_round_has_one_history_of_bounded_length_that_tells_what_is_new() -> None:
    histories = ShopperHistories(lambda shoppers: [None] * len(shoppers), length=5, shoppers=2)
    found = histories.extend([example(f"s{number % 3}", str(number), number) for number in range(60)])
    assert [(len(newest.history), newest.fresh) for newest in found] == [(5, 5)] * 3
    assert found[0].history[-1].item_id == "57"
    assert len(histories._histories) == 2
    [newest] = histories.extend([example("s1", "last", 60), example("s1", "very last", 61)])
    assert (newest.fresh, newest.history[-1].item_id) == (2, "very last")


def test_price_and_category_of_an_event_reach_the_tuner(fresh_topics: str, store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = trainer(fresh_topics, store)
    seen: list[list[HistoryEntry]] = []
    run = learner._tuner.run

    def watched(histories: list[list[HistoryEntry]], *arguments: Any, **named: Any) -> Round:
        seen.extend(histories)
        return run(histories, *arguments, **named)

    monkeypatch.setattr(learner._tuner, "run", watched)
    step = HistoryEntry("lamp", "purchase", 7, price=9.5, category="lights")
    learner.learn("count", [Example("ada", (step,), 7, 7, "purchases/0", 0)])
    assert seen == [[step]]


def test_the_learner_rests_only_where_what_comes_in_is_old_already() -> None:
    assert rest_s(0.5, newest_ms=10_000, now_ms=12_500) == 1.5
    assert rest_s(0.5, newest_ms=11_000, now_ms=12_500) == 0.0
    assert rest_s(0.5, newest_ms=None, now_ms=12_500) == 0.0


def same_weights(one: ModelCopy, other: ModelCopy) -> bool:
    return (one.version, one.sha256) == (other.version, other.sha256) and snapshot_payload(one) == snapshot_payload(other)
