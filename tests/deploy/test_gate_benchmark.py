"""The gate's benchmark on a small simulated shop: its figures are there, and what it plants is what it says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.deploy.bench.fake_clicks import Campaign, fake_shoppers, growth
from headrace.deploy.bench.gate_benchmark import KINDS, Options, measure_gate, verdicts
from headrace.deploy.bench.learned_rounds import LearnedRound, learned_rounds, real_or_simulated
from headrace.deploy.bench.planted_updates import mix_targets
from headrace.deploy.bench.progress import Progress
from headrace.online_model.history_ring import KeptHistories
from headrace.schemas import HistoryEntry


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_each_kind_of_bad_update_is_planted_and_counted_beside_a_plain_gate(tmp_path: Path) -> None:
    options = Options(each=1, warm_up=24, control_every=1, corruptions=6, schedules=5)
    steps: list[int] = []
    found = measure_gate(tmp_path, options, Progress(options.steps_of_progress, lambda done, told: steps.append(done)))
    assert max(steps) == options.steps_of_progress
    assert found["data"] == "simulator"
    assert set(found["published_bad"]) == set(KINDS)
    assert all(sum(caught.values()) == 1 for caught in found["caught_by"].values())
    assert found["published_bad"]["nan"] == found["published_bad"]["learning_rate_x1000"] == 0
    assert found["honest_rounds"] == 25
    assert found["honest_pass_rate"] >= 0.9
    assert found["campaigns"]["5pct"] == found["campaigns"]["unguarded_20pct"] == 1
    assert found["exposure_ratio_20pct"] < found["control"]["unguarded"]["exposure_ratio_20pct"]
    assert (found["corruptions_accepted"], found["schedules_wrong"]) == (0, 0)
    assert [name for name, *_ in verdicts(found)][-1] == "schedules_wrong"


def test_held_out_shoppers_are_never_learned_from_and_each_round_has_its_events(tmp_path: Path) -> None:
    rounds = list(learned_rounds(real_or_simulated(tmp_path, 1000, 1)[1], 100))
    assert len(rounds) == 10
    learned = {shopper for one in rounds for shopper in one.shoppers}
    held_out = {shopper for one in rounds for shopper in one.held_out}
    assert held_out
    assert not learned & held_out
    assert all(0 < new <= len(history) for one in rounds for new, history in zip(one.fresh, one.histories, strict=True))


def test_fake_clicks_are_the_share_of_all_clicks_that_was_asked_for() -> None:
    history = [HistoryEntry(item, "view", 1000) for item in ("lamp", "bulb", "vase")]
    real = LearnedRound(["ada"], [history], [3], 95, {})
    fakes = fake_shoppers(real, 0.05, "pushed", 1, np.random.default_rng(1))
    assert len(fakes) == 5
    assert all([entry.item_id for entry in fake].count("pushed") == 1 and fake[-1].item_id == "pushed" for fake in fakes)
    assert fake_shoppers(real, 0.0, "pushed", 1, np.random.default_rng(1)) == []


def test_growth_is_told_at_the_worst_look() -> None:
    campaigns = [Campaign("a", 100, 10, {1: 30, 2: 10, 4: 10, 8: 10}, 0), Campaign("b", 100, 10, {1: 10, 2: 10, 4: 10, 8: 5}, 0)]
    assert growth(campaigns) == pytest.approx({"all": 2.0, "median": 2.0, "p90": 2.8, "after_the_last_round": 0.75})


def test_mixed_targets_are_the_same_items_in_other_histories() -> None:
    numbers = np.zeros((6, 4, 5), np.int64)
    numbers[:, :3, 0] = np.arange(18).reshape(6, 3)
    histories = KeptHistories(numbers.copy(), np.full(6, 3), np.arange(6))
    mix_targets(histories, np.random.default_rng(1))
    assert np.array_equal(np.delete(histories.numbers[:, :, 0], 2, axis=1), np.delete(numbers[:, :, 0], 2, axis=1))
    assert sorted(histories.numbers[:, 2, 0]) == sorted(numbers[:, 2, 0])
    assert not np.array_equal(histories.numbers[:, 2, 0], numbers[:, 2, 0])
