"""An alarm means that the loss has risen: once for one rise, never for noise, never for a fall."""

import random

import pytest

from headrace.online_model.drift import LossDrift, Shift


def shifts(levels: list[tuple[float, int]], seed: int, detector: LossDrift | None = None) -> list[Shift]:
    """Feed so many values around each level in turn; return what was reported."""
    noise = random.Random(seed)
    detector = detector or LossDrift()
    reports = (detector.observe(noise.gauss(level, 1.5)) for level, count in levels for _ in range(count))
    return [report for report in reports if report is not None]


@pytest.mark.parametrize("seed", range(6))
def test_thirty_thousand_values_of_one_level_raise_no_alarm(seed: int) -> None:
    assert shifts([(5.0, 30_000)], seed) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_rise_is_reported_once_with_its_levels_and_soon(seed: int) -> None:
    [shift] = shifts([(5.0, 6000), (7.0, 6000)], seed)
    assert shift.before == pytest.approx(5.0, abs=0.4)
    assert shift.after > shift.before * 1.05
    assert 6000 < shift.observations < 7000
    assert 0 < shift.window < 6000


@pytest.mark.parametrize("seed", range(4))
def test_a_fall_is_silent(seed: int) -> None:
    assert shifts([(7.0, 6000), (5.0, 6000)], seed) == []
    assert shifts([(9.0 - step * 0.5, 500) for step in range(12)], seed) == []


def test_a_rise_after_a_fall_is_reported() -> None:
    [shift] = shifts([(7.0, 4000), (5.0, 4000), (7.0, 4000)], seed=1)
    assert 8000 < shift.observations < 9000


def test_two_rises_are_two_reports() -> None:
    assert len(shifts([(4.0, 5000), (6.0, 5000), (9.0, 5000)], seed=1)) == 2


def test_a_rise_during_the_warm_up_is_not_reported_and_the_next_one_is() -> None:
    assert shifts([(4.0, 700), (6.0, 700)], seed=1) == []
    reports = shifts([(4.0, 700), (6.0, 5000), (9.0, 2000)], seed=1)
    assert [report.observations > 5700 for report in reports] == [True]


def test_a_rise_below_the_least_share_is_not_reported() -> None:
    levels = [(5.0, 8000), (5.4, 8000)]
    assert shifts(levels, seed=1, detector=LossDrift(least_rise=0.2)) == []
    assert len(shifts(levels, seed=1, detector=LossDrift(least_rise=0.01))) == 1
