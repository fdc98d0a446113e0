"""The dashboard's parts by themselves: what is judged, folded, kept and sent."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Counter, Histogram

from headrace.online_model.ranker import Foreseen
from headrace.schemas import Cause, DriftAlert, DriftState, ModelRelease, ReleaseOutcomes, UserRow
from headrace.schemas.model_releases import VersionOutcome
from headrace.streams.dashboard.board import HEARTBEAT, Board, TooManyClients
from headrace.streams.dashboard.curves import COARSE_POINTS, COLUMNS, FINE_POINTS, Curves
from headrace.streams.dashboard.episodes import Episodes
from headrace.streams.dashboard.health import Standing, judge
from headrace.streams.dashboard.messages import Freshness, PartLag, Quality, Source
from headrace.streams.dashboard.own_metrics import CounterReader, HistogramReader
from headrace.streams.dashboard.signals import Signals
from headrace.streams.dashboard.sources import Sources
from headrace.streams.dashboard.taken import RowWatch
from headrace.streams.dashboard.versions import Decisions
from headrace.streams.dashboard.window import Behind, Samples

NOW_MS = 1_790_000_000_000
NOTHING = Freshness(p50_ms=None, p99_ms=None, samples=0)
ALERT = DriftAlert(
    alert_id="a-1",
    signal="loss",
    detector="ADWIN",
    severity="warning",
    level_before=3.0,
    level_after=4.0,
    window=300,
    observations=9000,
    model_version=7,
    event_time_ms=NOW_MS,
    created_ms=NOW_MS,
    reaction="told",
    episode_id="e-1",
)


def standing(**changes: Any) -> Standing:
    told: dict[str, Any] = {
        "now_ms": NOW_MS,
        "events_per_s": 480.0,
        "lag": [PartLag(part="learner", records=300, behind_s=0.8)],
        "freshness": {"feature": NOTHING, "recommendation": NOTHING, "weights": Freshness(p50_ms=1200.0, p99_ms=2400.0, samples=90)},
        "quality": Quality(live=0.31, popularity=0.07, tested=300, window_s=180),
        "newest_version_ms": NOW_MS - 2000,
        "going_on": [],
        "sources": [Source(name="Kafka offsets", seen_ms=NOW_MS - 500, expected_every_s=2.0)],
        "failures": [],
    }
    return Standing(**(told | changes))


def episodes(*alerts: DriftAlert) -> Episodes:
    found = Episodes()
    for alert in alerts:
        found.take(alert)
    return found


def test_health_is_told_in_one_sentence_with_the_figures_that_show_it() -> None:
    told = judge(standing())
    assert told.state == "healthy"
    assert told.sentence == (
        "480 events a second arrive and are in the served weights after 1.2 s; 31% of next steps are foreseen, 7% by popularity alone."
    )
    assert told.reasons == []
    assert judge(standing(events_per_s=0.0, newest_version_ms=1)).sentence == "All is quiet, no events arrive."


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"lag": [PartLag(part="learner", records=9000, behind_s=40.0)]}, "learning behind", "learner has not taken in 9,000 records"),
        ({"newest_version_ms": NOW_MS - 90_000}, "learning behind", "the newest weights are 90 s old though events arrive"),
        ({"going_on": episodes(ALERT).going_on(NOW_MS)}, "drift going on", "loss moved from 3 to 4"),
        ({"sources": [Source(name="x", seen_ms=NOW_MS - 9000, expected_every_s=2.0)]}, "stale", "x has told nothing for 9 s"),
        ({"sources": [Source(name="x", seen_ms=None, expected_every_s=2.0, trouble="gone")]}, "stale", "x: gone"),
        ({"failures": ["weights are no longer followed"]}, "stale", "weights are no longer followed"),
    ],
)
def test_what_is_amiss_names_the_state(changes: dict[str, Any], state: str, reason: str) -> None:
    told = judge(standing(**changes))
    assert told.state == state
    assert any(reason in one for one in told.reasons)
    assert reason.lower() in told.sentence.lower()


def test_of_several_troubles_the_gravest_names_the_state_and_all_are_reasons() -> None:
    told = judge(standing(failures=["torn"], going_on=episodes(ALERT).going_on(NOW_MS), newest_version_ms=NOW_MS - 90_000))
    assert (told.state, len(told.reasons)) == ("stale", 3)


def test_alerts_of_one_episode_are_one_episode_that_keeps_its_start_and_causes() -> None:
    later = replace(ALERT, alert_id="a-2", state="ongoing", created_ms=NOW_MS + 1000, level_after=5.0, model_version=9)
    resolved = replace(ALERT, alert_id="a-3", state="resolved", created_ms=NOW_MS + 2000)
    found = episodes(ALERT, later)
    [episode] = found.going_on(NOW_MS + 1500)
    assert (episode.started_ms, episode.level_after, episode.model_version) == (NOW_MS, 5.0, 7)
    found.take(resolved)
    assert found.going_on(NOW_MS + 2500) == []
    assert [one.state for one in found.drift(NOW_MS + 2500).episodes] == ["resolved"]
    assert [mark.time_ms for mark in found.marks()] == [NOW_MS]


def test_an_alert_outside_of_any_episode_is_history_after_three_minutes() -> None:
    found = episodes(replace(ALERT, episode_id=None))
    assert found.drift(NOW_MS + 100_000).going_on == 1
    assert found.drift(NOW_MS + 200_000).going_on == 0


def test_many_episodes_are_bounded() -> None:
    found = episodes(*(replace(ALERT, alert_id=f"a-{number}", episode_id=None) for number in range(500)))
    assert len(found.drift(NOW_MS).episodes) == 40


def test_a_decision_whose_turn_was_anothers_is_void_and_outcomes_are_added_up_by_lane() -> None:
    decisions = Decisions()
    first = ModelRelease(
        model="m",
        sequence=1,
        action="start",
        stable_version=3,
        stable_sha256="a" * 64,
        trial_share=0.9,
        reason="first",
        decided_by="manager",
        decided_ms=NOW_MS,
    )
    for release in (first, replace(first, sequence=2, action="rollback"), replace(first, sequence=2, stable_version=99)):
        decisions.take(release)
    hits = VersionOutcome(version=4, lane="trial", answered=10, hits=3, reciprocal_ranks=1.0)
    for ended_ms in (NOW_MS - 11 * 60_000, NOW_MS - 2000, NOW_MS - 1000):
        decisions.report(ReleaseOutcomes(model="m", instance="i", started_ms=ended_ms - 1000, ended_ms=ended_ms, versions=[hits]))
    shown = decisions.shown(NOW_MS)
    assert [(one.sequence, one.stable_version) for one in shown.decisions] == [(2, 3), (1, 3)]
    assert [(one.lane, one.version, one.answered, one.hits) for one in shown.outcomes] == [("trial", 4, 20, 6)]
    assert [mark.kind for mark in decisions.marks()] == ["rollback"]


def test_the_curves_hold_half_an_hour_finely_and_a_day_coarsely_and_no_more() -> None:
    curves = Curves(0)
    closed = [curves.add(1000 * second, {"events": 5}, {"lag_learner": second}) for second in range(1, 100_000)]
    assert sum(point is not None for point in closed) == pytest.approx(50_000, abs=2)
    fine, coarse = curves.history("fine"), curves.history("coarse")
    assert (len(fine.rows), len(coarse.rows)) == (FINE_POINTS, COARSE_POINTS)
    assert {len(row) for row in fine.rows} == {len(COLUMNS)}
    events = COLUMNS.index("events")
    assert {row[events] for row in fine.rows[1:]} == {10}
    assert {row[events] for row in coarse.rows[1:]} == {300}


def test_quantiles_forget_what_is_older_than_a_minute() -> None:
    samples = Samples()
    assert samples.freshness(0.0) == NOTHING
    samples.add(0.0, [1000.0] * 50)
    samples.add(50.0, [float(value) for value in range(1, 101)])
    assert samples.freshness(59.0).samples == 150
    assert samples.freshness(61.0) == Freshness(p50_ms=50.0, p99_ms=99.0, samples=100)


def test_a_part_is_behind_for_as_long_as_its_first_open_record_waits() -> None:
    behind = Behind()
    assert behind.seconds(0.0, 100, 0) == 0.0
    assert behind.seconds(1.0, 150, 50) == 0.0
    assert behind.seconds(2.0, 200, 100) == 1.0
    assert behind.seconds(9.0, 300, 200) == 8.0
    assert behind.seconds(10.0, 300, 100) == 1.0


def test_rows_are_noted_between_two_looks_and_handed_over_once() -> None:
    watch = RowWatch()
    row = UserRow(shopper_id="ada", cause=Cause(event_id="e", published_ms=NOW_MS))
    watch.see(NOW_MS + 7, row, [Foreseen(live=3, popularity=None), Foreseen(live=30, popularity=19)])
    watch.see(NOW_MS - 7, row, [])
    notes = watch.take()
    assert (notes.freshness_ms, notes.tested, notes.live_hits, notes.popularity_hits) == ([7.0, 0.0], 2, 1, 1)
    assert watch.take().rows == 0


def test_own_metrics_are_read_as_what_was_added() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", ["route"], buckets=(0.1, 0.2, 0.4), registry=registry)
    counter = Counter("c", "c", ["route"], registry=registry)
    times, counts = HistogramReader(histogram, _is_mine), CounterReader(counter, _is_mine)
    for value in (0.15, 0.3, 0.3, 9.0):
        histogram.labels("mine").observe(value)
        histogram.labels("other").observe(value)
        counter.labels("mine").inc()
    assert times.added() == pytest.approx([0.1414, 0.2828, 0.2828, 0.4], abs=0.001)
    assert (counts.added(), counts.added(), times.added()) == (4, 0, [])


def test_a_source_that_does_not_answer_keeps_its_age_and_says_why() -> None:
    sources = Sources()

    def fails() -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "away"))

    assert sources.ask("ends", lambda: 3, NOW_MS) == 3
    assert sources.ask("ends", fails, NOW_MS + 1000) is None
    [source] = sources.shown()
    assert (source.seen_ms, source.trouble) == (NOW_MS, "Kafka does not answer (away)")


def test_a_client_gets_all_first_then_what_has_changed_and_a_slow_one_what_is_newest() -> None:
    board = Board()
    board.put("now", {"value": 1})
    board.put("drift", {"going_on": 0})
    board.publish()
    revision, frame = board.frame(0)
    assert json.loads(frame) == {"revision": 1, "now": {"value": 1}, "drift": {"going_on": 0}}
    for value in range(2, 5):
        board.put("now", {"value": value})
        board.put("drift", {"going_on": 0})
        board.publish()
    assert json.loads(board.frame(revision)[1]) == {"revision": 4, "now": {"value": 4}}
    assert json.loads(board.frame(4)[1]) == {"revision": 4}


def test_streams_beat_while_nothing_happens_are_bounded_and_end_with_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.streams.dashboard.board.HEARTBEAT_S", 0.05)
    board = Board(most_clients=1)
    board.put("now", 1)
    board.publish()

    async def watch() -> Sequence[bytes]:
        with board.reserve() as changed:
            with pytest.raises(TooManyClients, match="1 clients watch already"):
                board.reserve()
            frames = board.frames(changed)
            seen = [await anext(frames) for _ in range(3)]
            board.put("now", 2)
            board.publish()
            seen.append(await anext(frames))
            board.close()
            return [*seen, *[frame async for frame in frames]]

    seen = asyncio.run(watch())
    assert seen == [
        b"retry: 2000\n\n",
        b'id: 1\ndata: {"revision":1,"now":1}\n\n',
        HEARTBEAT,
        b'id: 2\ndata: {"revision":2,"now":2}\n\n',
    ]
    assert board.clients == 0


def test_states_of_signals_are_kept_by_name_those_that_drift_first() -> None:
    signals = Signals()
    assert (signals.shown(), signals.newest_ms) == (None, None)
    for name, state in _STATES:
        signals.take(DriftState(signal=name, detector="KS", state=state, reported_ms=NOW_MS))
    assert [one.signal for one in signals.shown() or ()] == ["d", "b", "a"]


_STATES: list[tuple[str, Any]] = [("b", "stable"), ("a", "stable"), ("d", "drifting"), ("a", "warming_up")]


def _is_mine(labels: Any) -> bool:
    return bool(labels.get("route") == "mine")
