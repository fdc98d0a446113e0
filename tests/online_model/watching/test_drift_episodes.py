"""Episodes in a made-up shop: one for each drift, with causes and segments, and known when they come again; and what is told of events."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.online_model.watching.configuration import Configuration, Watch
from headrace.online_model.watching.episodes import EpisodeChange
from headrace.online_model.watching.signals import Batch, EventSignals, list_batch
from headrace.online_model.watching.watchtower import Watchtower
from headrace.schemas import HistoryEntry

DAY_MS = 86_400_000
START_MS = 1_736_121_600_000
PER_DAY = 8_000
BATCH = 512

Floats = NDArray[np.float64]

WATCHES = (
    Watch("prequential_loss", direction="up", kind="concept", severity="critical", reaction="learn_faster"),
    Watch("hit_rate", direction="down", kind="concept"),
    Watch("price"),
    Watch("gap"),
    Watch("category"),
    Watch("price", segment={"category": "tents"}),
)


def configured(**changes: object) -> Configuration:
    return Configuration(WATCHES, **changes)  # type: ignore[arg-type]


def shop(events: int, seed: int = 1, begin: int = 0) -> tuple[NDArray[np.int64], dict[str, Floats], list[str]]:
    """Events whose prices, categories and losses follow the hour, a tenth of a million ms apart."""
    random = np.random.default_rng([seed, begin])
    times = START_MS + (np.arange(begin, begin + events) * (DAY_MS / PER_DAY)).astype(np.int64)
    phase = 2 * np.pi * times / DAY_MS
    values = {
        "prequential_loss": random.gamma(2.0, 1.0, events) + 0.3 * np.sin(phase),
        "hit_rate": (random.random(events) < 0.4 + 0.05 * np.cos(phase)).astype(np.float64),
        "price": random.normal(3.0 + 0.5 * np.sin(phase), 1.0),
        "gap": random.normal(4.0, 2.0, events),
    }
    tents = random.random(events) < 0.3 + 0.15 * np.sin(phase)
    return times, values, np.where(tents, "tents", "towels").tolist()


Change = Callable[[int, dict[str, Floats], list[str]], None]


def watch(tower: Watchtower, events: int, change: Change | None = None, begin: int = 0, seed: int = 1) -> list[tuple[int, EpisodeChange]]:
    """Let the tower see events; `change` may move a batch's values, which begin at the event it is told."""
    told = []
    for first in range(begin, begin + events, BATCH):
        times, values, categories = shop(BATCH, seed, first)
        if change is not None:
            change(first, values, categories)
        batch = Batch(times, values, {"category": categories}, {"category": categories})
        told += [(first, each) for each in tower.observe(batch)]
    return told


DRIFT_AT = 120 * BATCH


def dearer(first: int, values: dict[str, Floats], categories: list[str]) -> None:
    if first >= DRIFT_AT:
        values["price"] += 0.5


def worse(first: int, values: dict[str, Floats], categories: list[str]) -> None:
    """The model fails more, mostly in tents."""
    if first >= DRIFT_AT:
        tents = np.array([name == "tents" for name in categories])
        values["prequential_loss"] += np.where(tents, 1.5, 0.1)
        values["hit_rate"] *= ~tents


def started(told: list[tuple[int, EpisodeChange]]) -> list[tuple[int, EpisodeChange]]:
    return [each for each in told if each[1].state == "started"]


def test_a_feature_that_shifts_is_told_once_and_named_first() -> None:
    told = watch(Watchtower(configured()), 200 * BATCH, dearer)
    [(at, alert)] = started(told)
    assert DRIFT_AT <= at < DRIFT_AT + 1500
    assert alert.causes[0].signal == "price"
    assert alert.level_after - alert.level_before == pytest.approx(0.5, abs=0.25)
    assert alert.p_value < 1e-5
    assert abs(alert.since_ms - START_MS - DRIFT_AT * DAY_MS / PER_DAY) < 2000 * DAY_MS / PER_DAY
    states = [change.state for _, change in told if change.episode_id == alert.episode_id]
    assert states[0] == "started"
    assert states[-1] == "resolved"
    assert set(states[1:-1]) <= {"ongoing"}


def test_what_moves_together_is_one_episode_with_the_segment_that_explains_it() -> None:
    [(_, alert)] = started(told := watch(Watchtower(configured()), 160 * BATCH, worse))
    last = [change for _, change in told if change.episode_id == alert.episode_id][-1]
    assert {"prequential_loss", "hit_rate"} <= set(last.signals)
    assert sum(cause.share for cause in last.causes if not cause.segment) == pytest.approx(1.0)
    segments = [cause.segment for change in (alert, last) for cause in change.causes if cause.segment]
    assert segments[0] == {"category": "tents"}
    assert alert.kind == "concept"
    assert alert.severity in ("critical", "warning")


def test_another_mix_of_names_is_drift_of_that_name() -> None:
    def towels_gone(first: int, values: dict[str, Floats], categories: list[str]) -> None:
        if first >= DRIFT_AT:
            categories[:256] = ["umbrellas"] * 256

    [(_, alert), *_] = started(watch(Watchtower(configured()), 160 * BATCH, towels_gone))
    assert alert.signal == "category"
    assert alert.causes[0].signal in ("category=(other)", "category=towels", "category=tents")


def test_a_watch_of_one_segment_sees_only_that() -> None:
    def dearer_tents(first: int, values: dict[str, Floats], categories: list[str]) -> None:
        if first >= DRIFT_AT:
            values["price"] += np.array([1.2 if name == "tents" else -0.35 for name in categories])

    told = started(watch(Watchtower(configured()), 160 * BATCH, dearer_tents))
    assert told[0][1].segment == {"category": "tents"}


def test_a_drift_that_comes_again_is_known() -> None:
    watches = (Watch("lasting_loss", direction="up", kind="concept"),)
    tower = Watchtower(Configuration(watches, settled_events=4096, group_events=1024))
    random = np.random.default_rng(1)
    told: list[EpisodeChange] = []
    away = ((120, 160), (220, 260))
    for number in range(300):
        is_away = any(begin <= number < end for begin, end in away)
        times = START_MS + ((number * BATCH + np.arange(BATCH)) * (DAY_MS / PER_DAY)).astype(np.int64)
        surprised = random.random(BATCH) < (0.3 if is_away else 0.03)
        losses = np.where(surprised, 5.0, 1.0) + random.random(BATCH)
        # What surprises while they are away leads to items that nobody goes to else.
        steps = [f"{random.integers(30)}>{'z' if bad and is_away else 'a'}{random.integers(30)}" for bad in surprised]
        told += tower.observe(Batch(times, {"lasting_loss": losses}, steps=steps))
    first, second = [change for change in told if change.state == "started"]
    assert {change.known_episode for change in told if change.episode_id == second.episode_id} >= {first.episode_id}
    assert {change.known_episode for change in told if change.episode_id == first.episode_id} == {None}


def test_signals_of_events_say_what_was_new_and_what_surprised() -> None:
    signals = EventSignals()
    history: list[HistoryEntry] = []
    for number, (item, category) in enumerate(
        [("a", "tents"), ("b", "tents"), ("a", "tents"), ("c", "towels"), ("d", "towels"), ("e", "towels")]
    ):
        entry = HistoryEntry(item, "view", 1000 * number, 10.0, category)
        signals.add(entry, history, shopper_id="s", loss=float(number + 1), hit=number % 2 == 0)
        history.append(entry)
    batch = signals.take()
    assert len(signals) == 0
    assert batch.values["new_shopper"].tolist() == [1, 0, 0, 0, 0, 0]
    assert batch.values["repeated_item"].tolist()[1:] == [0, 1, 0, 0, 0]
    assert batch.values["new_category"].tolist()[1:] == [0, 0, 1, 0, 0]
    # The repeated step does not count; the smallest of the last four that do.
    assert batch.values["lasting_loss"].tolist()[4:] == [1.0, 2.0]
    assert batch.steps[:3] == ["", "a>b", "b>a"]
    assert batch.mixes["category"][3] == "towels"


def test_lists_give_their_best_score_and_how_spread_they_are() -> None:
    batch = list_batch([1, 2], [[0.5, 0.5], [0.9, 0.1]], [3.0, 4.0], [10.0, 20.0])
    assert batch.values["top_score"].tolist() == [0.5, 0.9]
    assert batch.values["score_entropy"][0] > batch.values["score_entropy"][1]


def test_skewed_noise_makes_no_alarm() -> None:
    random = np.random.default_rng(4)
    tower = Watchtower(Configuration((Watch("prequential_loss", direction="up"),)))
    told = []
    for number in range(400):
        times = START_MS + ((number * BATCH + np.arange(BATCH)) * (DAY_MS / PER_DAY)).astype(np.int64)
        told += tower.observe(Batch(times, {"prequential_loss": random.gamma(0.02, 50.0, BATCH)}))
    assert told == []
