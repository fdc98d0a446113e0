"""Reports of what became of lists, on a real Kafka: they decide, so only signed ones count, and each once."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from counted import by_reason
from msgspec.structs import replace
from weights_chain import Chain

from headrace.online_model.list_outcomes import MadeList
from headrace.schemas import Click, HistoryEntry, ReleaseOutcomes, UserRow, VersionOutcome, encode
from headrace.schemas.events import Attribution
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import CLICKS, RELEASE_OUTCOMES
from headrace.schemas.wire import now_ms
from headrace.streams import kafka as clients
from headrace.streams import metrics
from headrace.streams.gateway_parts import GatewayParts
from headrace.streams.model_access import ModelAccess
from headrace.streams.model_list import read_models
from headrace.streams.outcome_reports import OutcomeReader, OutcomeReports
from headrace.streams.release_manager import ReleaseManager
from headrace.streams.signed_records import open_record, sign, signature_header
from headrace.streams.signing import SigningKey, TrustedKeys


def refused() -> dict[str, float]:
    return by_reason(metrics.OUTCOMES_REFUSED)


def newly_refused(before: dict[str, float]) -> dict[str, float]:
    return {reason: count - before.get(reason, 0.0) for reason, count in refused().items() if count > before.get(reason, 0.0)}


def report(*versions: tuple[int, str, int, int], instance: str = "recommender-1", began_ms: int | None = None) -> ReleaseOutcomes:
    began = now_ms() if began_ms is None else began_ms
    seen = [
        VersionOutcome(version=version, lane="trial" if lane == "trial" else "stable", answered=n, hits=h, reciprocal_ranks=0.0, sequence=1)
        for version, lane, n, h in versions
    ]
    return ReleaseOutcomes(model=MODEL, instance=instance, started_ms=began, ended_ms=began + 1000, versions=seen)


def publish(bootstrap: str, outcomes: ReleaseOutcomes, key: SigningKey | None, times: int = 1) -> None:
    _, value, signature = sign(outcomes, key)
    send(bootstrap, value, signature, times)


def send(bootstrap: str, value: bytes, signature: bytes | None, times: int = 1) -> None:
    producer = clients.producer(bootstrap, "test")
    for _ in range(times):
        producer.produce(RELEASE_OUTCOMES.name, value, MODEL, headers=signature_header(signature))
    assert producer.flush(10.0) == 0


def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def records(bootstrap: str) -> list[tuple[bytes, list[tuple[str, bytes]]]]:
    """The values of all reports, and their headers."""
    consumer = clients.consumer(bootstrap, "test")
    low, end = clients.watermarks(consumer, RELEASE_OUTCOMES.name, 0)
    found = [
        (
            record.value() or b"",
            [(name, value if isinstance(value, bytes) else str(value).encode()) for name, value in record.headers() or []],
        )
        for record in clients.records_before(consumer, RELEASE_OUTCOMES, low, end, 10.0)
    ]
    consumer.close()
    return found


def test_hits_and_clicks_are_reported_signed(fresh_topics: str, key: SigningKey, trusted: TrustedKeys) -> None:
    reports = OutcomeReports(fresh_topics, "recommender-1", signing=key)
    reports.start()
    made = MadeList("list-1", 7, "trial", 1, "lamp", ("bulb", "vase"), 3)
    reports.outcomes.remember("ann", made)
    click = Click(event_id="e", user_id="ann", item_id="bulb", event_time_ms=1, attribution=Attribution(recommendation_id="list-1"))
    producer = clients.producer(fresh_topics, "test")

    def is_told() -> bool:
        # The reports begin at the end of the topic, wherever that is when their thread comes to look.
        producer.produce(CLICKS.name, encode(click), "ann")
        assert producer.flush(10.0) == 0
        found = [open_record(ReleaseOutcomes, value, tags, trusted) for value, tags in records(fresh_topics)]
        return any(seen.clicks for outcomes in found for seen in outcomes.versions)

    reports.outcomes.meet(UserRow(shopper_id="ann", steps=2, history=[HistoryEntry("lamp", "view", 1), HistoryEntry("bulb", "view", 2)]))
    until(is_told)
    reports.stop()
    found = [open_record(ReleaseOutcomes, value, tags, trusted) for value, tags in records(fresh_topics)]
    assert {outcomes.key_id for outcomes in found} == {key.key_id}
    seen = [seen for outcomes in found for seen in outcomes.versions]
    assert sum(one.hits for one in seen) == sum(one.answered for one in seen) == 1
    assert {(one.version, one.lane, one.sequence) for one in seen} == {(7, "trial", 3)}


@pytest.mark.parametrize("forgery", ["unsigned", "unknown key", "bad signature", "revoked"])
def test_forged_reports_promote_and_roll_back_nothing(
    fresh_topics: str, key: SigningKey, trusted: TrustedKeys, tmp_path: Path, forgery: str
) -> None:
    chain = Chain(fresh_topics, signing=key)
    chain.snapshot()
    manager = ReleaseManager(fresh_topics, key, trusted)
    until(lambda: (start := manager.step(0.1)) is not None and start.action == "start")
    chain.delta()
    before = refused()
    bad = report((1, "stable", 4000, 2000), (2, "trial", 9000, 90), instance="forger")
    if forgery == "bad signature":
        signed, _, signature = sign(report((2, "trial", 1, 1)), key)
        send(fresh_topics, encode(replace(bad, key_id=signed.key_id)), signature)
    else:
        other = None if forgery == "unsigned" else SigningKey.create(tmp_path / "forger")
        if forgery == "revoked" and other is not None:
            other.trust(trusted.folder)
            trusted.revoke(other.key_id)
        publish(fresh_topics, bad, other)
    until(lambda: manager.step(0.05) is not None or bool(newly_refused(before)))
    assert newly_refused(before) == {forgery: 1.0}
    assert all(manager.step(0.05) is None for _ in range(5))
    assert manager.policy.comparison().trial.answered == 0
    # Lists of models do not show it either.
    [newest, _] = read_models(fresh_topics, trusted).versions
    assert (newest.version, newest.outcomes) == (2, [])
    publish(fresh_topics, replace(bad, instance="recommender-1"), key)
    until(lambda: (found := manager.step(0.1)) is not None and found.action == "rollback")
    manager.close()


def test_a_report_that_is_sent_again_counts_once(fresh_topics: str, key: SigningKey, trusted: TrustedKeys) -> None:
    chain = Chain(fresh_topics, signing=key)
    chain.snapshot()
    manager = ReleaseManager(fresh_topics, key, trusted)
    until(lambda: manager.step(0.1) is not None)
    chain.delta()
    before = refused()
    publish(fresh_topics, report((1, "stable", 10, 5), (2, "trial", 20, 10)), key, times=5)
    until(lambda: manager.step(0.05) is not None or newly_refused(before).get("doubled") == 4.0)
    assert manager.policy.comparison().trial.answered == 20
    assert read_models(fresh_topics, trusted).versions[0].outcomes[0].answered == 20
    manager.close()


def test_without_trusted_keys_everything_counts_that_can_be_read() -> None:
    before = refused()
    reader = OutcomeReader()
    told = report((1, "trial", 1, 1))
    assert reader.read(encode(told), None, 0) == told
    assert reader.read(b"rubbish", None, 1) is None
    assert newly_refused(before) == {"unreadable": 1.0}


def test_a_gateway_signs_with_its_key_and_answers_without_one(
    fresh_topics: str, clean_redis: str, key: SigningKey, trusted: TrustedKeys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_key = GatewayParts(fresh_topics, clean_redis, "cpu", ModelAccess(trusted, signing_key=tmp_path / "signing.pem"))
    without = GatewayParts(fresh_topics, clean_redis, "cpu", ModelAccess(trusted, signing_key=tmp_path / "no" / "signing.pem"))
    assert "do not count" in caplog.text
    for parts, answered in ((with_key, 3), (without, 4)):
        parts.reports.outcomes.made(f"list-{answered}", (answered, "trial", 1))
        parts.reports.outcomes.clicked(f"list-{answered}")
        parts.reports.report()
        assert parts.reports._producer.flush(10.0) == 0
    reader = OutcomeReader(trusted)
    found = [outcomes for value, tags in records(fresh_topics) if (outcomes := reader.read(value, tags, 0)) is not None]
    assert [(one.instance, one.versions[0].version, one.versions[0].clicks) for one in found] == [("gateway", 3, 1)]
