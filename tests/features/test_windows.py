"""Windows are sums over panes; the order of arrival leaves no trace in them."""

from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.features.windows import (
    ALLOWED_LATENESS_MS,
    DAY_MS,
    FIVE_MINUTES_MS,
    HOUR_MS,
    SIX_HOURS_MS,
    WINDOWS,
    add_to_panes,
    is_late,
    pane_start,
    window,
)
from headrace.schemas import Pane

START_MS = 1_760_000_000_000
TIMES = st.lists(st.integers(START_MS, START_MS + 9 * DAY_MS) | st.integers(START_MS, START_MS + 2 * HOUR_MS), max_size=40)


def panes_of(times: list[int]) -> list[Pane]:
    panes: list[Pane] = []
    newest_ms = 0
    for time_ms in times:
        panes = add_to_panes(panes, newest_ms, time_ms, views=1, amount=0.25)
        newest_ms = max(newest_ms, time_ms)
    return panes


@given(TIMES, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_panes_are_the_same_whatever_the_order_of_arrival(times: list[int], random: Random) -> None:
    shuffled = list(times)
    random.shuffle(shuffled)
    assert panes_of(shuffled) == panes_of(times) == panes_of(sorted(times))


@given(TIMES, st.integers(0, 8 * DAY_MS))
@settings(max_examples=300, deadline=None)
def test_a_window_counts_the_events_of_its_time_and_no_others(times: list[int], later_ms: int) -> None:
    asked_ms = max(times, default=START_MS) + later_ms
    panes = panes_of(times)
    for name, length_ms in (("1h", HOUR_MS), ("24h", DAY_MS), ("7d", 7 * DAY_MS)):
        pane_ms, count = WINDOWS[name]
        found = window(panes, name, asked_ms)
        inside = [time_ms for time_ms in times if time_ms // pane_ms > asked_ms // pane_ms - count]
        assert (found.views, found.amount) == (len(inside), 0.25 * len(inside))
        # Its far end moves in steps of a pane: never longer than its name says, and at most a pane shorter.
        assert all(time_ms > asked_ms - length_ms for time_ms in inside)
        assert all(time_ms in inside for time_ms in times if time_ms > asked_ms - length_ms + pane_ms)


@given(TIMES)
@settings(max_examples=200, deadline=None)
def test_panes_stay_few_and_in_order(times: list[int]) -> None:
    panes = panes_of(times)
    starts = [pane.start_ms for pane in panes]
    assert starts == sorted(set(starts))
    assert len(panes) <= sum(count for _, count in WINDOWS.values())


def test_an_event_lies_in_finer_panes_the_younger_it_is() -> None:
    now_ms = 1000 * DAY_MS + 3 * HOUR_MS + 7 * 60_000
    assert pane_start(now_ms, now_ms) == now_ms // FIVE_MINUTES_MS * FIVE_MINUTES_MS
    assert pane_start(now_ms - 2 * HOUR_MS, now_ms) == 1000 * DAY_MS + HOUR_MS
    assert pane_start(now_ms - 2 * DAY_MS, now_ms) == 998 * DAY_MS
    assert pane_start(now_ms - 2 * DAY_MS, now_ms) == (now_ms - 2 * DAY_MS) // SIX_HOURS_MS * SIX_HOURS_MS
    assert pane_start(now_ms - 8 * DAY_MS, now_ms) is None


def test_what_is_older_than_all_windows_is_dropped() -> None:
    assert panes_of([START_MS, START_MS + 10 * DAY_MS])[0].start_ms > START_MS
    assert len(panes_of([START_MS + 10 * DAY_MS, START_MS])) == 1


@given(st.integers(0, 2**52), st.integers(0, 2**52))
@example(ALLOWED_LATENESS_MS, 2 * ALLOWED_LATENESS_MS)
def test_late_is_what_lies_more_than_an_hour_behind_the_newest(time_ms: int, newest_ms: int) -> None:
    assert is_late(time_ms, newest_ms) == (newest_ms - time_ms > ALLOWED_LATENESS_MS)
