"""Scoring on a GPU: from encoded histories to best items in the memory of the host, by CUDA graphs, beside eager torch in 32 bits."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from headrace.deploy.bench.scorer_limits import limit_of, measured
from headrace.deploy.bench.scorer_peers import BEST, WIDTH, drawn_histories, drawn_model
from headrace.online_model.step_batch import Numbers, as_batch, encode_numbers
from headrace.online_model.transformer import StepBatch, last_vectors
from headrace.online_model.weights import ModelCopy

LEAST_CALLS = 20


def measure_cuda(items: Sequence[int], batches: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Return a row for each catalogue and batch; torch must see a GPU."""
    name = torch.cuda.get_device_name()
    rows = []
    for count in items:
        copy = drawn_model(count, "cuda")
        graphed = copy.graphed_scoring(BEST)
        # The smallest table that a copy has is large enough.
        assert graphed is not None
        limits = measured(count, WIDTH, torch.float16, "cuda")
        for batch in batches:
            asked = encode_numbers(drawn_histories(count, batch, seed=batch), copy.rows, copy.model.shape.length)
            ours, eager = _timed(partial(graphed.score, *asked, BEST), seconds), _timed(partial(_eager, copy, *asked), seconds)
            limit = limit_of(limits, count, WIDTH, batch, torch.float16)
            p50_s = statistics.median(ours)
            rows.append(
                {
                    "peer": "headrace",
                    "device": name,
                    "items": count,
                    "batch": batch,
                    "requests_per_s": batch / p50_s,
                    "p50_ms": 1000.0 * p50_s,
                    "p99_ms": 1000.0 * sorted(ours)[int(0.99 * len(ours))],
                    "share_of_limit": limit.seconds / p50_s,
                    "limit": limit.name,
                    "ratio_to_eager": statistics.median(eager) / p50_s,
                }
            )
    return rows


@torch.inference_mode()
def _eager(copy: ModelCopy, numbers: Numbers, lengths: Numbers) -> None:
    steps = StepBatch(*(each.to(copy.device) for each in as_batch(numbers, lengths)))
    units = copy.model.unit_items(torch.arange(len(copy.items), device=copy.device))
    top = (last_vectors(copy.model, steps) @ units.T).topk(BEST, dim=1)
    top.values.cpu(), top.indices.cpu()


def _timed(work: Callable[[], object], seconds: float) -> list[float]:
    took: list[float] = []
    work()
    while sum(took) < seconds or len(took) < LEAST_CALLS:
        started_s = time.perf_counter()
        work()
        took.append(time.perf_counter() - started_s)
    return took
