"""The history encoder as ONNX, so that other runtimes can serve it, checked against torch with ONNX Runtime.

The file holds the network that turns steps into the vector of what follows, and the unit vectors of all items. Its inputs are those of
`step_batch.StepBatch`, of any batch and of the network's full length, padded with 0; its outputs the vectors, (batch, width). With `best`
items wanted, the outputs are the logits and rows of the best items instead, (batch, best) each.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.online_model.step_batch import GAPS, KIND_ROWS, PRICES
from headrace.online_model.transformer import UNKNOWN, Block, NextItemTransformer, StepBatch, last_vectors
from headrace.online_model.weights import ModelCopy

INPUTS = ("rows", "kinds", "gaps", "prices", "categories", "lengths")
VECTORS, LOGITS, BEST_ROWS = "vectors", "logits", "best_rows"
CHECKED_HISTORIES = 64


class NotEqual(ValueError):
    """What ONNX Runtime says differs from what torch says by more than rounding."""


class Exported(NamedTuple):
    """The file, and by how much its numbers differ from torch's at most, on histories drawn at random."""

    file: Path
    max_difference: float


class Encoder(nn.Module):
    """The network over padded steps, with the units of items at hand: no embedding is normalised while it answers."""

    def __init__(self, model: NextItemTransformer, units: Tensor, best: int | None) -> None:
        super().__init__()
        self.model = model
        self.units = nn.Parameter(units.clone(), requires_grad=False)
        self.best = best

    def forward(
        self, rows: Tensor, kinds: Tensor, gaps: Tensor, prices: Tensor, categories: Tensor, lengths: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the vectors after the last steps; or the best items."""
        model = self.model
        vectors = functional.embedding(rows, self.units) + model.kinds(kinds) + model.gaps(gaps) + model.prices(prices)
        hashed = torch.where(categories > 0, 1 + categories.remainder(model.shape.categories - 1), 0)
        vectors = vectors + model.categories(hashed) + model.positions[None]
        for block in model.blocks:
            vectors = _passed(cast(Block, block), vectors)
        last = vectors.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, vectors.shape[2]))[:, 0]
        # Not `normalize`: its lower bound of the length becomes a branch in ONNX.
        normed = model.out_norm(last)
        told: Tensor = model.shape.temperature * normed / normed.norm(dim=1, keepdim=True)
        if self.best is None:
            return told
        logits = told @ self.units[1:].T
        top = logits.topk(self.best, dim=1)
        return top.values, top.indices + 1


def export(copy: ModelCopy, file: Path, best: int | None = None) -> Exported:
    """Write the model as ONNX and compare it with torch. Raises NotEqual, OSError; ImportError without the extra 'compress'."""
    copy_units = copy.units[: len(copy.items)].cpu()
    encoder = Encoder(copy.model, copy_units, best).eval()
    example = drawn_steps(copy, 3, seed=0)
    batch = torch.export.Dim("batch", min=1, max=65_536)
    with _quiet():
        program = torch.onnx.export(
            encoder,
            tuple(example),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=[VECTORS] if best is None else [LOGITS, BEST_ROWS],
            dynamic_shapes=tuple({0: batch} for _ in INPUTS),
            verbose=False,
        )
    if program is None:
        raise NotEqual("torch.onnx gave no program")
    program.save(str(file))
    difference = _difference(copy, encoder, file)
    if not difference < 1e-3 * copy.model.shape.temperature:
        raise NotEqual(f"{file.name}: differs from torch by {difference:.2g}; a difference of rounding alone was expected")
    return Exported(file, difference)


def drawn_steps(copy: ModelCopy, batch: int, seed: int) -> StepBatch:
    """Return histories drawn at random, padded to the network's full length."""
    draw = np.random.default_rng(seed)
    length = copy.model.shape.length
    lengths = draw.integers(1, length + 1, batch)
    there = np.arange(length) < lengths[:, None]

    def column(highest: int) -> Tensor:
        return torch.from_numpy(np.where(there, draw.integers(0, highest, (batch, length)), 0))

    rows, kinds, gaps, prices, categories = (column(highest) for highest in (len(copy.items), len(KIND_ROWS), GAPS, PRICES, 2**31))
    return StepBatch(rows, kinds, gaps, prices, categories, torch.from_numpy(lengths))


def padded(steps: StepBatch, length: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """Return steps as the exported model takes them: by name, padded to the network's full length."""
    missing = length - steps.rows.shape[1]
    filled = [functional.pad(numbers, (0, missing)) for numbers in steps[:-1]]
    return {name: numbers.numpy() for name, numbers in zip(INPUTS, (*filled, steps.lengths), strict=True)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from telling of packages that are not needed, and of names of axes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _passed(block: Block, steps: Tensor) -> Tensor:
    """Pass steps, (batch, length, width), through a block of the Transformer without leaving out padding."""
    length, width = steps.shape[1:]
    mixed = block.query_key_value(block.attention_norm(steps)).view(-1, length, 3, block.heads, width // block.heads)
    query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
    attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    steps = steps + block.attention_out(attended.transpose(1, 2).reshape(-1, length, width))
    out: Tensor = steps + block.mlp(block.mlp_norm(steps))
    return out


@torch.no_grad()
def _difference(copy: ModelCopy, encoder: Encoder, file: Path) -> float:
    import onnxruntime

    steps = drawn_steps(copy, CHECKED_HISTORIES, seed=1)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    told = session.run(None, padded(steps, copy.model.shape.length))
    if encoder.best is None:
        expected = last_vectors(copy.model, steps)
    else:
        logits = last_vectors(copy.model, steps) @ encoder.units.T
        logits[:, UNKNOWN] = float("-inf")
        expected = logits.topk(encoder.best, dim=1).values
    return float(np.abs(told[0] - expected.numpy()).max())
