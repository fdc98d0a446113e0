"""Schedules and early stopping are functions of the step and the losses alone."""

import math

import pytest
import torch

from headrace.online_model.training.early_stopping import EarlyStopping
from headrace.online_model.training.schedules import (
    NAMES,
    Constant,
    Cosine,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    WarmUp,
    schedule_of,
)


def test_each_schedule_has_the_factors_that_it_says() -> None:
    cases: list[tuple[Schedule, list[float]]] = [
        (Constant(), [1, 1, 1, 1, 1]),
        (StepDecay(2, 0.1), [1, 1, 0.1, 0.1, 0.01]),
        (Cosine(4), [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]),
        (Cosine(2, floor=0.2), [1, 0.6, 0.2, 0.2, 0.2]),
        (WarmUp(2, StepDecay(1, 0.5)), [0.5, 1, 1, 0.5, 0.25]),
    ]
    for schedule, expected in cases:
        assert [schedule.factor(step, []) for step in range(5)] == pytest.approx(expected)


def test_the_rate_falls_when_the_loss_has_not_for_longer_than_the_patience() -> None:
    schedule = ReduceOnPlateau(patience=1, by=0.5)
    losses = [3.0, 2.0, 2.0, 2.1, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert [schedule.factor(0, losses[: seen + 1]) for seen in range(len(losses))] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_a_plateau_is_met_where_torch_meets_it() -> None:
    draw = torch.Generator().manual_seed(5)
    losses = [3.0 - 0.02 * place + float(torch.randn((), generator=draw)) * 0.3 for place in range(60)]
    parameter = torch.zeros(1, requires_grad=True)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([parameter], lr=1.0), factor=0.5, patience=2, threshold=1e-3)
    ours = ReduceOnPlateau(patience=2, by=0.5)
    for seen, loss in enumerate(losses):
        peer.step(loss)
        assert ours.factor(0, losses[: seen + 1]) == peer.get_last_lr()[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_by_its_name_rises_first_and_never_passes_one(name: str) -> None:
    schedule = schedule_of(name, 100, warm_up=10)
    factors = [schedule.factor(step, [2.0, 1.0]) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[:10] == sorted(factors[:10])


def test_an_unknown_schedule_is_told_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="schedule: one of constant, step, cosine, plateau was expected; the value is 'sine'"):
        schedule_of("sine", 10)


def test_training_ends_after_the_patience_and_the_best_is_the_lowest() -> None:
    stopping = EarlyStopping(patience=2)
    losses = [3.0, 2.0, 2.5, math.nan, 1.9]
    assert [stopping.is_over(losses[:seen]) for seen in range(6)] == [False, False, False, False, True, False]
    assert [stopping.improved(losses[:seen]) for seen in range(6)] == [False, True, True, False, False, True]
    assert stopping.best(losses) == 4
    assert stopping.best([math.nan, math.inf]) is None


def test_a_patience_of_zero_never_ends_it() -> None:
    assert not EarlyStopping(patience=0).is_over([1.0] * 100)
