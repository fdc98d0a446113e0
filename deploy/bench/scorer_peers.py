"""Those who score the same histories by the same weights: Headrace, plain torch, torch that keeps what it can, ONNX Runtime.

Each gets histories as they come from a store and returns the ids and logits of the 100 best items of each. All encode histories by the same
function, and all take one thread.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from headrace.online_model.scorer import score_with
from headrace.online_model.transformer import UNKNOWN, StepBatch, encode, last_vectors
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry
from headrace.schemas.feature_rows import Kind

BEST = 100
WIDTH = 64
HEADRACE, EAGER, KEPT, ONNX = "headrace", "eager torch", "eager torch, unit vectors kept", "onnxruntime"
PEERS = (HEADRACE, EAGER, KEPT, ONNX)

Histories = Sequence[Sequence[HistoryEntry]]
Answers = list[tuple[list[str], list[float]]]


class Answerer(Protocol):
    """Whoever scores."""

    def answer(self, histories: Histories) -> Answers:
        """Return ids and logits of the best items of each history, the best first."""
        ...


def drawn_model(items: int, device: str = "cpu") -> ModelCopy:
    """Return a model with this many items in all, of weights drawn at random, the same at each call."""
    copy = ModelCopy(device=device, seed=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        copy.add_items([f"item-{number}" for number in range(1, items)])
    copy.renew_units()
    return copy


def drawn_histories(items: int, count: int, seed: int) -> list[list[HistoryEntry]]:
    """Return histories of 1 to 20 steps, drawn at random."""
    draw = random.Random(seed)
    kinds: list[Kind] = ["view", "view", "view", "cart", "purchase"]
    return [
        [
            HistoryEntry(
                f"item-{draw.randrange(1, items)}", draw.choice(kinds), 1_700_000_000_000 + 40_000 * step, draw.uniform(1, 500), "shelf"
            )
            for step in range(draw.randint(1, 20))
        ]
        for _ in range(count)
    ]


class Headrace:
    """The function that serves (`scorer.score_with`)."""

    def __init__(self, copy: ModelCopy) -> None:
        self._copy = copy

    def answer(self, histories: Histories) -> Answers:
        """Score, without the normaliser, which no peer reckons either."""
        scores = score_with(self._copy, histories, best=BEST, normalised=False)
        return [([self._copy.items[row] for row in scored.best_rows.tolist()], scored.best_logits.tolist()) for scored in scores]


class EagerTorch:
    """The module as it was trained: its forward pass, the logits of the whole catalogue, torch.topk. `keeps` unit vectors or not."""

    def __init__(self, copy: ModelCopy, *, keeps: bool) -> None:
        self._copy = copy
        self._units = copy.units[: len(copy.items)] if keeps else None

    @torch.inference_mode()
    def answer(self, histories: Histories) -> Answers:
        """Score as plain code does."""
        model = self._copy.model
        vectors = last_vectors(model, encode(histories, self._copy.rows, model.shape.length))
        units = model.unit_items(torch.arange(len(self._copy.items))) if self._units is None else self._units
        logits = vectors @ units.T
        logits[:, UNKNOWN] = float("-inf")
        top = logits.topk(BEST, dim=1)
        return _named(self._copy, top.indices.tolist(), top.values.tolist())


class OnnxRuntime:
    """The exported model, with the catalogue and its best items in the graph."""

    def __init__(self, copy: ModelCopy, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._copy = copy
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def answer(self, histories: Histories) -> Answers:
        """Score by ONNX Runtime."""
        from headrace.online_model.compression.onnx_export import padded

        length = self._copy.model.shape.length
        steps: StepBatch = encode(histories, self._copy.rows, length)
        logits, rows = self._session.run(None, padded(steps, length))
        return _named(self._copy, rows.tolist(), logits.tolist())


def made(peer: str, copy: ModelCopy, onnx_file: Path) -> Answerer:
    """Return the answerer of this name."""
    if peer == HEADRACE:
        return Headrace(copy)
    if peer == ONNX:
        return OnnxRuntime(copy, onnx_file)
    return EagerTorch(copy, keeps=peer == KEPT)


def _named(copy: ModelCopy, rows: list[list[int]], logits: list[list[float]]) -> Answers:
    return [([copy.items[row] for row in of_one], told) for of_one, told in zip(rows, logits, strict=True)]
