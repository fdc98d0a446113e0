"""A run learns, ends early with its best weights, and goes on from a checkpoint as if it had never been interrupted."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from small_shop import SHAPE, walks

from headrace.online_model.training.checkpoints import CannotResume, newest_checkpoint
from headrace.online_model.training.full_training import Diverged, FullTraining, Trained
from headrace.online_model.training.measures import measure, questions_of
from headrace.online_model.training.plan import TrainingPlan, losses_of
from headrace.online_model.weights import ModelCopy

PLAN = TrainingPlan(epochs=4, batch=16, negatives=64)


class Interrupted(Exception):
    pass


def weights(copy: ModelCopy) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in copy.model.named_parameters()}


def same(one: ModelCopy, other: ModelCopy) -> bool:
    return one.items == other.items and all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def train(plan: TrainingPlan, **given: Any) -> Trained:
    return FullTraining(walks(), plan, SHAPE).run(**given)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", "adam"])
@pytest.mark.parametrize("table_optimizer", ["rowwise-adagrad", "lazy-adam"])
def test_every_optimizer_learns_where_the_walks_lead(optimizer: Any, table_optimizer: Any) -> None:
    trained = train(replace(PLAN, optimizer=optimizer, table_optimizer=table_optimizer, epochs=8))
    first, last = trained.curve[0], trained.curve[-1]
    assert first.loss is not None
    assert last.loss is not None
    assert last.ndcg20 is not None
    # A guess has a loss of log 30 = 3.4; a tenth of the steps cannot be known.
    assert last.loss < first.loss - 1.0
    assert last.ndcg20 > 0.6
    assert trained.training == 648
    assert trained.validation == 72


def test_the_weights_returned_are_those_of_the_best_evaluation() -> None:
    # With so high a rate the loss is soon up again.
    training = FullTraining(walks(), replace(PLAN, epochs=60, patience=3, rate=0.03, table_rate=0.5), SHAPE)
    trained = training.run()
    losses = losses_of(trained.curve)
    assert trained.ended == "patience"
    assert trained.best == len(losses) - 4
    assert losses[trained.best] == min(losses)
    split = walks()[-72:]
    assert measure(trained.copy, questions_of(split, trained.copy)).loss == pytest.approx(min(losses), abs=1e-6)


def test_without_validation_all_epochs_are_run_and_the_last_weights_kept() -> None:
    trained = train(replace(PLAN, validation_share=0.0, epochs=2))
    assert (trained.ended, trained.best, trained.validation) == ("epochs", None, 0)
    assert [point.loss for point in trained.curve] == [None, None, None]
    fresh = FullTraining(walks(), replace(PLAN, validation_share=0.0), SHAPE).copy
    assert not same(trained.copy, fresh)


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, optimizer="adam", table_optimizer="lazy-adam", schedule="cosine", warm_up=5),
        replace(PLAN, optimizer="rmsprop", schedule="plateau", evaluate_every=3),
        replace(PLAN, optimizer="sgd", schedule="step"),
    ],
)
@pytest.mark.parametrize("steps", [12, 25])
def test_a_run_that_was_interrupted_ends_with_the_same_weights_to_the_last_bit(plan: TrainingPlan, steps: int, tmp_path: Path) -> None:
    whole = train(plan)

    def interrupt(done: int, total: int, told: str) -> None:
        if done == steps:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(plan, checkpoints=tmp_path, progress=interrupt)
    torch.manual_seed(99)
    training = FullTraining(walks(), plan, SHAPE)
    training.resume(tmp_path)
    resumed = training.run(tmp_path)
    assert same(resumed.copy, whole.copy)
    assert [(point.step, point.loss, point.train_loss) for point in resumed.curve] == [
        (point.step, point.loss, point.train_loss) for point in whole.curve
    ]


def test_a_checkpoint_holds_how_far_the_stream_was_learned_and_no_pickle(tmp_path: Path) -> None:
    trained = train(replace(PLAN, epochs=3), checkpoints=tmp_path)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-000000022", "step-000000033"]
    place = tmp_path / "step-000000033"
    assert sorted(file.name for file in place.iterdir()) == [
        "best.safetensors",
        "optimizers.safetensors",
        "position.json",
        "weights.safetensors",
    ]
    position = json.loads((place / "position.json").read_bytes())
    assert (position["epoch"], position["batch"], position["step"]) == (3, 0, 33)
    assert position["offsets"] == trained.offsets
    assert set(trained.offsets) == {"clicks/0", "clicks/1"}


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_taken(tmp_path: Path) -> None:
    whole = train(PLAN, checkpoints=tmp_path)
    file = tmp_path / "step-000000044" / "optimizers.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    training = FullTraining(walks(), PLAN, SHAPE)
    training.resume(tmp_path)
    assert same(training.run().copy, whole.copy)
    assert newest_checkpoint(tmp_path).position.step == 33


def test_a_checkpoint_of_another_run_is_refused_and_one_that_is_not_there_told(tmp_path: Path) -> None:
    with pytest.raises(CannotResume, match="a checkpoint was expected; there is none"):
        FullTraining(walks(), PLAN, SHAPE).resume(tmp_path)
    train(replace(PLAN, epochs=1), checkpoints=tmp_path)
    with pytest.raises(CannotResume, match="give the same options"):
        FullTraining(walks(), replace(PLAN, optimizer="sgd"), SHAPE).resume(tmp_path)
    with pytest.raises(CannotResume, match="other examples or a network of another shape"):
        FullTraining(walks(seed=4), PLAN, SHAPE).resume(tmp_path)


def test_more_epochs_may_be_asked_of_a_checkpoint(tmp_path: Path) -> None:
    train(replace(PLAN, epochs=2), checkpoints=tmp_path)
    training = FullTraining(walks(), replace(PLAN, epochs=4), SHAPE)
    training.resume(tmp_path)
    assert same(training.run().copy, train(PLAN).copy)


def test_a_loss_that_is_no_number_ends_the_run_and_is_told() -> None:
    with pytest.raises(Diverged, match=r"not a finite number after \d+ steps; a lower rate"):
        train(replace(PLAN, optimizer="sgd", rate=1e38))


def test_the_rate_of_the_curve_follows_the_schedule() -> None:
    factors = [point.rate_factor for point in train(replace(PLAN, schedule="cosine", evaluate_every=2, patience=0)).curve]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(0.0, abs=1e-9)
    assert all(later < earlier for earlier, later in pairwise(factors))


def test_measures_are_those_of_a_plain_count_over_the_whole_catalogue() -> None:
    copy = train(replace(PLAN, epochs=2)).copy
    examples = walks(seed=8)[:200]
    found = measure(copy, questions_of(examples, copy))
    from headrace.online_model.transformer import encode, last_vectors

    losses, hits, gains, scored = [], 0, 0.0, 0
    for example in examples:
        if not example.history:
            continue
        with torch.no_grad():
            vector = last_vectors(copy.model, encode([example.history], copy.rows, SHAPE.length))[0]
            logits = dict(zip(copy.items[1:], (copy.model.unit_items(torch.arange(1, len(copy.items))) @ vector).tolist(), strict=True))
        target, last = example.target.item_id, example.history[-1].item_id
        if target == last:
            continue
        losses.append(math.log(sum(map(math.exp, logits.values()))) - logits[target])
        scored += 1
        place = sorted((item for item in logits if item != last), key=lambda item: -logits[item]).index(target)
        if place < 20:
            hits, gains = hits + 1, gains + 1 / math.log2(place + 2)
    assert found.scored == scored
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert found.hr == pytest.approx(hits / scored)
    assert found.ndcg == pytest.approx(gains / scored, rel=1e-4)


def test_a_model_of_nothing_but_not_a_number_ranks_nothing() -> None:
    copy = train(replace(PLAN, epochs=1)).copy
    with torch.no_grad():
        copy.model.items.weight.fill_(math.nan)
    found = measure(copy, questions_of(walks()[:100], copy))
    assert found.hr == 0.0
