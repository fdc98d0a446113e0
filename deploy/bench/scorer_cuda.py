"""Scoring on a GPU: the catalogue in bf16, static buffers, and one CUDA graph for each batch size, beside eager torch in fp32.

The graph takes the histories' vectors from one buffer and leaves the best items in two others; encoding and the network, the same for
both, are left out. The catalogue is scored exhaustively.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from headrace.deploy.bench.scorer_limits import limit_of, measured
from headrace.deploy.bench.scorer_peers import BEST, WIDTH

WARM_UPS = 3
LEAST_CALLS = 20


def measure_cuda(items: Sequence[int], batches: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Return a row for each catalogue and batch; torch must see a GPU."""
    name = torch.cuda.get_device_name()
    rows = []
    for count in items:
        units = torch.nn.functional.normalize(torch.randn(count, WIDTH, device="cuda"), dim=1)
        coarse = units.to(torch.bfloat16)
        limits = measured(count, WIDTH, torch.bfloat16, "cuda")
        for batch in batches:
            vectors = torch.randn(batch, WIDTH, device="cuda")
            graph = _graph(coarse, vectors.to(torch.bfloat16))
            ours, eager = _timed(graph.replay, seconds), _timed(partial(_eager, vectors, units), seconds)
            limit = limit_of(limits, count, WIDTH, batch, torch.bfloat16)
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


def _eager(vectors: torch.Tensor, units: torch.Tensor) -> None:
    (vectors @ units.T).topk(BEST, dim=1)


def _graph(units: torch.Tensor, vectors: torch.Tensor) -> torch.cuda.CUDAGraph:
    """Record the scoring of a batch; the buffers stay where they are while the graph lives."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            (vectors @ units.T).topk(BEST, dim=1)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (vectors @ units.T).topk(BEST, dim=1)
    return graph


def _timed(work: Callable[[], object], seconds: float) -> list[float]:
    took: list[float] = []
    work()
    torch.cuda.synchronize()
    while sum(took) < seconds or len(took) < LEAST_CALLS:
        started_s = time.perf_counter()
        work()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - started_s)
    return took
