"""The measures, against values worked out by hand and against their definitions."""

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.online_model.evaluation.measures import CUTOFFS, coverage, moving_mean, quality

PLACES = st.lists(st.integers(-1, 30), min_size=1, max_size=40)


def test_the_measures_are_those_worked_out_by_hand() -> None:
    # First, third, eleventh, and not listed.
    measured = quality(np.array([0, 2, 10, -1]))
    assert measured == {
        "hr@5": 0.5,
        "ndcg@5": pytest.approx((1 + 0.5) / 4),
        "mrr@5": pytest.approx((1 + 1 / 3) / 4),
        "hr@10": 0.5,
        "ndcg@10": pytest.approx((1 + 0.5) / 4),
        "mrr@10": pytest.approx((1 + 1 / 3) / 4),
        "hr@20": 0.75,
        "ndcg@20": pytest.approx((1 + 0.5 + 1 / log2(12)) / 4),
        "mrr@20": pytest.approx((1 + 1 / 3 + 1 / 11) / 4),
    }


def test_nothing_asked_has_no_quality() -> None:
    assert set(quality(np.array([], dtype=np.int64)).values()) == {None}


@given(PLACES)
@settings(max_examples=200, deadline=None)
def test_the_measures_follow_their_definitions(places: list[int]) -> None:
    measured = quality(np.array(places))
    for cutoff in CUTOFFS:
        hr = ndcg = mrr = 0.0
        for place in places:
            for position in range(1, cutoff + 1):
                if place == position - 1:
                    hr, ndcg, mrr = hr + 1, ndcg + 1 / log2(position + 1), mrr + 1 / position
        expected = [total / len(places) for total in (hr, ndcg, mrr)]
        assert [measured[f"{name}@{cutoff}"] for name in ("hr", "ndcg", "mrr")] == pytest.approx(expected)


def test_coverage_counts_only_what_is_in_the_catalogue() -> None:
    assert coverage({"a", "b", "elsewhere"}, ["a", "b", "c", "d"]) == 0.5
    assert coverage({"a"}, []) == 0.0


def test_a_moving_mean_takes_each_window_once() -> None:
    assert moving_mean(np.array([1.0, 2.0, 3.0, 6.0]), 2).tolist() == [1.5, 2.5, 4.5]
    assert moving_mean(np.array([1.0, 2.0]), 50).tolist() == [1.5]
