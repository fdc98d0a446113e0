"""The parts' weights follow how well each foresaw what came."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.online_model.mixture import Mixture

PARTS = ("covisitation", "neighbours", "own_history", "transformer", "popularity")
CHANCES = st.lists(st.floats(0, 1), min_size=len(PARTS), max_size=len(PARTS))


@given(st.lists(st.tuples(st.integers(0, 2), CHANCES), max_size=60))
@settings(max_examples=100, deadline=None)
def test_weights_are_a_distribution_whatever_comes(events: list[tuple[int, list[float]]]) -> None:
    mixture = Mixture(PARTS, 3)
    for context, chances in events:
        mixture.learn(context, np.array(chances))
    for context in range(3):
        weights = mixture.named(context)
        assert list(weights) == list(PARTS)
        assert sum(weights.values()) == pytest.approx(1.0)
        assert all(weight > 0 for weight in weights.values())


@pytest.mark.parametrize("better", PARTS)
def test_the_part_that_foresees_better_gains_until_it_leads(better: str) -> None:
    mixture, noise = Mixture(PARTS, 1), random.Random(1)
    before = mixture.named(0)[better]
    for _ in range(600):
        mixture.learn(0, np.array([noise.uniform(0.02, 0.05) + (0.1 if part == better else 0) for part in PARTS]))
    weights = mixture.named(0)
    assert weights[better] > before
    assert max(weights, key=lambda part: weights[part]) == better


def test_the_lead_changes_when_another_part_becomes_the_better() -> None:
    mixture = Mixture(PARTS, 1)
    for _ in range(1000):
        mixture.learn(0, np.array([0.5, 0.0, 0.0, 0.0, 0.0]))
    assert mixture.named(0)["covisitation"] > 0.99
    for _ in range(3000):
        mixture.learn(0, np.array([0.0, 0.0, 0.0, 0.5, 0.0]))
    assert mixture.named(0)["transformer"] > 0.9


def test_an_item_that_nobody_foresaw_changes_nothing() -> None:
    mixture = Mixture(PARTS, 1)
    before = mixture.named(0)
    mixture.learn(0, np.zeros(len(PARTS)))
    assert mixture.named(0) == pytest.approx(before)


def test_contexts_learn_apart() -> None:
    mixture = Mixture(PARTS, 2)
    before = mixture.named(1)
    mixture.learn(0, np.array([0.5, 0.0, 0.0, 0.0, 0.0]))
    assert mixture.named(1) == before
    assert mixture.named(0) != before
