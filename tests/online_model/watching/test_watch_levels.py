"""Whether a level has moved, and in which segments; histograms then and now; arrays as JSON."""

import json
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.online_model.watching.explaining import SegmentLevels
from headrace.online_model.watching.histograms import BINS, Histogram
from headrace.online_model.watching.level_tests import LEAST_REFERENCE, WINDOWS, LevelTests
from headrace.online_model.watching.packing import packed, unpacked
from headrace.online_model.watching.signals import Batch

Floats = NDArray[np.float64]
ROW = np.ones(1)


def nothing_unknown(differences: Floats) -> Floats:
    return np.zeros(len(differences))


def scores_of(values: Floats) -> Floats:
    """Return the deviates of each block's windows, (blocks, windows, columns), for values that are no shares."""
    tests = LevelTests(values.shape[1], 1)
    told = []
    for block in values:
        tests.add(block, ROW)
        differences, spread = tests.differences(nothing_unknown)
        scores = tests.deviates(differences, spread, np.zeros_like(differences), np.zeros(values.shape[1], np.bool_))
        tests.learn(differences, scores)
        told.append(scores)
    return np.array(told)


def test_deviates_are_standard_normal_where_nothing_has_moved() -> None:
    scores = scores_of(np.random.default_rng(2).normal(3.0, 2.0, (4000, 4)))[2000:]
    assert np.abs(scores[:, 1:4].mean(axis=(0, 2))).max() < 0.2
    assert scores[:, 1:4].std(axis=(0, 2)) == pytest.approx(1.0, abs=0.2)
    assert np.abs(scores[:, 1:]).max() < 5.5


def test_a_moved_level_stands_out_in_its_column_only() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, (2064, 2))
    values[2000:, 1] += 2.0
    scores = scores_of(values)
    longest = WINDOWS.index(64)
    assert scores[-1, longest, 1] > 5.0
    assert abs(scores[-1, longest, 0]) < 4.0
    assert np.abs(scores[:2000, longest, 1][500:]).max() < 5.0


def test_windows_speak_only_with_enough_blocks_before_them() -> None:
    tests = LevelTests(1, 1)
    for count in range(1, 400):
        tests.add(np.array([1.0]), ROW)
        usable = tests.references() > 0
        expected = [count - window >= max(2 * window, LEAST_REFERENCE) for window in WINDOWS]
        assert usable.tolist() == expected
    tests.epoch = tests.blocks
    assert not tests.references().any()


def test_means_of_a_stretch_are_those_of_its_blocks() -> None:
    values = np.random.default_rng(2).normal(size=(3000, 2))
    tests = LevelTests(2, 1)
    for block in values:
        tests.add(block, ROW)
    assert tests.mean(2900, 2950) == pytest.approx(values[2900:2950].mean(axis=0))
    assert tests.regressor_mean(2900, 3000) == pytest.approx([1.0])


def test_blocks_that_are_alike_do_not_look_like_a_moved_level() -> None:
    random = np.random.default_rng(2)
    values, level = np.empty((6000, 1)), 0.0
    for place in range(len(values)):
        level = 0.8 * level + random.normal()
        values[place] = level
    assert scores_of(values)[3000:, WINDOWS.index(16)].std() == pytest.approx(1.0, abs=0.3)


def test_the_segment_that_moved_is_named_with_its_levels() -> None:
    random = np.random.default_rng(2)
    levels = SegmentLevels(("category", "surface"))
    for begin in range(0, 4000, 500):
        times_ms = np.arange(begin, begin + 500)
        names = random.choice(["tents", "boots", "lamps"], 500)
        values = random.normal(1.0, 0.1, 500) + 2.0 * ((names == "tents") & (times_ms >= 3000))
        levels.add(Batch(times_ms, {"loss": values}, {}, {"category": names.tolist(), "surface": ["home"] * 500}))
    causes = levels.causes("loss", 3000)
    by_category = [cause for cause in causes if "category" in cause.segment]
    assert by_category[0].segment == {"category": "tents"}
    assert by_category[0].share > 0.9
    assert (by_category[0].level_before, by_category[0].level_after) == pytest.approx((1.0, 3.0), abs=0.05)
    assert levels.causes("price", 3000) == []


def test_segments_may_have_as_many_names_as_events() -> None:
    levels = SegmentLevels(("surface",))
    names = [f"/page/{number}" if number % 2 else "home" for number in range(30_000)]
    levels.add(Batch(np.arange(30_000), {"loss": np.arange(30_000.0)}, {}, {"surface": names}))
    started_s = time.perf_counter()
    [cause] = levels.causes("loss", 15_000)
    assert cause.segment == {"surface": "home"}
    assert time.perf_counter() - started_s < 1.0


def test_segments_of_few_events_are_no_causes() -> None:
    levels = SegmentLevels(("category",))
    levels.add(Batch(np.arange(100), {"loss": np.arange(100.0)}, {}, {"category": ["tents"] * 80 + ["boots"] * 20}))
    assert {cause.segment["category"] for cause in levels.causes("loss", 40)} == {"tents"}
    assert levels.causes("loss", 90) == []


def test_histograms_stand_still_while_a_signal_drifts() -> None:
    random = np.random.default_rng(2)
    histogram = Histogram()
    histogram.add(random.normal(0.0, 1.0, 500), is_drifting=False)
    assert histogram.shares(histogram.now) == ()
    histogram.add(random.normal(0.0, 1.0, 8000), is_drifting=False)
    then = histogram.then.copy()
    histogram.add(np.append(random.normal(2.0, 1.0, 8000), np.nan), is_drifting=True)
    assert histogram.then.tolist() == then.tolist()
    assert sum(histogram.shares(histogram.now)) == pytest.approx(1.0)
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    assert len(centres) == BINS
    assert float(np.dot(histogram.shares(histogram.now), centres)) > 1.0
    assert abs(float(np.dot(histogram.shares(histogram.then), centres))) < 0.2


@pytest.mark.parametrize("array", [np.linspace(0, 1, 12).reshape(3, 4), np.arange(5), np.array([True, False]), np.empty((0, 3))])
def test_arrays_come_back_from_json_as_they_were(array: NDArray[np.generic]) -> None:
    back = unpacked(json.loads(json.dumps(packed(array))))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()
    back[:] = 0


def test_arrays_of_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="type: one of <f8, <i8,"):
        unpacked({**packed(np.zeros(2)), "type": "|O"})
