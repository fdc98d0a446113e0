"""The watchtower: one episode for each drift, told with its causes, ended when all stands still; silence where nothing drifts."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from headrace.online_model.watching.configuration import Configuration, Watch
from headrace.online_model.watching.episodes import EpisodeChange, alert_of
from headrace.online_model.watching.signals import Batch, Observation
from headrace.online_model.watching.watchtower import Watchtower
from headrace.schemas import DriftAlert, decode, encode
from headrace.schemas.drift_alerts import DriftReaction

BEGIN_MS, STEP_MS, BATCH = 1_700_000_000_000, 20_000, 1024
DAY_MS = 86_400_000
# A Wednesday after two weeks, of whose hours something is known.
PLANTED_AT = 64 * BATCH
PLANTED_MS = BEGIN_MS + PLANTED_AT * STEP_MS
EVENTS = 96 * BATCH

CONFIGURATION = Configuration(
    (
        Watch("lasting_loss", direction="up", transform="sqrt", kind="concept", severity="critical", reaction="learn_faster"),
        Watch("hit_rate", direction="down", kind="concept"),
        Watch("gap"),
        Watch("category"),
    )
)


def stream(
    events: int = EVENTS,
    *,
    seed: int = 1,
    loss: float = 0.0,
    hits: float = 0.0,
    tents: float = 0.0,
    swing: float = 0.0,
    at: int = PLANTED_AT,
) -> Iterator[Batch]:
    """Yield batches of events, one each 20 seconds: from event `at` on, loss and hits move by so much, and more events are of tents.

    `swing` is how far the loss goes up and down with the hour of the day.
    """
    random = np.random.default_rng(seed)
    for begin in range(0, events, BATCH):
        is_after = begin >= at
        times_ms = BEGIN_MS + (begin + np.arange(BATCH)) * STEP_MS
        share = 0.3 + tents * is_after
        names = random.choice(["tents", "boots", "lamps"], BATCH, p=[share, 0.6 - share / 2, 0.4 - share / 2]).tolist()
        lasting_loss = random.gamma(4.0, 0.5, BATCH) + loss * is_after + swing * (1 + np.sin(2 * np.pi * times_ms / DAY_MS))
        hit = (random.random(BATCH) < 0.3 + hits * is_after).astype(np.float64)
        values = {"lasting_loss": lasting_loss, "hit_rate": hit, "gap": random.normal(3.0, 1.0, BATCH)}
        yield Batch(times_ms, values, {"category": names}, {"category": names})


def told_by(tower: Watchtower, batches: Iterator[Batch]) -> list[EpisodeChange]:
    return [change for batch in batches for change in tower.observe(batch)]


@pytest.fixture(scope="module")
def both_moved() -> list[EpisodeChange]:
    """What is told where losses rise and hits fall together."""
    return told_by(Watchtower(CONFIGURATION), stream(loss=1.0, hits=-0.2))


def test_a_planted_drift_is_one_episode_that_begins_and_ends(both_moved: list[EpisodeChange]) -> None:
    states = [change.state for change in both_moved]
    assert states[0] == "started"
    assert states[-1] == "resolved"
    assert set(states[1:-1]) <= {"ongoing"}
    assert len({change.episode_id for change in both_moved}) == 1


def test_the_beginning_is_told_soon_with_levels_and_since_when(both_moved: list[EpisodeChange]) -> None:
    started = both_moved[0]
    assert started.signal == "lasting_loss"
    assert (started.kind, started.severity, started.reaction, started.detector) == ("concept", "critical", "learn_faster", "windows")
    assert PLANTED_AT < started.observations <= PLANTED_AT + 2 * BATCH
    assert started.time_ms >= PLANTED_MS
    assert abs(started.since_ms - PLANTED_MS) <= 512 * STEP_MS
    assert (started.level_before, started.level_after) == pytest.approx((2.0, 3.0), abs=0.3)
    assert 0.0 < started.p_value < 1e-5


def test_signals_that_move_together_are_told_together(both_moved: list[EpisodeChange]) -> None:
    resolved = both_moved[-1]
    assert set(resolved.signals) == {"lasting_loss", "hit_rate"}
    assert both_moved[0].causes[0].signal == "lasting_loss"
    levels = {cause.signal: (cause.level_before, cause.level_after) for cause in resolved.causes if not cause.segment}
    assert levels["hit_rate"] == pytest.approx((0.3, 0.1), abs=0.05)
    assert sum(cause.share for cause in resolved.causes if not cause.segment) == pytest.approx(1.0)
    assert [cause.share for cause in resolved.causes] == sorted((cause.share for cause in resolved.causes), reverse=True)
    assert "gap" not in resolved.signals


@pytest.mark.parametrize(("change", "signal"), [({"hits": -0.12}, "hit_rate"), ({"tents": 0.15}, "category=tents")])
def test_the_signal_that_moved_is_the_first_cause(change: dict[str, float], signal: str) -> None:
    told = told_by(Watchtower(CONFIGURATION), stream(80 * BATCH, **change))
    assert [each.state for each in told].count("started") == 1
    assert told[0].causes[0].signal == signal
    assert told[0].signal == signal.split("=")[0]
    assert told[0].signals[0] == signal


@pytest.mark.parametrize("better", [{"loss": -0.5}, {"hits": 0.1}])
def test_what_moves_the_way_nobody_minds_is_not_told(better: dict[str, float]) -> None:
    assert told_by(Watchtower(CONFIGURATION), stream(88 * BATCH, **better)) == []


def test_a_long_stream_without_drift_is_silent() -> None:
    assert told_by(Watchtower(CONFIGURATION), stream(300 * BATCH, seed=4)) == []


def test_the_shipped_watches_are_silent_without_drift() -> None:
    assert told_by(Watchtower(), stream(100 * BATCH, seed=5)) == []


def test_nights_and_days_are_no_drift() -> None:
    # 27 days with some 4,300 events each, whose loss swings by more than the planted drift of the other tests.
    assert told_by(Watchtower(CONFIGURATION), stream(114 * BATCH, seed=6, swing=0.5)) == []


def test_a_drift_shows_through_nights_and_days() -> None:
    told = told_by(Watchtower(CONFIGURATION), stream(114 * BATCH, seed=6, swing=0.5, loss=1.0, at=100 * BATCH))
    assert told[0].state == "started"
    assert len({change.episode_id for change in told}) == 1
    assert told[0].causes[0].signal == "lasting_loss"


def test_an_episode_that_lasts_is_told_again_and_again() -> None:
    tower = Watchtower(replace(CONFIGURATION, ongoing_events=4096))
    batches = [*stream(80 * BATCH, loss=0.5)]
    states = [change.state for change in told_by(tower, iter(batches))]
    assert states.count("started") == 1
    assert "ongoing" in states
    assert states[-1] == "resolved"


def test_signals_tell_their_state() -> None:
    tower = Watchtower(CONFIGURATION)
    assert tower.state() == []
    batches = stream(68 * BATCH, loss=0.5)
    tower.observe(next(batches))
    assert {signal.name: signal.state for signal in tower.state()} == dict.fromkeys(("lasting_loss", "hit_rate", "gap"), "warming_up")
    told_by(tower, batches)
    signals = {signal.name: signal for signal in tower.state()}
    assert (signals["lasting_loss"].state, signals["gap"].state) == ("drifting", "stable")
    assert signals["lasting_loss"].since_ms is not None
    assert signals["gap"].since_ms is None
    assert (signals["lasting_loss"].level, signals["gap"].level) == pytest.approx((2.5, 3.0), abs=0.15)
    assert sum(signals["gap"].histogram_now) == pytest.approx(1.0)
    assert (len(signals["gap"].histogram_then), len(signals["gap"].edges)) == (16, 17)


@pytest.mark.parametrize("cut", [20, 65], ids=["before the drift", "while it lasts"])
def test_a_tower_goes_on_after_a_restart_as_if_there_had_been_none(cut: int) -> None:
    batches = [*stream(80 * BATCH, loss=0.5, hits=-0.1)]
    straight, stopped, taken_up = (Watchtower(replace(CONFIGURATION, explain_by=())) for _ in range(3))
    expected = [straight.observe(batch) for batch in batches]
    told = [stopped.observe(batch) for batch in batches[:cut]]
    taken_up.restore(json.loads(json.dumps(stopped.saved())))
    told += [taken_up.observe(batch) for batch in batches[cut:]]
    assert any(expected)
    assert told == expected
    assert taken_up.state() == straight.state()
    assert json.loads(json.dumps(taken_up.saved())) == json.loads(json.dumps(straight.saved()))


def test_the_state_of_other_watches_is_refused() -> None:
    tower = Watchtower(CONFIGURATION)
    told_by(tower, stream(BATCH))
    saved = tower.saved()
    with pytest.raises(ValueError, match=r"signals: \['hit_rate'\] were expected; saved were \['lasting_loss', "):
        Watchtower(Configuration((Watch("hit_rate"),))).restore(saved)
    with pytest.raises(ValueError, match="planes: some of consumer_lag were expected; saved was events"):
        Watchtower(Configuration((Watch("consumer_lag"),))).restore(saved)


def test_a_watch_may_be_narrowed_to_a_segment() -> None:
    watches = tuple(Watch("lasting_loss", direction="up", segment={"category": name}, kind="concept") for name in ("tents", "boots"))
    tower = Watchtower(Configuration(watches))
    told = []
    for batch in stream(80 * BATCH):
        moved = (np.array(batch.segments["category"]) == "tents") & (batch.times_ms >= PLANTED_MS)
        told += tower.observe(replace(batch, values={"lasting_loss": batch.values["lasting_loss"] + moved}))
    assert told[0].state == "started"
    assert {change.segment["category"] for change in told} == {"tents"}
    assert tower.state()[1].state == "stable"


def test_services_are_watched_value_by_value() -> None:
    random = np.random.default_rng(9)
    tower = Watchtower(Configuration((Watch("consumer_lag", kind="service", direction="up", warm_up=512),)))
    told = []
    for second in range(3000):
        told += tower.observe_one(
            Observation("consumer_lag", random.normal(100.0 if second < 2500 else 150.0, 10.0), BEGIN_MS + second * 1000)
        )
    assert [change.state for change in told][:1] == ["started"]
    assert told[0].kind == "service"
    assert 2500 < told[0].observations < 2700


def test_a_detector_of_another_kind_must_have_heard_the_change_too() -> None:
    configuration = Configuration((Watch("lasting_loss", direction="up", detector="adwin", kind="concept"),))
    told = told_by(Watchtower(configuration), stream(80 * BATCH, loss=0.5))
    assert told[0].detector == "adwin"
    assert told[0].observations > PLANTED_AT
    assert told_by(Watchtower(configuration), stream(80 * BATCH)) == []


def test_nothing_comes_of_nothing() -> None:
    tower = Watchtower(CONFIGURATION)
    assert tower.observe(Batch(np.empty(0, np.int64))) == []
    assert tower.observe(Batch(np.array([BEGIN_MS]), {"top_score": np.array([1.0])})) == []
    assert tower.state() == []


def test_an_alert_says_what_the_change_says_and_can_be_sent(both_moved: list[EpisodeChange]) -> None:
    reactions = [DriftReaction(name="learn_faster", state="begun", begun_ms=both_moved[0].time_ms, quality_before=0.3)]
    alerts = [
        alert_of(change, model_version=7, created_ms=change.time_ms + 5, reaction="Learns faster.", reactions=reactions)
        for change in both_moved
    ]
    assert len({alert.alert_id for alert in alerts}) == len(alerts)
    for change, alert in zip(both_moved, alerts, strict=True):
        assert decode(DriftAlert, encode(alert)) == alert
        same = ("episode_id", "state", "kind", "severity", "signal", "detector", "level_before", "level_after", "window", "observations")
        for name in (*same, "since_ms", "p_value", "segment", "known_episode"):
            assert getattr(alert, name) == getattr(change, name)
        assert (alert.event_time_ms, alert.created_ms, alert.model_version) == (change.time_ms, change.time_ms + 5, 7)
        assert alert.signals == list(change.signals)
        assert alert.causes == list(change.causes)
        assert alert.reactions == reactions
