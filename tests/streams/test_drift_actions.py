"""What reactions do to a learner, and what is only proposed."""

import sys
import time
from pathlib import Path

import pytest

from headrace.online_model.fine_tuning import FineTuner
from headrace.online_model.watching.configuration import ReactionName
from headrace.online_model.watching.reaction import Reaction
from headrace.online_model.weights import ModelCopy
from headrace.schemas import ReleaseOutcomes, VersionOutcome
from headrace.streams import memory_reactions
from headrace.streams.drift_actions import DriftActions
from headrace.streams.drift_quality import Quality
from headrace.streams.memory_reactions import MemoryReactionPublisher
from headrace.streams.training_buffer import ExampleBuffer


@pytest.fixture(scope="module")
def tuner() -> FineTuner:
    return FineTuner(ModelCopy())


def actions(tuner: FineTuner, **more: object) -> DriftActions:
    return DriftActions(lambda: tuner, ExampleBuffer(lambda examples: None), **more)  # type: ignore[arg-type]


def faster(episode: str = "e", events: int = 1000) -> Reaction:
    return Reaction("learn_faster", episode, 0, rate_scale=3.0, replay_share=0.25, events=events)


def test_rates_fall_back_in_a_straight_line_over_the_events_of_the_reaction(tuner: FineTuner) -> None:
    doer = actions(tuner)
    assert doer.begin(faster(), "drift").state == "begun"
    seen = [tuner.rate_scale]
    for _ in range(4):
        doer.learned(250)
        seen.append(tuner.rate_scale)
    assert seen == pytest.approx([3.0, 2.5, 2.0, 1.5, 1.0])
    assert tuner.replay_share == tuner.plan.replay_share


def test_only_the_reaction_that_goes_on_can_be_taken_back(tuner: FineTuner) -> None:
    doer = actions(tuner)
    doer.begin(faster("first"), "drift")
    doer.begin(faster("second"), "drift")
    doer.end("learn_faster", "first")
    assert tuner.rate_scale == 3.0
    doer.end("learn_faster", "second")
    assert tuner.rate_scale == 1.0


@pytest.mark.parametrize("name", ["retrain", "fall_back", "forget_faster", "forget_slower"])
def test_what_cannot_be_done_from_here_is_proposed(tuner: FineTuner, name: ReactionName) -> None:
    assert actions(tuner).begin(Reaction(name, "e", 0), "drift").state == "proposed"


@pytest.mark.parametrize("name", ["forget_faster", "forget_slower"])
def test_memories_that_are_told_react_and_those_that_kafka_does_not_reach_are_proposed(
    tuner: FineTuner, fresh_topics: str, monkeypatch: pytest.MonkeyPatch, name: ReactionName
) -> None:
    reaction = Reaction(name, "e", 0, memory_keep=0.2)
    done = actions(tuner, memories=MemoryReactionPublisher(fresh_topics, "learner")).begin(reaction, "drift")
    assert (done.state, done.words) == ("begun", "the memories keep 20% of older evidence")
    monkeypatch.setattr(memory_reactions, "ACKNOWLEDGED_WITHIN_S", 0.1)
    doer = actions(tuner, memories=MemoryReactionPublisher("127.0.0.1:1", "learner"))
    done = doer.begin(reaction, "drift")
    assert (done.state, done.words) == ("proposed", "proposed, since Kafka did not take it: the memories keep 20% of older evidence")
    assert doer.begin(faster(), "drift").state == "begun", "learning needs no Kafka"
    doer.end("learn_faster", "e")
    assert tuner.rate_scale == 1.0


def test_falling_back_tells_the_reason_and_what_was_done(tuner: FineTuner) -> None:
    told: list[str] = []

    def fall_back(reason: str) -> str:
        told.append(reason)
        return "rolled back to version 3"

    done = actions(tuner, fall_back=fall_back).begin(Reaction("fall_back", "e", 0), "drift of hit_rate")
    assert (done.state, done.words, told) == ("begun", "rolled back to version 3", ["drift of hit_rate"])


def test_retraining_runs_the_command_once_at_a_time(tuner: FineTuner, tmp_path: Path) -> None:
    program = f"import time, pathlib; pathlib.Path({str(tmp_path)!r}, str(time.time_ns())).touch(); time.sleep(0.5)"
    doer = actions(tuner, retrain=f'{sys.executable} -c "{program}"')
    for _ in range(3):
        assert doer.begin(Reaction("retrain", "e", 0), "drift").state == "begun"
    assert doer._training is not None
    assert doer._training.wait(10.0) == 0
    assert len([*tmp_path.iterdir()]) == 1


def test_a_command_that_is_not_there_is_proposed(tuner: FineTuner) -> None:
    done = actions(tuner, retrain="/no/such/command").begin(Reaction("retrain", "e", 0), "drift")
    assert (done.state, "could not be started" in done.words) == ("proposed", True)


def test_quality_is_that_of_the_newest_lists_and_of_the_losses_where_recommenders_are_silent() -> None:
    quality = Quality()
    assert quality.now(0) is None
    quality.learned([1.0, float("nan"), 3.0])
    assert quality.now(0) == pytest.approx(0.1353, abs=1e-4)
    for ended_ms, hits in ((1000, 400), (2000, 50), (3000, 50)):
        version = VersionOutcome(version=1, lane="trial", answered=500, hits=hits, reciprocal_ranks=0.0)
        quality.heard(ReleaseOutcomes(model="m", instance="r", started_ms=0, ended_ms=ended_ms, versions=[version]))
    assert quality.now(4000) == pytest.approx(0.1)
    assert quality.now(3000 + 60_000) == pytest.approx(0.1353, abs=1e-4)


def test_hits_of_a_report_are_handed_out_evenly_once_each() -> None:
    quality = Quality()
    version = VersionOutcome(version=1, lane="trial", answered=8, hits=2, reciprocal_ranks=0.0)
    quality.heard(ReleaseOutcomes(model="m", instance="r", started_ms=0, ended_ms=time.time_ns() // 10**6, versions=[version]))
    assert quality.take_hits(4) == [False, False, False, True]
    assert quality.take_hits(6) == [False, False, False, True, None, None]
