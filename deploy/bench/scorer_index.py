"""The approximate index beside the exact search of the scorer: time of one question, recall, time to build it and to follow changed rows.

Vectors lie in clusters of fifty, as those of trained items do; questions lie near items. Without clusters recall is lower.
"""

import statistics
import time
from collections.abc import Callable

import torch
from msgspec import Struct
from torch.nn import functional

from headrace.deploy.bench.scorer_peers import BEST, WIDTH, drawn_model
from headrace.online_model.catalogue_index import CatalogueIndex
from headrace.online_model.scorer import search

QUESTIONS = 200
CHANGED = 1000
CLUSTER, SPREAD, NEAR = 50, 0.5, 0.05


class IndexRow(Struct, frozen=True):
    """What the index takes and finds, and what the exact search takes."""

    items: int
    build_s: float
    recall_at_100: float
    p50_ms: float
    exact_p50_ms: float
    update_1000_ms: float


def measure_index(items: int) -> IndexRow:
    """Build and ask."""
    draw = torch.Generator().manual_seed(5)
    copy = drawn_model(items)
    capacity = len(copy.units)
    centres = torch.randn(max(1, capacity // CLUSTER), WIDTH, generator=draw)
    places = torch.randint(len(centres), (capacity,), generator=draw)
    copy.units = units = functional.normalize(centres[places] + SPREAD * torch.randn(capacity, WIDTH, generator=draw), dim=1)
    asked = units[torch.randint(1, items, (QUESTIONS,), generator=draw)]
    vectors = functional.normalize(asked + NEAR * torch.randn(QUESTIONS, WIDTH, generator=draw), dim=1)
    started_s = time.perf_counter()
    index = CatalogueIndex(units, items)
    build_s = time.perf_counter() - started_s
    recall = index.recall(vectors, BEST, items)
    p50_ms = _median_ms(lambda place: index.best(vectors[place : place + 1], BEST))
    exact_ms = _median_ms(lambda place: search(copy, vectors[place : place + 1], BEST, normalised=False))
    started_s = time.perf_counter()
    index.put(torch.arange(1, 1 + CHANGED), units)
    return IndexRow(items, build_s, recall, p50_ms, exact_ms, 1000.0 * (time.perf_counter() - started_s))


def _median_ms(ask: Callable[[int], object]) -> float:
    took = []
    ask(0)
    for place in range(QUESTIONS):
        started_s = time.perf_counter()
        ask(place)
        took.append(1000.0 * (time.perf_counter() - started_s))
    return statistics.median(took)
