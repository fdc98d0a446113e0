"""The pace of a replay: even, and never a flood after a pause."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.streams.replay_rate import MAX_CATCH_UP_S, Pace


class Clock:
    """A clock that moves when told, or when slept upon."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@given(st.floats(0.5, 50_000), st.lists(st.floats(0, 0.3), min_size=1, max_size=200))
def test_no_50_milliseconds_see_more_than_their_share_and_what_may_be_caught_up(rate: float, delays_s: list[float]) -> None:
    clock = Clock()
    pace = Pace(rate, clock, clock.sleep)
    sent = []
    for delay_s in delays_s:
        clock.now_s += delay_s
        pace.wait()
        sent.append(clock.now_s)
    for start_s in sent:
        window = sum(start_s <= moment < start_s + 0.05 for moment in sent)
        assert window <= rate * (0.05 + MAX_CATCH_UP_S + 0.001) + 1 + 1e-6


def test_a_caller_that_keeps_up_gets_exactly_the_rate() -> None:
    clock = Clock()
    pace = Pace(100, clock, clock.sleep)
    for _ in range(1001):
        pace.wait()
    assert clock.now_s == pytest.approx(110.0)


def test_the_real_clock_gives_the_rate_too() -> None:
    pace = Pace(2000)
    started_s = time.monotonic()
    for _ in range(1001):
        pace.wait()
    assert 0.495 <= time.monotonic() - started_s < 0.7


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate: more than 0"):
        Pace(0)
