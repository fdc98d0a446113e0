"""Intervals hold the true difference, are the same for a seed, and know that a shopper's questions hang together."""

import numpy as np
import pytest

from headrace.online_model.evaluation.bootstrap import compare


def made_up(seed: int, shoppers: int = 400, per_shopper: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gains whose means are 0.5 and 0.4, those of one shopper all moved alike."""
    draw = np.random.default_rng(seed)
    owners = np.repeat(np.arange(shoppers), per_shopper)
    moved = np.repeat(draw.normal(0, 0.3, shoppers), per_shopper)
    noise = draw.normal(0, 0.1, (2, len(owners)))
    return 0.5 + moved + noise[0], 0.4 + noise[1], owners


def test_the_figures_are_plain_means() -> None:
    found = compare(np.array([1.0, 0.5, 0.0]), np.array([0.5, 0.0, 0.25]), np.array([0, 0, 1]), seed=1)
    assert found is not None
    assert (found.difference, found.ratio, found.shoppers) == (pytest.approx(0.25), pytest.approx(2.0), 2)


def test_intervals_hold_a_known_difference_about_nineteen_times_in_twenty() -> None:
    held = []
    for seed in range(100):
        found = compare(*made_up(seed), seed=seed, resamples=300)
        assert found is not None
        assert found.difference_interval is not None
        low, high = found.difference_interval
        held.append(low <= 0.1 <= high)
    assert 88 <= sum(held) <= 100


def test_an_interval_over_shoppers_is_wider_than_one_over_questions() -> None:
    gains, other, owners = made_up(1, shoppers=100, per_shopper=20)
    clustered = compare(gains, other, owners, seed=1)
    careless = compare(gains, other, np.arange(len(gains)), seed=1)
    assert clustered is not None
    assert careless is not None
    widths = [np.diff(found.difference_interval)[0] for found in (clustered, careless)]
    assert widths[0] > 2 * widths[1]


def test_a_seed_gives_the_same_interval_each_time() -> None:
    assert compare(*made_up(1), seed=5) == compare(*made_up(1), seed=5)
    assert compare(*made_up(1), seed=5) != compare(*made_up(1), seed=6)


def test_a_model_does_not_differ_from_itself() -> None:
    gains, _, owners = made_up(1)
    found = compare(gains, gains, owners, seed=1)
    assert found is not None
    assert (found.difference, found.difference_interval, found.ratio, found.ratio_interval) == (0.0, (0.0, 0.0), 1.0, (1.0, 1.0))


def test_what_cannot_be_told_is_none() -> None:
    nothing = np.array([], dtype=np.float64)
    assert compare(nothing, nothing, nothing.astype(np.int64), seed=1) is None
    one = compare(np.array([0.5]), np.array([0.0]), np.array([0]), seed=1)
    assert one is not None
    assert (one.difference, one.difference_interval, one.ratio, one.ratio_interval) == (0.5, None, None, None)
