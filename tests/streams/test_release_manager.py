"""Decisions on a real Kafka: what the manager makes of the topics, what counts of it, and that a bad version is gone within seconds."""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from confluent_kafka import Producer
from msgspec.structs import replace
from weights_chain import Chain

from headrace.online_model.release_policy import ReleaseRules
from headrace.online_model.weights import ModelCopy, chained_sha256, delta_payload
from headrace.schemas import Cause, DriftAlert, HistoryEntry, ModelRelease, ModelUpdate, ReleaseOutcomes, UserRow, VersionOutcome, encode
from headrace.schemas.model_releases import Lane
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import MODEL_RELEASES, RELEASE_OUTCOMES, USER_FEATURES
from headrace.schemas.wire import now_ms
from headrace.streams import kafka as clients
from headrace.streams.live_scorer import LiveScorer
from headrace.streams.model_list import read_models
from headrace.streams.recommender import Recommender
from headrace.streams.release_log import ReleaseLog, ReleasePublisher, ReleaseVoid, publish_and_wait
from headrace.streams.release_manager import ReleaseManager
from headrace.streams.release_requests import NotDecidable, ReleaseRequests
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.subscriber import Subscriber

CLUSTERS, CLUSTER = 120, 15
ITEMS = [f"item-{number}" for number in range(CLUSTERS * CLUSTER)]
# Half and half, at half of 500 events a second: this machine may be busy with other things.
RULES = ReleaseRules(trial_share=0.5)


def decided(manager: ReleaseManager, timeout_s: float = 20.0) -> ModelRelease:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        release = manager.step(0.1)
        if release is not None:
            return release
    raise TimeoutError("the manager has decided nothing")


def report(bootstrap: str, *seen: tuple[int, Lane, int, int], started_ms: int | None = None) -> None:
    began = now_ms() if started_ms is None else started_ms
    outcomes = [VersionOutcome(version=v, lane=lane, answered=n, hits=h, reciprocal_ranks=0.0, sequence=1) for v, lane, n, h in seen]
    message = ReleaseOutcomes(model=MODEL, instance="test", started_ms=began, ended_ms=began + 1000, versions=outcomes)
    producer = clients.producer(bootstrap, "test")
    producer.produce(RELEASE_OUTCOMES.name, encode(message), MODEL)
    assert producer.flush(10.0) == 0


def alerts(bootstrap: str) -> list[DriftAlert]:
    found: list[DriftAlert] = []
    with Subscriber(bootstrap, DriftAlert, start="beginning") as subscriber:
        while (alert := subscriber.poll(2.0)) is not None:
            found.append(alert)
    return found


def test_a_manager_that_starts_again_is_where_it_was_and_tells_of_a_rollback(fresh_topics: str) -> None:
    chain = Chain(fresh_topics)
    chain.snapshot()
    first = ReleaseManager(fresh_topics)
    start = decided(first)
    assert (start.action, start.sequence, start.stable_version, start.trial_share) == ("start", 1, 1, 0.9)
    first.close()
    chain.delta()
    chain.delta()
    report(fresh_topics, (1, "stable", 400, 200), (2, "trial", 1000, 500))
    report(fresh_topics, (1, "stable", 400, 200), (3, "trial", 3000, 300))
    second = ReleaseManager(fresh_topics)
    rollback = decided(second)
    assert (rollback.action, rollback.sequence, rollback.stable_version, rollback.withdrawn_to) == ("rollback", 2, 1, 3)
    assert (rollback.trial_share, rollback.evidence["stable_hit_rate"]) == (0.1, 0.5)
    # What it has reported of the withdrawn versions counts no more.
    assert all(second.step(0.05) is None for _ in range(5))
    second.close()
    third = ReleaseManager(fresh_topics)
    assert all(third.step(0.1) is None for _ in range(10))
    third.close()
    told = {alert.alert_id: alert for alert in alerts(fresh_topics)}
    assert set(told) == {"next-item-online_hit_rate-2"}
    alert = told["next-item-online_hit_rate-2"]
    assert (alert.signal, alert.detector, alert.kind) == ("online_hit_rate", "two-sample confidence sequence", "concept")
    assert alert.reaction.startswith("rolled back to version 1;")
    assert alert.level_before > alert.level_after


def test_only_signed_decisions_that_follow_on_the_last_one_count(fresh_topics: str, key: SigningKey, tmp_path: Path) -> None:
    trusted = TrustedKeys(tmp_path / "trusted")
    start = ModelRelease(
        model=MODEL, sequence=1, action="start", stable_version=1, stable_sha256="a" * 64, trial_share=0.9, reason="test",
        decided_by="test", decided_ms=1, key_id=key.key_id,
    )  # fmt: skip
    ours, forger = ReleasePublisher(fresh_topics, "ours", key), ReleasePublisher(fresh_topics, "forger")
    log = ReleaseLog(fresh_topics, "reader", trusted)
    publish_and_wait(log, ours, start)
    forger.publish(replace(start, sequence=2, action="rollback", stable_version=0))
    other = SigningKey.create(tmp_path / "other")
    ReleasePublisher(fresh_topics, "other", other).publish(replace(start, sequence=2, action="pin", key_id=other.key_id))
    with pytest.raises(ReleaseVoid, match="decision 1"):
        publish_and_wait(log, ours, replace(start, stable_version=7))
    ours.publish(replace(start, sequence=3, action="pin"))
    publish_and_wait(log, ours, replace(start, sequence=2, action="promote", stable_version=5))
    ours.publish(replace(start, sequence=2, action="promote", stable_version=6))
    log.poll(1.0)
    assert [(release.sequence, release.stable_version) for release in log.counted] == [(1, 1), (2, 5)]
    # Whoever begins to read later comes to the same.
    assert ReleaseLog(fresh_topics, "late", trusted).state == log.state
    producer = clients.producer(fresh_topics, "test")
    producer.produce(MODEL_RELEASES.name, b"{nonsense", MODEL, partition=0)
    producer.flush(10.0)
    assert not log.poll(2.0)


def test_an_operator_promotes_pins_and_rolls_back_what_can_be_loaded(fresh_topics: str, key: SigningKey, tmp_path: Path) -> None:
    chain = Chain(fresh_topics)
    chain.snapshot()
    operator = ReleaseRequests(fresh_topics, "ada", key, None)
    with pytest.raises(NotDecidable, match="no version is stable yet"):
        operator.pin("too early")
    with pytest.raises(NotDecidable, match="name one with --to"):
        operator.rollback("too early")
    operator.promote(1, "the first")
    chain.delta()
    chain.delta()
    chain.snapshot()
    with pytest.raises(NotDecidable, match=r"version 2 was not published whole.*promote one of: 1, 3"):
        operator.promote(2, "no")
    promoted = operator.promote(3, "good")
    with pytest.raises(NotDecidable, match="stable one already"):
        operator.promote(3, "again")
    with pytest.raises(NotDecidable, match="nothing after version 3"):
        operator.rollback("nothing to go back from")
    chain.delta()
    assert operator.pin("hold it").pinned
    with pytest.raises(NotDecidable, match="pinned already"):
        operator.pin("again")
    found = read_models(fresh_topics)
    assert (found.stable_version, found.newest_version, found.pinned, found.trial_share) == (3, 4, True, 0.0)
    assert [(one.version, one.standing, one.whole) for one in found.versions] == [
        (4, "newest", False), (3, "stable", True), (2, "passed", False), (1, "passed", True),
    ]  # fmt: skip
    assert not operator.unpin("go on").pinned
    back = operator.rollback("bad from 3 on", to=1)
    assert (back.stable_version, back.withdrawn_to, back.trial_share) == (1, 4, 0.1)
    with pytest.raises(NotDecidable, match="version 3 was withdrawn"):
        operator.promote(3, "no")
    found = read_models(fresh_topics)
    assert [one.standing for one in found.versions] == ["withdrawn", "withdrawn", "withdrawn", "stable"]
    assert [one.action for one in found.decisions] == ["rollback", "unpin", "pin", "promote", "promote"]
    assert found.decisions[0].key_id == key.key_id == promoted.key_id


def test_a_scorer_that_starts_after_a_rollback_comes_to_what_the_others_serve(fresh_topics: str) -> None:
    chain = Chain(fresh_topics)
    chain.snapshot()
    operator = ReleaseRequests(fresh_topics, "ada")
    operator.promote(1, "the first")
    stable = chain.at(1)
    chain.delta()
    chain.delta()
    chain.snapshot()
    old = LiveScorer(fresh_topics, "old", "cpu")
    old.start()
    wait_for(lambda: old.lanes.is_settled and old.lanes.trial.version == 3, "version 3 is on trial", 20.0)
    operator.rollback("bad")
    wait_for(lambda: old.lanes.is_settled and old.lanes.trial.version == 1, "the old one is back", 20.0)
    # One starts while nothing builds on the stable version yet, and one when something does.
    early = LiveScorer(fresh_topics, "early", "cpu")
    early.start()
    wait_for(lambda: early.lanes.is_settled and early.lanes.trial.version == 1, "the early one has the stable version", 20.0)
    chain.copy = stable
    fork = chain.delta(version=4)
    late = LiveScorer(fresh_topics, "late", "cpu")
    late.start()
    for live in (old, early, late):
        wait_for(lambda live=live: live.lanes.trial.sha256 == fork.weights_sha256, "what builds on version 1 is on trial", 20.0)  # type: ignore[misc]
        assert (live.lanes.stable.version, live.lanes.is_settled, live.lanes.sequence) == (1, True, 2)
        live.stop()
        assert live.failure is None


class Shop:
    """Shoppers whose next item is one of those whose vectors are alike, so that it takes the Transformer to foresee it."""

    def __init__(self, bootstrap: str) -> None:
        self.sent = 0
        self._bootstrap = bootstrap
        self._random = random.Random(1)
        self._rows: dict[str, UserRow] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        producer = clients.producer(self._bootstrap, "shop")
        while not self._stop.wait(0.02):
            for _ in range(5):
                self._step(producer)
            producer.poll(0)
        producer.flush(10.0)

    def _step(self, producer: Producer) -> None:
        shopper = f"shopper-{self._random.randrange(400)}"
        before = self._rows.get(shopper)
        cluster = int(before.history[-1].item_id.partition("-")[2]) // CLUSTER if before else self._random.randrange(CLUSTERS)
        item = ITEMS[cluster * CLUSTER + self._random.randrange(CLUSTER)]
        history = [*(before.history[-9:] if before else []), HistoryEntry(item, "view", 1000 * self.sent)]
        self.sent += 1
        cause = Cause(event_id=f"event-{self.sent}", published_ms=now_ms())
        row = UserRow(shopper_id=shopper, history=history, steps=(before.steps if before else 0) + 1, cause=cause)
        self._rows[shopper] = row
        producer.produce(USER_FEATURES.name, encode(row), shopper)


class Author(Chain):
    """Publishes weights by which items of a cluster are alike, or which say nothing."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap, items=0)
        self.copy.add_items(ITEMS)
        self._clusters = torch.randn(CLUSTERS, self.copy.model.shape.width).repeat_interleave(CLUSTER, 0)
        self._put(self._clusters)

    def publish(self, version: int, *, good: bool, base: ModelCopy | None = None) -> ModelUpdate:
        """Publish a delta on the newest version, or on a copy of another."""
        if base is not None:
            self.copy = base
        kept = ModelCopy()
        kept.copy_from(self.copy)
        self._put(self._clusters + 0.01 * torch.randn_like(self._clusters) if good else torch.randn_like(self._clusters))
        payload = delta_payload(self.copy, torch.arange(1, len(ITEMS) + 1), (), base=kept)
        name = chained_sha256(kept.sha256, hashlib.sha256(payload).hexdigest())
        update = self._publish("delta", payload, version, name)
        self.copy.take_own(payload, (), version, name)
        return update

    def _put(self, vectors: torch.Tensor) -> None:
        self.copy.put_rows(torch.arange(1, len(ITEMS) + 1), vectors)


@contextmanager
def running(*parts: Callable[[threading.Event], None]) -> Iterator[list[BaseException]]:
    stop, failures = threading.Event(), list[BaseException]()

    def run(part: Callable[[threading.Event], None]) -> None:
        try:
            part(stop)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(part,), daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join(20.0)


def wait_for(holds: Callable[[], bool], what: str, timeout_s: float) -> float:
    """Return after how many seconds it was so."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < timeout_s, what
        time.sleep(0.05)
    return time.monotonic() - began_s


def test_a_bad_version_that_goes_live_is_rolled_back_by_itself_within_ten_seconds(fresh_topics: str) -> None:
    author = Author(fresh_topics)
    author.snapshot()
    stable = ModelCopy()
    stable.copy_from(author.copy)
    recommender, manager, shop = Recommender(fresh_topics, "cpu"), ReleaseManager(fresh_topics, rules=RULES), Shop(fresh_topics)
    lanes = recommender.live.lanes
    log = ReleaseLog(fresh_topics, "test")

    def outcome(action: str) -> bool:
        log.poll(0)
        return log.state.newest is not None and log.state.newest.action == action

    with running(lambda stop: recommender.run(stop, threading.Event()), lambda stop: manager.run(stop, threading.Event())) as failures:
        wait_for(lambda: outcome("start") and lanes.is_settled, "version 1 is stable", 20.0)
        shop.start()
        author.publish(2, good=True)
        wait_for(lambda: lanes.trial.version == 2, "version 2 is on trial", 20.0)
        # The shop goes on for a while, and nothing is rolled back.
        wait_for(lambda: manager.policy.comparison().stable.answered > 200, "the lanes are compared", 60.0)
        assert len(log.counted) == 1
        author.publish(3, good=False)
        wait_for(lambda: lanes.trial.version == 3, "version 3 is live", 20.0)
        sent, seconds = shop.sent, wait_for(lambda: outcome("rollback"), "version 3 is rolled back", 60.0)
        traffic = shop.sent - sent
        wait_for(lambda: lanes.is_settled and lanes.trial.version == 1, "everyone is answered by version 1", 5.0)
        # The learner goes on from the stable weights.
        author.publish(4, good=True, base=stable)
        wait_for(lambda: lanes.trial.version == 4, "version 4, which builds on 1, is on trial", 10.0)
        shop.stop()
    assert failures == []
    print(f"rolled back after {seconds:.1f} s and {traffic} events; {log.state.newest.reason if log.state.newest else ''}")
    # As many as 500 events a second are in ten seconds.
    assert traffic <= 5000
    decision = log.state.newest
    assert decision is not None
    assert (decision.stable_version, decision.withdrawn_to) == (1, 3)
    [alert] = alerts(fresh_topics)
    assert "rolled back to version 1" in alert.reaction
    assert lanes.stable.version == 1
