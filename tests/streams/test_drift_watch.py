"""Watching on a real Kafka: one alert for a planted drift, its cause first, what was done about it, and restarts in between."""

import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace as replace_fields
from itertools import islice
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from headrace.features.online_store import OnlineStore, connect
from headrace.features.user_row import entries_of
from headrace.online_model.fine_tuning import FineTuner, Round
from headrace.online_model.gate import Verdict
from headrace.online_model.watching.configuration import Configuration, Watch
from headrace.online_model.watching.episodes import EpisodeChange
from headrace.online_model.watching.reaction import Reaction, Reactions
from headrace.online_model.watching.signals import Observation
from headrace.online_model.weights import ModelCopy
from headrace.schemas import (
    Attribution,
    Click,
    DriftAlert,
    DriftState,
    MemoryReaction,
    Purchase,
    ReleaseOutcomes,
    VersionOutcome,
    encode,
    shopper_id,
)
from headrace.schemas.drift_alerts import DriftReaction
from headrace.streams.drift_actions import DriftActions
from headrace.streams.drift_watch import DriftWatch, Watching
from headrace.streams.learner import example_of
from headrace.streams.memory_reactions import MemoryReactionPublisher
from headrace.streams.shop_floor import Shop, Shopper
from headrace.streams.shopper_histories import NewSteps, ShopperHistories
from headrace.streams.simulator import simulate
from headrace.streams.subscriber import Subscriber
from headrace.streams.trainer import Trainer
from headrace.streams.training_buffer import Example, ExampleBuffer

ROUND = 256
CHANGE_AT = 40 * ROUND
# Until then the first visits have not come to their purchases.
SKIPPED = 15_000
WATCHES = Configuration(
    (Watch("price", reaction="learn_faster", warm_up=2048), Watch("kind", warm_up=2048)),
    block=16,
    settled_events=2048,
)


class AlwaysFaster(Reactions):
    """Learns faster at each start, and keeps or withdraws that at the second measurement."""

    helps = True
    deepens = False
    begun: dict[str, DriftReaction]

    def __init__(self) -> None:
        super().__init__()
        self.begun = {}

    def decide(self, change: EpisodeChange, quality: float, now_ms: int) -> Reaction | None:
        begun = DriftReaction(name="learn_faster", state="begun", begun_ms=now_ms, quality_at=quality)
        self.begun[change.episode_id] = begun
        return Reaction("learn_faster", change.episode_id, now_ms, rate_scale=3.0, replay_share=0.25, events=1_000_000)

    def measure(self, quality: float, now_ms: int) -> list[tuple[str, DriftReaction]]:
        settled = []
        for episode, reaction in self.begun.items():
            if reaction.state == "begun" and now_ms > (reaction.begun_ms or 0):
                state = "kept" if self.helps else "withdrawn"
                after = DriftReaction(
                    name=reaction.name, state=state, begun_ms=now_ms, quality_at=reaction.quality_at, quality_after=quality
                )
                self.begun[episode] = after
                settled.append((episode, after))
        return settled

    def deepen(self, quality: float, now_ms: int) -> list[Reaction]:
        episodes = [*self.begun] if self.deepens else []
        self.deepens = self.deepens and not episodes
        return [Reaction("learn_faster", episode, now_ms, memory_keep=0.2, memory_cut=True) for episode in episodes]

    def of(self, episode_id: str) -> list[DriftReaction]:
        return [self.begun[episode_id]] if episode_id in self.begun else []


class Learner:
    """What of the learner the watch needs: a tuner, a buffer, and rounds of a simulated shop's steps."""

    def __init__(
        self,
        kafka: str,
        file: Path | None = None,
        reactions: Reactions | None = None,
        *,
        only_tell: bool = False,
        watches: Configuration = WATCHES,
    ) -> None:
        self.tuner = FineTuner(ModelCopy())
        self.buffer = ExampleBuffer(lambda examples: None)
        self.now_ms = 1_000_000
        watching = Watching(watches, file, only_tell)
        actions = DriftActions(lambda: self.tuner, self.buffer, memories=MemoryReactionPublisher(kafka, "learner"))
        self.watch = DriftWatch(kafka, "learner", watching, actions, lambda: 7, lambda: self.now_ms, reactions)

    def learn(self, rounds: Iterator[Sequence[NewSteps]], count: int) -> None:
        for newest in islice(rounds, count):
            self.now_ms += 1500
            losses = [1.0] * len(newest)
            told = Round(Verdict(True, ""), torch.zeros(0), [], losses, places=list(range(len(newest))))
            self.watch.learned(newest, told)


class Received:
    """An event as Faust gives it to the learner's agents."""

    def __init__(self, event: Click | Purchase, offset: int) -> None:
        self.value, self.headers = encode(event), ()
        self.message = self
        self.topic, self.partition, self.offset, self.timestamp = "clicks", 0, offset, event.event_time_ms / 1000


def rounds_from_surfaces() -> Iterator[Sequence[NewSteps]]:
    """Rounds of clicks from three surfaces, on one of which prices are thrice as high from event number `CHANGE_AT` on."""
    histories, draw = ShopperHistories(lambda shoppers: [None] * len(shoppers)), random.Random(1)
    clicks = (event for event in simulate(3, shoppers=300, items=300, events_per_s=50.0) if isinstance(event, Click))
    for first in range(0, 10 * CHANGE_AT, ROUND):
        examples = []
        for number, event in enumerate(islice(clicks, ROUND), first):
            surface = draw.choice(["home", "search", None])
            price = (event.price or 0.0) * (3 if surface == "search" and number >= CHANGE_AT else 1)
            click = replace(event, price=price, attribution=Attribution(surface=surface))
            examples.append(example_of(Click, Received(click, number)))
        yield histories.extend([example for example in examples if example is not None])


def rounds_of_a_shop(change_at: int = CHANGE_AT) -> Iterator[Sequence[NewSteps]]:
    """Rounds of events of a shop whose prices are thrice as high from event number `change_at` on."""
    histories = ShopperHistories(lambda shoppers: [None] * len(shoppers))

    def dearer(number: int, draw: random.Random, shop: Shop, people: Sequence[Shopper]) -> None:
        if number == SKIPPED + change_at:
            shop.prices = [price * 3 for price in shop.prices]

    events = simulate(3, shoppers=300, items=300, events_per_s=50.0, before=dearer)
    deque(islice(events, SKIPPED), maxlen=0)
    while True:
        examples = [
            Example(shopper_id(event), tuple(entries_of(event)), event.event_time_ms, event.event_time_ms, "clicks/0", number)
            for number, event in enumerate(islice(events, ROUND))
        ]
        yield histories.extend(examples)


def alerts_on(kafka: str) -> list[DriftAlert]:
    with Subscriber(kafka, DriftAlert, start="beginning") as alerts:
        return list(iter(lambda: alerts.poll(1.0), None))


def told_to_the_memories(kafka: str) -> list[tuple[str, str, bool]]:
    """Return episode, action and whether to cut, of each reaction."""
    with Subscriber(kafka, MemoryReaction, start="beginning") as reactions:
        return [(one.episode_id, one.action, one.cut) for one in iter(lambda: reactions.poll(1.0), None)]


@pytest.fixture
def rounds() -> Iterator[Sequence[NewSteps]]:
    return rounds_of_a_shop()


def test_a_planted_drift_is_told_once_with_its_cause_first_and_what_was_done(
    fresh_topics: str, rounds: Iterator[Sequence[NewSteps]]
) -> None:
    learner = Learner(fresh_topics, reactions=AlwaysFaster())
    learner.learn(rounds, CHANGE_AT // ROUND)
    assert alerts_on(fresh_topics) == []
    learner.learn(rounds, 12)
    started, *later = alerts_on(fresh_topics)
    assert (started.state, started.signal, started.causes[0].signal, started.model_version) == ("started", "price", "price", 7)
    assert started.level_after > started.level_before
    assert started.picture == f"/#drift/{started.episode_id}"
    assert [reaction.state for reaction in started.reactions] == ["begun"]
    assert "learning rates are 3 times the usual" in started.reaction
    assert (learner.tuner.rate_scale > 2.9, learner.tuner.replay_share) == (True, 0.25)
    assert all(alert.state in ("ongoing", "resolved") and alert.episode_id == started.episode_id for alert in later)
    assert [(reaction.state, reaction.quality_after) for reaction in later[-1].reactions] == [("kept", pytest.approx(0.3679, abs=1e-4))]


def test_a_reaction_that_did_not_help_is_taken_back(fresh_topics: str, rounds: Iterator[Sequence[NewSteps]]) -> None:
    policy = AlwaysFaster()
    policy.helps = False
    learner = Learner(fresh_topics, reactions=policy)
    learner.learn(rounds, CHANGE_AT // ROUND + 12)
    assert [reaction.state for reaction in alerts_on(fresh_topics)[-1].reactions] == ["withdrawn"]
    assert (learner.tuner.rate_scale, learner.tuner.replay_share) == (1.0, learner.tuner.plan.replay_share)
    told = told_to_the_memories(fresh_topics)
    assert [(action, cut) for _, action, cut in told] == [("forget", False), ("recall", False)]


def test_where_quality_collapses_the_memories_are_told_to_cut_and_so_are_people(
    fresh_topics: str, rounds: Iterator[Sequence[NewSteps]]
) -> None:
    policy = AlwaysFaster()
    policy.deepens = True
    learner = Learner(fresh_topics, reactions=policy)
    learner.learn(rounds, CHANGE_AT // ROUND + 12)
    newest = alerts_on(fresh_topics)[-1]
    assert newest.reaction.startswith("the memories keep 100% of older evidence; learning rates are 3 times the usual")
    assert newest.reaction.endswith("; the memories keep 20% of older evidence, and look no more at events before now")
    assert told_to_the_memories(fresh_topics) == [(newest.episode_id, "forget", False), (newest.episode_id, "forget", True)]


def test_who_takes_up_after_a_restart_tells_the_same_drift_no_second_time(
    fresh_topics: str, rounds: Iterator[Sequence[NewSteps]], tmp_path: Path
) -> None:
    file = tmp_path / "drift" / "watching.json"
    first = Learner(fresh_topics, file)
    first.learn(rounds, CHANGE_AT // ROUND + 4)
    first.watch.close()
    second = Learner(fresh_topics, file)
    second.learn(rounds, 20)
    told = alerts_on(fresh_topics)
    assert [alert.signal for alert in told if alert.state == "started"] == ["price"]
    assert {alert.episode_id for alert in told} == {told[0].episode_id}


def test_a_damaged_memory_or_one_of_other_watches_is_not_taken_up(fresh_topics: str, tmp_path: Path) -> None:
    file = tmp_path / "watching.json"
    for content in ("{", "[]", '{"format": 1, "configuration": "other"}'):
        file.write_text(content)
        assert Learner(fresh_topics, file).watch.tower.state() == []


@pytest.mark.parametrize("segment", [{}, {"surface": "search"}])
def test_a_drift_is_explained_by_the_surface_of_its_events_and_a_surface_can_be_watched_alone(
    fresh_topics: str, segment: dict[str, str]
) -> None:
    learner = Learner(fresh_topics, watches=replace_fields(WATCHES, watches=(Watch("price", segment=segment, warm_up=1024),)))
    learner.learn(rounds_from_surfaces(), CHANGE_AT // ROUND + 4)
    [started] = [alert for alert in alerts_on(fresh_topics) if alert.state == "started"]
    assert started.causes[0].segment == segment
    by_surface = [cause for cause in started.causes if "surface" in cause.segment]
    assert by_surface[0].segment == {"surface": "search"}
    assert by_surface[0].level_after > by_surface[0].level_before + 0.5


def test_only_tell_does_nothing_but_tell(fresh_topics: str, rounds: Iterator[Sequence[NewSteps]]) -> None:
    learner = Learner(fresh_topics, only_tell=True)
    learner.learn(rounds, CHANGE_AT // ROUND + 8)
    [started] = alerts_on(fresh_topics)
    assert (started.state, started.reaction, started.reactions) == ("started", "only told", [])
    assert learner.tuner.rate_scale == 1.0
    assert learner.buffer.take(0.0)[0] == "time"
    assert told_to_the_memories(fresh_topics) == []


def test_how_signals_stand_is_told_on_a_topic_of_its_own(fresh_topics: str, rounds: Iterator[Sequence[NewSteps]]) -> None:
    learner = Learner(fresh_topics)
    learner.learn(rounds, 20)
    learner.watch.close()
    with Subscriber(fresh_topics, DriftState, start="beginning") as states:
        newest = {state.signal: state for state in iter(lambda: states.poll(2.0), None)}
    price = newest["price"]
    assert (price.state, price.detector, price.model_version) == ("stable", "windows", 7)
    assert price.level == pytest.approx(price.baseline, abs=0.3)
    assert len(price.edges) == len(price.histogram_now) + 1
    assert sum(price.histogram_then) == pytest.approx(1.0)


def test_what_recommenders_report_is_the_quality_and_reaches_the_clicks_of_versions(fresh_topics: str) -> None:
    learner = Learner(fresh_topics)
    seen: list[Observation] = []
    learner.watch.hand_over = seen.append  # type: ignore[assignment]
    version = VersionOutcome(version=3, lane="trial", answered=400, hits=100, reciprocal_ranks=1.0, clicks=40)
    for ended_ms in (1_000, 999_000):
        report = ReleaseOutcomes(model="m", instance="r", started_ms=0, ended_ms=ended_ms, versions=[version])
        learner.watch.heard(report)
    assert learner.watch.quality.now(1_000_000) == 0.25
    assert [(one.signal, one.value, one.segment["version"]) for one in seen] == [("online_clicks", 0.1, "3")]


def test_the_trainer_watches_the_events_that_it_learns(fresh_topics: str, clean_redis: str, tmp_path: Path) -> None:
    file = tmp_path / "watching.json"
    trainer = Trainer(fresh_topics, OnlineStore(connect(clean_redis)), ExampleBuffer(lambda done: None), watching=Watching(WATCHES, file))
    examples = [
        Example(shopper_id(event), tuple(entries_of(event)), event.event_time_ms, event.event_time_ms, "clicks/0", number)
        for number, event in enumerate(simulate(1, events=300))
    ]
    trainer.learn("count", examples)
    assert "price" in {state.name for state in trainer.drift.tower.state()}
    stop, ready = threading.Event(), threading.Event()
    stop.set()
    trainer.run(stop, ready)
    assert file.exists()
