"""Choosing the best, held against NumPy's own sorting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headrace.online_model.choosing import choose, strongest

# Few values, so that many are equal.
FEW = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0])


@settings(deadline=None)
@given(scores=arrays(np.float32, st.integers(1, 60), elements=FEW), k=st.integers(1, 20))
def test_the_best_come_first_and_of_equals_the_one_found_first(scores: np.ndarray, k: int) -> None:
    k = min(k, len(scores))
    rows, chances = np.empty(k, np.int64), np.empty(k, np.float32)
    choose(scores, rows, chances)
    assert rows.tolist() == np.argsort(-scores, kind="stable")[:k].tolist()
    assert chances == pytest.approx((np.exp(scores) / np.exp(scores).sum())[rows], rel=1e-5)


@settings(deadline=None)
@given(strengths=arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.sampled_from([0.0, 0.25, 1.0])))
def test_the_strongest_steps_are_told_with_their_shares(strengths: np.ndarray) -> None:
    most = min(3, strengths.shape[1])
    places, shares = np.empty((len(strengths), most), np.int64), np.empty((len(strengths), most), np.float32)
    strongest(strengths, places, shares)
    assert places.tolist() == np.argsort(-strengths, axis=1, kind="stable")[:, :most].tolist()
    expected = np.take_along_axis(strengths, places, axis=1) / np.maximum(strengths.sum(axis=1, keepdims=True), 1e-9)
    assert shares == pytest.approx(expected, rel=1e-5)
