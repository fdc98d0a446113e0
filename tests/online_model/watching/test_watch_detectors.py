"""Detectors of one stream of values, and the tests of two windows: each finds a planted change and keeps silent without one."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.online_model.watching.configuration import DETECTORS
from headrace.online_model.watching.detectors import RIVER, Change, Detector, RiverDetector, detector_of
from headrace.online_model.watching.window_tests import (
    TESTS,
    WindowDetector,
    chi_square,
    classifier,
    kolmogorov_smirnov,
    mmd,
    psi,
    window_detector,
)

CHANGED_AT = 2000
# Of its own accord it tests each value at 0.005, which is a false alarm each few hundred values.
OPTIONS: dict[str, dict[str, Any]] = {"kswin": {"alpha": 1e-8}}
Values = NDArray[np.float64]


def numbers(random: np.random.Generator, count: int, *, is_changed: bool) -> Values:
    """Return values around 0, or around 1."""
    return random.normal(float(is_changed), 0.1, count)


def errors(random: np.random.Generator, count: int, *, is_changed: bool) -> Values:
    """Return 1 for each error: one in ten, or six."""
    return (random.random(count) < (0.6 if is_changed else 0.1)).astype(np.float64)


def even_errors(random: np.random.Generator, count: int, *, is_changed: bool) -> Values:
    """Return errors about as far from each other: 20 values, or 3 (eddm looks at these distances, and has a hard time with chance)."""
    places = np.cumsum(random.integers(2, 5, count) if is_changed else random.integers(18, 23, count))
    values = np.zeros(count)
    values[places[places < count]] = 1.0
    return values


STREAMS = {**dict.fromkeys(RIVER, numbers), **dict.fromkeys(("ddm", "hddm_a", "hddm_w"), errors), "eddm": even_errors}


def found_in(detector: Detector, values: Values) -> list[tuple[int, Change]]:
    """Return all that a detector finds, each with the place at which it does; value `n` has the time 1000 n."""
    told = ((place, detector.observe(float(value), 1000 * place)) for place, value in enumerate(values))
    return [(place, change) for place, change in told if change is not None]


@pytest.mark.parametrize("name", RIVER)
def test_river_s_detectors_find_a_planted_change(name: str) -> None:
    random = np.random.default_rng(3)
    make = STREAMS[name]
    values = np.concatenate([make(random, CHANGED_AT, is_changed=False), make(random, 1000, is_changed=True)])
    place, change = found_in(RiverDetector(name, warm_up=1000, **OPTIONS.get(name, {})), values)[0]
    assert CHANGED_AT <= place < CHANGED_AT + (400 if name == "eddm" else 200)
    assert change.level_after > change.level_before
    assert change.observations == place + 1
    assert 1000 * (CHANGED_AT - 200) < change.since_ms <= 1000 * place
    assert change.p_value is None


@pytest.mark.parametrize("name", RIVER)
def test_river_s_detectors_keep_silent_where_nothing_changes(name: str) -> None:
    values = STREAMS[name](np.random.default_rng(3), 2 * CHANGED_AT, is_changed=False)
    assert found_in(RiverDetector(name, warm_up=1000, **OPTIONS.get(name, {})), values) == []


def test_nothing_is_told_during_the_warm_up() -> None:
    random = np.random.default_rng(3)
    values = np.concatenate([numbers(random, 500, is_changed=False), numbers(random, 500, is_changed=True)])
    assert len(found_in(RiverDetector("adwin"), values)) == 1
    assert found_in(RiverDetector("adwin", warm_up=1000), values) == []
    assert found_in(detector_of("adwin", warm_up=1000), values) == []


def test_each_name_of_the_configuration_has_a_detector() -> None:
    for name in DETECTORS:
        if name != "windows":
            assert isinstance(detector_of(name), RiverDetector if name in RIVER else WindowDetector)  # type: ignore[arg-type]


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"detector: one of adwin, .* was expected; the value is 'adwim'"):
        RiverDetector("adwim")
    with pytest.raises(ValueError, match=r"detector: one of psi, .* was expected; the value is 'psy'"):
        window_detector("psy")


def samples(name: str, *, is_changed: bool, count: int = 1000) -> Values:
    """Return values of a normal distribution, or for chi_square numbers of names; changed ones lie elsewhere."""
    random = np.random.default_rng(5 + is_changed)
    if name == "chi_square":
        return random.choice(3, count, p=[0.3, 0.3, 0.4] if is_changed else [0.6, 0.3, 0.1]).astype(np.float64)
    return random.normal(1.5 * is_changed, 1.0, count)


@pytest.mark.parametrize("name", TESTS)
def test_window_detectors_find_a_planted_change(name: str) -> None:
    values = np.concatenate([samples(name, is_changed=False, count=CHANGED_AT), samples(name, is_changed=True)])
    found = found_in(window_detector(name, every=128, reference=512, newest=256), values)
    place, change = found[0]
    assert CHANGED_AT <= place <= CHANGED_AT + 256
    assert change.level_after > change.level_before
    assert change.p_value is not None
    assert change.p_value < 1e-6
    assert (change.window, change.observations, change.since_ms) == (256, place + 1, 1000 * (place - 255))


@pytest.mark.parametrize("name", TESTS)
def test_window_detectors_keep_silent_where_nothing_changes(name: str) -> None:
    values = samples(name, is_changed=False, count=2 * CHANGED_AT)
    assert found_in(window_detector(name, every=128, reference=512, newest=256), values) == []


def test_a_window_detector_starts_anew_after_a_change() -> None:
    values = np.concatenate([samples("ks", is_changed=False, count=CHANGED_AT), samples("ks", is_changed=True, count=CHANGED_AT)])
    assert len(found_in(window_detector("ks", reference=512, newest=128), values)) == 1


@pytest.mark.parametrize("name", ["psi", "ks", "mmd", "classifier"])
def test_p_values_are_spread_evenly_where_nothing_has_changed(name: str) -> None:
    random = np.random.default_rng(7)
    rounds = 100
    p_values = np.array([TESTS[name](random.normal(size=200), random.normal(size=100))[1] for _ in range(rounds)])
    for limit in (0.1, 0.3):
        # Three standard deviations of the number below the limit; fewer than that is careful, not wrong.
        assert (p_values <= limit).sum() <= rounds * limit + 3 * np.sqrt(rounds * limit * (1 - limit))
    assert p_values.max() > 0.5


def test_the_index_of_two_equal_samples_is_nothing() -> None:
    values = np.random.default_rng(7).normal(size=1000)
    assert psi(values, values) == (0.0, 1.0)
    assert kolmogorov_smirnov(values, values) == (0.0, 1.0)


def test_the_distance_of_samples_that_lie_apart_is_one() -> None:
    distance, p_value = kolmogorov_smirnov(np.arange(100.0), np.arange(100.0) + 1000)
    assert distance == 1.0
    assert p_value < 1e-20


def test_values_that_are_alike_count_less() -> None:
    random = np.random.default_rng(7)
    old, new = random.normal(size=500), random.normal(0.5, 1.0, 500)
    for test in (psi, kolmogorov_smirnov):
        assert test(old, new, 10.0)[1] > 1e3 * test(old, new)[1]
    assert chi_square([80, 20], [50, 50], 10.0)[1] > 1e3 * chi_square([80, 20], [50, 50])[1]


def test_chi_square_is_that_of_the_textbook() -> None:
    statistic, p_value = chi_square([30, 70], [50, 50])
    assert statistic == pytest.approx(25 / 3)
    assert p_value == pytest.approx(0.0038924, rel=1e-4)


@pytest.mark.parametrize(("old", "new"), [([10, 0], [20, 0]), ([0, 0], [5, 5]), ([2, 2], [1, 1])])
def test_chi_square_finds_nothing_where_there_is_too_little_to_compare(old: list[int], new: list[int]) -> None:
    assert chi_square(old, new) == (0.0, 1.0)


def test_several_features_at_once_show_what_one_by_one_does_not() -> None:
    random = np.random.default_rng(7)
    old = random.normal(size=(400, 2))
    shared = random.normal(size=(400, 1))
    new = 0.9 * shared + np.sqrt(1 - 0.9**2) * random.normal(size=(400, 2))
    assert mmd(old, new)[1] < 1e-6
    assert kolmogorov_smirnov(old[:, 0], new[:, 0])[1] > 0.01
    detector = window_detector("mmd", reference=400, newest=200, every=200)
    told = [detector.observe(row, place) for place, row in enumerate(np.concatenate([old, new[:200]]))]
    assert told[-1] is not None


def test_the_classifier_s_share_is_half_where_it_guesses() -> None:
    random = np.random.default_rng(7)
    share, p_value = classifier(random.normal(size=(500, 3)), random.normal(size=(500, 3)))
    assert share == pytest.approx(0.5, abs=0.07)
    assert p_value > 0.01
    share, p_value = classifier(random.normal(size=(500, 3)), random.normal(3.0, 1.0, (500, 3)))
    assert share > 0.95
    assert p_value < 1e-20
