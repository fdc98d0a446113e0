"""No candidate goes out that is not finite, or worse than the live weights by more than chance."""

import pytest
import torch

from headrace.online_model.gate import ENOUGH_EVENTS, FEWEST_EVENTS, judge

EVENTS = 200


def losses(seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(EVENTS, generator=torch.Generator().manual_seed(seed)) + 5 + shift


def test_a_better_candidate_passes_with_both_losses_told() -> None:
    live = losses(1)
    verdict = judge(live - 0.1, live, finite=True)
    assert verdict.passed
    assert verdict.candidate_loss == pytest.approx(verdict.live_loss - 0.1 if verdict.live_loss else None, abs=1e-5)
    assert "-0.1000 on 200 held-back events" in verdict.reason


def test_a_candidate_that_is_a_little_worse_everywhere_fails() -> None:
    # The noise of the events is 10 times the difference; the pairs show it all the same.
    live = losses(1)
    noise = 0.1 * torch.randn(EVENTS, generator=torch.Generator().manual_seed(2))
    verdict = judge(live + 0.1 + noise, live, finite=True)
    assert not verdict.passed
    assert "the loss rises by 0.1" in verdict.reason


def test_equal_weights_pass() -> None:
    live = losses(1)
    assert judge(live, live, finite=True).passed


def test_a_difference_that_chance_explains_passes() -> None:
    passed = [judge(losses(seed), losses(seed + 1000), finite=True).passed for seed in range(100)]
    assert 88 <= sum(passed) <= 99


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_fails(value: float) -> None:
    candidate = losses(1)
    candidate[7] = value
    assert not judge(candidate, losses(1), finite=True).passed


def test_weights_that_are_not_finite_fail_whatever_the_losses_say() -> None:
    assert not judge(losses(1) - 3, losses(1), finite=False).passed
    assert not judge(torch.zeros(0), torch.zeros(0), finite=False).passed


@pytest.mark.parametrize("events", [0, 1, FEWEST_EVENTS - 1])
def test_too_few_events_say_nothing(events: int) -> None:
    verdict = judge(losses(1, shift=9)[:events], losses(1)[:events], finite=True)
    assert verdict.passed
    assert f"only {events} events" in verdict.reason


@pytest.mark.parametrize("events", [FEWEST_EVENTS, ENOUGH_EVENTS - 1, ENOUGH_EVENTS])
def test_few_events_suffice_to_refuse_what_is_far_worse(events: int) -> None:
    assert not judge(losses(1, shift=9)[:events], losses(2)[:events], finite=True).passed


def test_few_events_do_not_suffice_to_refuse_what_is_a_little_worse() -> None:
    candidate, live = losses(1, shift=0.5), losses(2)
    assert judge(candidate[: ENOUGH_EVENTS - 1], live[: ENOUGH_EVENTS - 1], finite=True).passed
    assert not judge(candidate, live, finite=True).passed
