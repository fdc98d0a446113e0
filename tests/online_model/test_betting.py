"""However often it is asked, the wealth of whoever bets against chance stays small; against a real rise it grows."""

import numpy as np
import pytest

from headrace.online_model.betting import Wealth, is_alarm


@pytest.mark.parametrize("spread", [0.05, 0.5, 5.0])
def test_looking_after_each_round_gives_false_alarm_no_more_often_than_promised(spread: float) -> None:
    draw = np.random.default_rng(1)
    alarms = 0
    for _ in range(400):
        wealth = Wealth(0.0, 4.0)
        alarms += any(is_alarm(wealth.observe(np.clip(spread * draw.standard_normal(15), -4, 4)), 0.05) for _ in range(60))
    # 5% of 400 are 20; that 32 are reached by chance has a probability under 1%.
    assert alarms <= 32


def test_what_is_a_little_better_on_average_never_gives_alarm_however_noisy() -> None:
    draw = np.random.default_rng(2)
    wealth = Wealth(0.0, 4.0)
    assert not any(is_alarm(wealth.observe(draw.standard_normal(15) - 0.05), 0.01) for _ in range(500))


def test_a_slide_too_small_for_any_round_is_found_over_many() -> None:
    draw = np.random.default_rng(3)
    wealth = Wealth(0.0, 4.0)
    found = [is_alarm(wealth.observe(0.8 * draw.standard_normal(15) + 0.1), 0.01) for _ in range(120)]
    assert not any(found[:5])
    assert found[-1]
    assert wealth.mean == pytest.approx(0.1, abs=0.05)


def test_a_large_rise_is_found_within_one_round() -> None:
    draw = np.random.default_rng(4)
    assert is_alarm(Wealth(0.0, 1.0).observe(0.5 * draw.standard_normal(200) + 0.4), 0.005)


def test_a_rise_within_the_bound_is_let_through_and_one_above_it_is_not() -> None:
    draw = np.random.default_rng(5)
    noise = 0.2 * draw.standard_normal(100)
    assert not is_alarm(Wealth(0.1, 1.0).observe(noise + 0.08), 0.001)
    assert is_alarm(Wealth(0.1, 1.0).observe(noise + 0.4), 0.001)


def test_one_wild_number_is_clipped_and_proves_nothing() -> None:
    wealth = Wealth(0.0, 4.0)
    assert not is_alarm(wealth.observe(np.array([1e30, *[-0.1] * 20])), 0.05)
    assert np.isfinite(wealth.log_best)


def test_no_numbers_say_nothing() -> None:
    assert Wealth(0.0, 4.0).observe(np.zeros(0)) == 0.0
