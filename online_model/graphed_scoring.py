"""From histories to best items on a GPU: static buffers, and a CUDA graph for each copy of the weights and each size of batch.

A question is some hundred small kernels, and starting each from Python takes longer than it runs. A graph starts them all at once, and
reads and writes the same memory each time: the weights of its copy, which updates change in place, and the buffers of its batch.
"""

import logging
import threading
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.half_units import HalfUnits
from headrace.online_model.step_batch import Numbers
from headrace.online_model.transformer import NextItemTransformer, StepBatch

log = logging.getLogger(__name__)

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

SIZES = (1, 4, 16, 64, 256)
# Best items are found in multiples of these, so that few graphs answer all questions.
BEST_STEP = 64
WARM_UPS = 3
TOLERANCE = 1e-3
# Numbers of a step: all that a `StepBatch` holds but the lengths.
PER_STEP = len(StepBatch._fields) - 1


class Found(NamedTuple):
    """What is found for a batch of histories: their vectors, (batch, width), and the rows of their last items, (batch,); the rows of the
    best items, their logits, the most probable first, and their cosines to the last item, (batch, best) each; normalisers, (batch,).
    """

    vectors: Floats
    last_rows: Numbers
    rows: Numbers
    logits: Floats
    to_last: Floats
    normalisers: Floats


class GraphedScoring:
    """Scores by one copy of the weights. Any number of threads may ask; they are answered one after the other.

    `units`, (capacity, width), and `half` are what the copy keeps of its item table. All three must stay in place, whatever is written
    into them; so a copy whose table grows makes another one of these. Where there is no GPU the same is reckoned without a graph.
    """

    def __init__(self, model: NextItemTransformer, units: Tensor, half: HalfUnits) -> None:
        self._model, self._units, self._half = model, units, half
        self._batches: dict[tuple[int, int], _StaticBatch] = {}
        self._lock = threading.Lock()
        # Graphs that never run at the same time may use the same memory for what lies between input and output.
        self._pool = torch.cuda.graph_pool_handle() if units.device.type == "cuda" else None

    @torch.inference_mode()
    def make_ready(self, best: int) -> None:
        """Capture what is not captured yet, so that nobody who asks for so many best items waits for it."""
        with self._lock:
            for size in SIZES:
                self._batch(size, best)

    @torch.inference_mode()
    def score(self, numbers: Numbers, lengths: Numbers, best: int) -> Found:
        """Return what is found for histories as `step_batch.encode_numbers` returns them.

        Where fewer than `best` items are in use the last logits are minus infinity.
        """
        parts = []
        with self._lock:
            for first in range(0, len(lengths), SIZES[-1]):
                part = slice(first, first + SIZES[-1])
                size = next(size for size in SIZES if size >= len(lengths[part]))
                parts.append(self._batch(size, best).score(numbers[part], lengths[part]))
        found = Found(*map(np.concatenate, zip(*parts, strict=True)))
        return found._replace(rows=found.rows[:, :best], logits=found.logits[:, :best], to_last=found.to_last[:, :best])

    def _batch(self, size: int, best: int) -> "_StaticBatch":
        stepped = -(-best // BEST_STEP) * BEST_STEP
        if (size, stepped) not in self._batches:
            batch = _StaticBatch(self._model, self._units, self._half, size, stepped)
            if self._pool is not None:
                batch.capture(self._pool)
            self._batches[size, stepped] = batch
        return self._batches[size, stepped]


class _StaticBatch:
    """Buffers for batches of one size, on the device and, for copying at full speed, in pinned memory here."""

    def __init__(self, model: NextItemTransformer, units: Tensor, half: HalfUnits, size: int, best: int) -> None:
        self._model, self._units, self._half, self._best = model, units, half, best
        # A history's steps, then its length; no history is empty.
        self._asked = torch.zeros(size, PER_STEP * model.shape.length + 1, dtype=torch.int64, device=units.device)
        self._asked[:, -1] = 1
        is_on_gpu = units.device.type == "cuda"
        self._asked_here = torch.empty(self._asked.shape, dtype=torch.int64, pin_memory=is_on_gpu)
        self._told = self._compute()
        self._told_here = torch.empty(self._told.shape, pin_memory=is_on_gpu)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._done = torch.cuda.Event() if is_on_gpu else None

    def capture(self, pool: Any) -> None:
        """Capture what is computed as a graph. Where that fails, or the graph answers otherwise, all goes on without; the log says so."""
        try:
            graph, told, expected = self._captured(pool)
        except RuntimeError:
            log.exception("scoring could not be captured as a CUDA graph", extra={"batch": len(self._asked)})
            return
        graph.replay()
        if not torch.allclose(self._comparable(told), self._comparable(expected), atol=TOLERANCE):
            log.error("a CUDA graph does not answer as what it was captured from, and is not used", extra={"batch": len(self._asked)})
            return
        self._graph, self._told = graph, told

    def _captured(self, pool: Any) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """Return a graph, where it leaves its answer, and the answer as computed before."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            # What is made at the first use must not be made in the graph.
            for _ in range(WARM_UPS):
                expected = self._compute()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on answering, which is no fault of this capture.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            told = self._compute()
        return graph, told, expected

    def score(self, numbers: Numbers, lengths: Numbers) -> Found:
        """Return what is found for as many histories as there are places, or fewer."""
        count, steps = len(lengths), numbers.shape[1]
        asked = self._asked_here.numpy()
        asked[:, :-1], asked[:, -1] = 0, 1
        asked[:count, : PER_STEP * steps] = numbers.reshape(count, -1)
        asked[:count, -1] = lengths
        self._asked.copy_(self._asked_here, non_blocking=True)
        if self._graph is None:
            self._told = self._compute()
        else:
            self._graph.replay()
        self._told_here.copy_(self._told, non_blocking=True)
        if self._done is not None:
            self._done.record()
            self._done.synchronize()
        vectors, logits, to_last, normalisers, rows, last_rows = (part.numpy() for part in self._parts(self._told_here[:count].clone()))
        rows, last_rows = rows.view(np.int32).astype(np.int64), last_rows.view(np.int32).astype(np.int64)
        return Found(vectors, last_rows[:, 0], rows, logits, to_last, normalisers[:, 0])

    def _compute(self) -> Tensor:
        """Return all that `Found` holds side by side, (batch, numbers), so that one copy brings it here; whole numbers by their bits."""
        steps = StepBatch._make([*self._asked[:, :-1].unflatten(1, (-1, PER_STEP)).unbind(dim=2), self._asked[:, -1]])
        vectors = self._model.follow_to_end(self._units[steps.rows], steps)
        last_rows = steps.rows.gather(1, steps.lengths.unsqueeze(1) - 1)
        ranking = self._half.best(self._units, vectors, self._best, self._model.shape.temperature)
        to_last = (self._units[ranking.rows] @ self._units[last_rows[:, 0]].unsqueeze(2)).squeeze(2)
        whole = (one.to(torch.int32).view(torch.float32) for one in (ranking.rows, last_rows))
        return torch.cat([vectors, ranking.logits, to_last, ranking.normalisers.unsqueeze(1), *whole], dim=1)

    def _parts(self, told: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = told.split([self._units.shape[1], self._best, self._best, 1, self._best, 1], dim=1)
        return parts

    def _comparable(self, told: Tensor) -> Tensor:
        """Return vectors and normalisers; of equal logits any may come first."""
        vectors, _, _, normalisers, _, _ = self._parts(told)
        return torch.cat([vectors, normalisers], dim=1)
