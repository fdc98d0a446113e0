"""What is usual for the hour and the weekday, the budget of false alarms, and blocks."""

import numpy as np
import pytest

from headrace.online_model.watching.blocks import NAMES_OF_A_MIX, OTHER, BlockMaker, Columns
from headrace.online_model.watching.budget import Budget
from headrace.online_model.watching.seasons import DAY, DAY_MS, HOUR_MS, LEVEL, WEEK, WEEKEND, WIDTH, Seasons, design
from headrace.online_model.watching.signals import Batch

MONDAY_MS = 4 * DAY_MS


def by_hour(time_ms: float) -> float:
    """Return a level that swings by 2 over the day, and is 1 higher at weekends."""
    is_weekend = (time_ms // DAY_MS + 3) % 7 >= 5
    return 5.0 + 2.0 * np.sin(2 * np.pi * time_ms / DAY_MS) + is_weekend


def learned(days: int, noise: float = 0.3, begin_ms: int = MONDAY_MS) -> Seasons:
    """Return seasons that have seen four blocks an hour for so many days: one column swings, one does not."""
    random = np.random.default_rng(11)
    seasons = Seasons(2)
    for place in range(days * 24 * 4):
        time_ms = begin_ms + place * HOUR_MS / 4
        seasons.learn(design(time_ms), np.array([by_hour(time_ms), 3.0]) + random.normal(0, noise, 2), time_ms)
    seasons.refit()
    return seasons


def test_an_instant_lies_between_two_hours_and_on_a_weekday() -> None:
    row = design(MONDAY_MS + 23.25 * HOUR_MS)
    assert row.shape == (WIDTH,)
    assert row[LEVEL] == 1.0
    assert row[DAY + 23] == pytest.approx(0.75)
    assert row[DAY] == pytest.approx(0.25)
    assert row[WEEK] == 1.0
    assert row.sum() == pytest.approx(3.0)


def test_only_weekends_have_hours_of_their_own() -> None:
    saturday = design(MONDAY_MS + 5 * DAY_MS + 6 * HOUR_MS)
    assert saturday[WEEKEND + 6] == 1.0
    assert saturday[WEEK + 5] == 1.0
    assert not design(MONDAY_MS + 4 * DAY_MS + 6 * HOUR_MS)[WEEKEND:].any()


def test_the_pattern_of_hours_and_weekdays_is_taken_away() -> None:
    seasons = learned(28)
    times_ms = [MONDAY_MS + 28 * DAY_MS + place * HOUR_MS / 2 for place in range(7 * 48)]
    expected = np.array([seasons.expected(design(time_ms)) for time_ms in times_ms])
    actual = np.array([by_hour(time_ms) for time_ms in times_ms])
    assert np.abs(actual - expected[:, 0]).mean() < 0.1
    assert np.abs(actual - actual.mean()).mean() > 1.2
    assert np.abs(expected[:, 1] - 3.0).max() < 0.2


def test_what_was_seen_seldom_is_less_sure() -> None:
    morning, night = design(MONDAY_MS + 9 * HOUR_MS), design(MONDAY_MS + 3 * HOUR_MS)
    seasons = Seasons(1)
    for _ in range(100):
        seasons.learn(morning, np.array([1.0]), MONDAY_MS)
    seasons.refit()
    sure, unsure = seasons.uncertainty(np.array([morning - design(MONDAY_MS + 9.5 * HOUR_MS), morning - night]))
    assert sure < 0.3 < 3.0 < unsure
    assert learned(28).uncertainty((morning - night)[None, :])[0] < 0.1 * unsure


def test_a_new_level_keeps_the_pattern() -> None:
    seasons = learned(14)
    rows = [design(MONDAY_MS + 14 * DAY_MS + place * HOUR_MS) for place in range(24)]
    before = np.array([seasons.expected(row) for row in rows])
    seasons.move_level(np.array([2.5, 0.0]))
    seasons.refit()
    after = np.array([seasons.expected(row) for row in rows])
    assert after - before == pytest.approx(np.tile([2.5, 0.0], (24, 1)), abs=0.01)


def test_what_is_long_past_is_forgotten() -> None:
    seasons = Seasons(1)
    row = design(MONDAY_MS)
    for day in range(200):
        seasons.learn(row, np.array([10.0 if day < 60 else 0.0]), MONDAY_MS + day * DAY_MS)
    seasons.refit()
    assert abs(seasons.expected(row)[0]) < 0.5


def test_the_budget_is_divided_by_share_columns_and_tests() -> None:
    budget = Budget(0.5, [3.0, 1.0], 100)
    # A million events are 10,000 blocks; windows of 16 and 64 blocks are half and an eighth of a test each.
    tests = 10_000 * (1 + 1 / 2 + 1 / 8)
    assert budget.of_test(3.0, 1, (4, 16, 64)) == pytest.approx(0.5 * 3 / 4 / tests)
    assert budget.of_test(1.0, 32, (4, 16, 64)) == pytest.approx(0.5 * 1 / 4 / 32 / tests)


def test_all_tests_of_a_million_events_use_the_budget_up() -> None:
    shares, columns, windows = [3.0, 1.0, 6.0], [1, 32, 2], (8, 32)
    budget = Budget(0.25, shares, 64)
    tests = 1_000_000 / 64 * (1 + 8 / 32)
    used = sum(budget.of_test(share, count, windows) * count * tests for share, count in zip(shares, columns, strict=True))
    assert used == pytest.approx(0.25)


def test_blocks_tell_means_of_what_is_there() -> None:
    maker = BlockMaker(Columns(["price", "gap"], []), 4)
    values = {"price": np.array([1.0, 2.0, 3.0, np.nan, 5.0, 6.0]), "gap": np.full(6, np.nan)}
    blocks = list(maker.add(Batch(np.arange(6) * 10, values), learn_names=True))
    assert len(blocks) == 1
    assert (blocks[0].time_ms, blocks[0].first_ms) == (15.0, 0)
    assert blocks[0].means.tolist() == [2.0, 0.0]
    assert blocks[0].counts.tolist() == [3.0, 0.0]
    (second,) = maker.add(Batch(np.array([60, 70]), {"price": np.array([7.0, 8.0])}), learn_names=True)
    assert (second.first_ms, second.means[0], second.counts[0]) == (40, 6.5, 4.0)


def test_a_mix_s_shares_are_told_and_later_names_are_others() -> None:
    columns = Columns(["price"], ["kind"])
    maker = BlockMaker(columns, 4)
    (block,) = maker.add(Batch(np.arange(4), {}, {"kind": ["view", "view", "buy", ""]}), learn_names=True)
    shares = {columns.label(place): float(block.means[place]) for place in columns.of("kind") if block.counts[place]}
    assert shares == pytest.approx({f"kind={OTHER}": 0.0, "kind=view": 2 / 3, "kind=buy": 1 / 3})
    (block,) = maker.add(Batch(np.arange(4), {}, {"kind": ["view", "rate", "rate", "rate"]}), learn_names=False)
    shares = {columns.label(place): float(block.means[place]) for place in columns.of("kind") if block.counts[place]}
    assert shares == pytest.approx({f"kind={OTHER}": 0.75, "kind=view": 0.25, "kind=buy": 0.0})


def test_a_mix_has_32_columns_whatever_comes() -> None:
    columns = Columns([], ["category"])
    codes = columns.coded("category", [f"c-{place}" for place in range(100)], learn=True)
    assert columns.count == NAMES_OF_A_MIX
    assert codes.tolist() == [*range(1, NAMES_OF_A_MIX), *([0] * (101 - NAMES_OF_A_MIX))]


def test_what_waits_for_a_full_block_is_kept() -> None:
    first, second = (BlockMaker(Columns(["price"], ["kind"]), 4) for _ in range(2))
    half = Batch(np.array([1, 2]), {"price": np.array([1.0, np.nan])}, {"kind": ["view", "buy"]})
    assert list(first.add(half, learn_names=True)) == []
    second.columns.names = first.columns.names
    second.restore(first.saved())
    (kept,), (straight,) = list(second.add(half, learn_names=True)), list(first.add(half, learn_names=True))
    assert kept.means.tolist() == straight.means.tolist()
    assert kept.counts.tolist() == straight.counts.tolist()
