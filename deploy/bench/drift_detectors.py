"""Each detector alone: on streams of River with planted drifts, and on the shop's own loss and misses.

On River's streams a Hoeffding tree is tested and then taught; detectors see its errors. A finding within 2,000 examples
behind a drift is the drift seen; a second one there, and any other, is a false alarm.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.deploy.bench.drift_peers import Series
from headrace.deploy.bench.drift_runs import plan_of
from headrace.deploy.bench.drift_score import Score
from headrace.deploy.bench.drift_signals import signals_of
from headrace.deploy.bench.drift_streams import Plan, planted_stream
from headrace.online_model.watching.budget import Budget
from headrace.online_model.watching.configuration import Watch
from headrace.online_model.watching.detectors import RIVER, detector_of
from headrace.online_model.watching.plane import Plane
from headrace.online_model.watching.signals import Batch
from headrace.online_model.watching.window_tests import window_detector

EXAMPLES, DRIFT_EVERY, SEEN_WITHIN = 20_000, 5_000, 2_000
WARM_UP, SHOP_SEEN_WITHIN = 50_000, 8_000
OURS = "headrace"
NAMES = (*RIVER, "psi", "ks", OURS)
# Reference and window of the outside peers: above 1,000 values Evidently takes its tests for large ones, and smaller windows than
# these would take its distance on the shop's losses beyond its limit by chance.
PEER_WINDOWS, PEER_WINDOWS_OF_THE_SHOP = (1_024, 512), (4_096, 1_024)
STREAMS = ("SEA", "STAGGER", "Agrawal", "Sine", "Mixed")
_BINARY = ("ddm", "eddm", "hddm_a", "hddm_w")
_BLOCK = 16
_STEP_MS = 1000


def known_stream(name: str, seed: int) -> tuple[dict[str, Score], list[Series]]:
    """Return the score of each detector on one of River's streams, and the errors, for the peers to judge."""
    errors = _errors(name, seed)
    places = list(range(DRIFT_EVERY, EXAMPLES, DRIFT_EVERY))
    scores = {detector: Score() for detector in NAMES}
    for detector, score in scores.items():
        score.add(_found(detector, errors), places, len(errors), SEEN_WITHIN)
    return scores, [Series(errors, np.arange(len(errors)), places, SEEN_WITHIN, *PEER_WINDOWS)]


def shop_stream(seed: int) -> tuple[dict[str, Score], list[Series]]:
    """Return the scores of River's detectors alone on the shop: its prequential loss, or for those of errors its misses.

    The losses come with them, for the peers to judge. Without drift, and with an abrupt change of taste, which counts as seen within
    8,000 events. The first 50,000 events are left out.
    """
    scores = {name: Score() for name in RIVER}
    series: list[Series] = []
    for plan in (Plan("none", 150_000), plan_of("abrupt", seed)):
        columns = planted_stream(seed, plan)
        signals = signals_of(columns, plan)
        there = ~np.isnan(signals[:, 0])
        events = columns.event[there]
        begin = int(np.searchsorted(events, WARM_UP))
        series.append(Series(signals[there, 0][begin:], events[begin:], list(plan.places), SHOP_SEEN_WITHIN, *PEER_WINDOWS_OF_THE_SHOP))
        for name in RIVER:
            if name == "kswin" and plan.kind == "none":
                # A millisecond for each value: one stream tells enough of it.
                continue
            values = (1.0 - signals[there, 1] if name in _BINARY else signals[there, 0])[begin:]
            found = [int(events[begin + at]) for at in _heard(name, values)]
            scores[name].add(found, list(plan.places), len(values), SHOP_SEEN_WITHIN)
    return scores, series


def _found(detector: str, errors: NDArray[np.float64]) -> list[int]:
    if detector == OURS:
        return _watched(errors)
    if detector in ("psi", "ks"):
        means = errors.reshape(-1, _BLOCK).mean(axis=1)
        window = window_detector(detector, limit=1e-4, reference=128, newest=32, every=4)
        return [at * _BLOCK for at, value in enumerate(means.tolist()) if window.observe(value, at) is not None]
    return _heard(detector, errors)


def _heard(name: str, values: NDArray[np.float64]) -> list[int]:
    detector = detector_of(name)  # type: ignore[arg-type]
    return [at for at, value in enumerate(values.tolist()) if detector.observe(value, at) is not None]


def _watched(errors: NDArray[np.float64]) -> list[int]:
    """Return where our level tests find the errors to rise, with half a false alarm for a million allowed; after each all begins anew."""
    watch = Watch("hit_rate", direction="down", warm_up=512, share=1.0)
    plane = Plane([watch], (), _BLOCK, Budget(0.5, [1.0], _BLOCK))
    found: list[int] = []
    times = np.arange(len(errors), dtype=np.int64) * _STEP_MS
    for begin in range(0, len(errors), _BLOCK):
        end = begin + _BLOCK
        for finding in plane.add(Batch(times[begin:end], {"hit_rate": 1.0 - errors[begin:end]})):
            found.append(end - 1)
            window = finding.found[0].window // _BLOCK
            plane.settle([0], window)
    return found


def _errors(name: str, seed: int) -> NDArray[np.float64]:
    from river import tree

    model = tree.HoeffdingTreeClassifier(grace_period=100)
    errors = np.zeros(EXAMPLES)
    for at, (features, label) in enumerate(itertools.islice(_stream(name, seed), EXAMPLES)):
        errors[at] = float(model.predict_one(features) != label)
        model.learn_one(features, label)
    return errors


def _stream(name: str, seed: int) -> Iterator[tuple[dict[Any, Any], Any]]:
    """Yield examples whose rule changes each 5,000."""
    from river.datasets import synth

    makers: dict[str, Callable[[int], Any]] = {
        "SEA": lambda turn: synth.SEA(variant=(0, 2, 3, 1)[turn % 4], seed=seed + turn),
        "STAGGER": lambda turn: synth.STAGGER(classification_function=turn % 3, seed=seed + turn),
        "Agrawal": lambda turn: synth.Agrawal(classification_function=(0, 2, 3, 1)[turn % 4], seed=seed + turn),
        "Sine": lambda turn: synth.Sine(classification_function=turn % 4, seed=seed + turn),
        "Mixed": lambda turn: synth.Mixed(classification_function=turn % 2, seed=seed + turn),
    }
    for turn in itertools.count():
        yield from makers[name](turn).take(DRIFT_EVERY)
