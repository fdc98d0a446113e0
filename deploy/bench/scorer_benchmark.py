"""`headrace bench scorer`: how fast histories are scored against catalogues of several sizes, beside peers with the same weights."""

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from headrace.deploy.bench.progress import Progress
from headrace.deploy.bench.scorer_cuda import measure_cuda
from headrace.deploy.bench.scorer_http import HttpRow, measure_http
from headrace.deploy.bench.scorer_index import measure_index
from headrace.deploy.bench.scorer_limits import Limits, limit_of, measured
from headrace.deploy.bench.scorer_peers import BEST, EAGER, HEADRACE, KEPT, PEERS, WIDTH, Answerer, drawn_histories, drawn_model, made
from headrace.online_model.coarse_units import is_worth_it
from headrace.online_model.compression.onnx_export import export
from headrace.online_model.weights import ModelCopy

# Logits of a peer's batch; more would not fit into the memory of a small machine.
MOST_LOGITS = 1 << 28
LEAST_CALLS = 3
NO_GPU = "no GPU here"


@dataclass(frozen=True)
class Options:
    """Sizes of catalogues and batches; seconds of each measurement; HTTP: sizes, connections, repeats, and seconds of one."""

    items: tuple[int, ...]
    batches: tuple[int, ...]
    seconds: float
    http_items: tuple[int, ...]
    connections: int
    repeats: int
    http_seconds: float
    index_items: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """How many measurements there are."""
        return len(self.items) * len(self.batches) + len(self.http_items) + len(self.index_items) + 1


class Row(Struct, frozen=True):
    """One peer in the process, without HTTP. `limit` is 'memory' or 'arithmetic', in the precision in which the peer reads the table."""

    peer: str
    device: str
    items: int
    batch: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    share_of_limit: float
    limit: str
    ratio_to_eager: float
    ratio_to_kept: float


class Different(RuntimeError):
    """A peer does not give the answers that the others give."""


def measure_scorer(options: Options, progress: Progress) -> dict[str, Any]:
    """Measure all, and return what the JSON holds. Raises Different, Invalid, OSError."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    http: list[HttpRow] = []
    with tempfile.TemporaryDirectory(prefix="headrace-scorer-") as folder:
        for items in sorted({*options.items, *options.http_items}):
            progress.begin(f"{items} items")
            progress.tell("making and exporting the model")
            copy = drawn_model(items)
            file = Path(folder) / f"{items}.onnx"
            export(copy, file, BEST)
            if items in options.items:
                rows += _in_process(copy, file, options, progress)
            del copy
            if items in options.http_items:
                progress.begin("HTTP")
                http += measure_http(items, file, Path(folder), options.connections, options.repeats, options.http_seconds, progress.tell)
                progress.step()
            file.unlink()
    index = []
    for items in options.index_items:
        progress.begin(f"index of {items} items")
        index.append(measure_index(items))
        progress.step()
    progress.begin("CUDA")
    cuda = measure_cuda(options.items, options.batches, options.seconds) if torch.cuda.is_available() else NO_GPU
    progress.step()
    return {
        "rows": rows,
        "http": http,
        "index": index,
        "cuda": cuda,
        "best": BEST,
        "width": WIDTH,
        "machine": {"cores": os.cpu_count(), "torch": str(torch.__version__), "capability": torch.backends.cpu.get_cpu_capability()},
        "notes": {
            "peers": "the same weights, histories and encoder; 'eager torch' normalises the item table in each forward pass, as the "
            "trained module does; the second eager peer keeps unit vectors; onnxruntime has the whole model in its graph; one thread each",
            "share_of_limit": "the time that reading the table once and multiplying it with the batch takes at least, by speeds measured "
            "in this run for a table of the same size and precision, over the time that the whole answer takes",
            "http": "the same Starlette application; what waits is answered as one batch of 64 at most, for every peer",
        },
    }


def verdicts(found: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return, for each catalogue behind HTTP: the figure's name, its value, the goal, and whether it is met."""
    rows: list[HttpRow] = found["http"]
    kept = {row.items: row.requests_per_s for row in rows if row.peer == KEPT}
    return [
        (
            f"over eager torch, HTTP, {row.items} items",
            f"{row.ratio_to_eager:.2f} ({row.requests_per_s / kept[row.items]:.2f} with unit vectors kept)",
            ">= 2",
            row.ratio_to_eager >= 2.0,
        )
        for row in rows
        if row.peer == HEADRACE
    ]


def _in_process(copy: ModelCopy, file: Path, options: Options, progress: Progress) -> list[Row]:
    items = len(copy.items)
    answerers = {peer: made(peer, copy, file) for peer in PEERS}
    _require_equal(answerers, items)
    ours = {batch: torch.int8 if is_worth_it(copy.units, items, BEST, batch) else torch.float32 for batch in options.batches}
    limits = {dtype: measured(items, WIDTH, dtype) for dtype in {torch.float32, *ours.values()}}
    rows: list[Row] = []
    for batch in options.batches:
        progress.tell(f"batches of {batch}")
        precisions = dict.fromkeys(PEERS, torch.float32) | {HEADRACE: ours[batch]}
        there = {peer: answerer for peer, answerer in answerers.items() if peer == HEADRACE or batch * items <= MOST_LOGITS}
        took = _timed(there, items, batch, options.seconds)
        rows += _rows(took, items, batch, precisions, limits)
        progress.step()
    return rows


def _require_equal(answerers: Mapping[str, Answerer], items: int) -> None:
    """Raise Different where the logits of the best items are not those that eager torch finds."""
    histories = drawn_histories(items, 8, seed=3)
    expected = answerers[EAGER].answer(histories)
    for peer, answerer in answerers.items():
        for (_, logits), (_, right) in zip(answerer.answer(histories), expected, strict=True):
            if max(abs(one - other) for one, other in zip(logits, right, strict=True)) > 1e-3:
                raise Different(f"{peer}: the logits of the {BEST} best of {items} items differ from those of {EAGER}")


def _timed(answerers: Mapping[str, Answerer], items: int, batch: int, seconds: float) -> dict[str, list[float]]:
    """Return the seconds of each call of each peer, in turns, until the time is up for all."""
    took: dict[str, list[float]] = {peer: [] for peer in answerers}
    batches = [drawn_histories(items, batch, seed=10 + number) for number in range(4)]
    for answerer in answerers.values():
        answerer.answer(batches[0])
    open_peers = list(answerers)
    while open_peers:
        for peer in list(open_peers):
            histories = batches[len(took[peer]) % len(batches)]
            started_s = time.perf_counter()
            answerers[peer].answer(histories)
            took[peer].append(time.perf_counter() - started_s)
            if sum(took[peer]) >= seconds and len(took[peer]) >= LEAST_CALLS:
                open_peers.remove(peer)
    return took


def _rows(
    took: Mapping[str, list[float]], items: int, batch: int, precisions: Mapping[str, torch.dtype], limits: Mapping[torch.dtype, Limits]
) -> list[Row]:
    medians = {peer: statistics.median(times) for peer, times in took.items()}
    rows = []
    for peer, times in took.items():
        limit = limit_of(limits[precisions[peer]], items, WIDTH, batch, precisions[peer])
        rows.append(
            Row(
                peer,
                "cpu",
                items,
                batch,
                batch / medians[peer],
                1000.0 * medians[peer],
                1000.0 * sorted(times)[min(len(times) - 1, int(0.99 * len(times)))],
                limit.seconds / medians[peer],
                limit.name,
                medians.get(EAGER, float("nan")) / medians[peer],
                medians.get(KEPT, float("nan")) / medians[peer],
            )
        )
    return rows
