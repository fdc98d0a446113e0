"""The Transformer's answer to histories on the CPU: the vector after the last step alone, in compiled loops.

Torch takes some forty calls for a history, each of which costs more than its numbers. Here, of the last layer only the last step is worked
out: the steps before it are keys and values there. The products of all steps with the matrix of keys and values are one call of torch, so
that batches are as fast as the processor. The result is that of `NextItemTransformer.follow`, but for rounding.
"""

import math
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from headrace.online_model.compiled import compiled
from headrace.online_model.step_batch import Numbers, as_batch
from headrace.online_model.transformer import Block, NextItemTransformer

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class LastVectors:
    """Reads the weights of a model, which may change in place, but must not be replaced by others. `fits` tells for which models."""

    def __init__(self, model: NextItemTransformer) -> None:
        self._model = model
        self._temperature = np.float32(model.shape.temperature)
        self._heads = model.shape.heads
        tables = (model.kinds.weight, model.gaps.weight, model.prices.weight, model.categories.weight, model.positions)
        self._tables: Any = tuple(_array(table) for table in tables)
        self._blocks = [_Layer(cast(Block, block)) for block in model.blocks]
        self._out = _array(model.out_norm.weight), _array(model.out_norm.bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LastVectors":
        """Return one that reads the weights of the model's copy."""
        return LastVectors(deepcopy(self._model, memo))

    @staticmethod
    def fits(model: NextItemTransformer) -> bool:
        """Whether the model lies on the CPU and consists of layers of 32-bit floats, not of smaller ones that stand in for them."""
        plain = all(type(layer) is nn.Linear for block in model.blocks for layer in _linear_layers(block))
        return plain and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in model.parameters())

    def of(self, units: Floats, numbers: Numbers, lengths: Numbers) -> Floats:
        """Return the vectors, (batch, width), whose products with unit vectors are logits.

        `units` are the unit vectors of the item table, (capacity, width); the histories come as `step_batch.encode_numbers` returns them.
        """
        starts = np.concatenate([[0], np.cumsum(lengths)])
        steps = np.empty((starts[-1], units.shape[1]), np.float32)
        _embed(units, numbers, lengths, steps, *self._tables)
        normed = np.empty_like(steps)
        for number, layer in enumerate(self._blocks):
            _norm_rows(steps, *layer.attention_norm, normed)
            mixed = torch.addmm(layer.mix_bias, torch.from_numpy(normed), layer.mix_weight).numpy()
            _attend(steps, mixed, starts, self._heads, number == len(self._blocks) - 1, *layer.arrays)
        vectors = np.empty((len(lengths), units.shape[1]), np.float32)
        _norm_rows(np.ascontiguousarray(steps[starts[1:] - 1]), *self._out, vectors)
        _to_length(vectors, self._temperature)
        return vectors


@torch.no_grad()
def vectors_after(model: NextItemTransformer, units: Tensor, numbers: Numbers, lengths: Numbers) -> Tensor:
    """Return what `LastVectors` does, (batch, width), by the model itself where that is not made for it."""
    if LastVectors.fits(model):
        return torch.from_numpy(LastVectors(model).of(units.numpy(), numbers, lengths))
    steps = as_batch(numbers, lengths)
    return model.follow_to_end(units[steps.rows], steps)


class _Layer:
    """The weights of one layer, as the compiled code reads them."""

    def __init__(self, block: Block) -> None:
        self.attention_norm = _array(block.attention_norm.weight), _array(block.attention_norm.bias)
        self.mix_weight, self.mix_bias = block.query_key_value.weight.detach().T, block.query_key_value.bias.detach()
        layers = (block.attention_out, block.mlp_norm, *_linear_layers(block)[2:])
        self.arrays: tuple[Any, ...] = tuple(_array(part) for layer in layers for part in layer.parameters())


def _linear_layers(block: nn.Module) -> list[nn.Linear]:
    layers = cast(Block, block)
    return [layers.query_key_value, layers.attention_out, *(cast(nn.Linear, layers.mlp[place]) for place in (0, 2))]


def _array(parameter: torch.Tensor) -> Floats:
    array: Floats = parameter.detach().numpy()
    return array


@compiled
def _embed(units: Any, numbers: Any, lengths: Any, steps: Any, kinds: Any, gaps: Any, prices: Any, categories: Any, positions: Any) -> None:
    """Write what each step is, (steps, width): the sum of the rows of all tables."""
    at = 0
    for history in range(len(lengths)):
        for place in range(lengths[history]):
            row, kind, gap, price, category = numbers[history, place]
            hashed = 1 + category % (len(categories) - 1) if category > 0 else 0
            for column in range(steps.shape[1]):
                about = kinds[kind, column] + gaps[gap, column] + prices[price, column]
                steps[at, column] = units[row, column] + about + categories[hashed, column] + positions[place, column]
            at += 1


@compiled
def _norm_rows(rows: Any, weight: Any, bias: Any, out: Any) -> None:
    for row in range(len(rows)):
        _norm(rows[row], weight, bias, out[row])


@compiled
def _norm(values: Any, weight: Any, bias: Any, out: Any) -> None:
    """Normalise a vector as torch's LayerNorm does."""
    mean, spread = np.float32(0.0), np.float32(0.0)
    for column in range(len(values)):
        mean += values[column]
    mean /= np.float32(len(values))
    for column in range(len(values)):
        spread += (values[column] - mean) ** 2
    scale = np.float32(1.0) / np.sqrt(spread / np.float32(len(values)) + np.float32(1e-5))
    for column in range(len(values)):
        out[column] = (values[column] - mean) * scale * weight[column] + bias[column]


@compiled
def _affine(weight: Any, bias: Any, values: Any, out: Any) -> None:
    for row in range(len(out)):
        total = bias[row]
        for column in range(len(values)):
            total += weight[row, column] * values[column]
        out[row] = total


@compiled
def _attend(
    steps: Any,
    mixed: Any,
    starts: Any,
    heads: Any,
    last_only: Any,
    out_weight: Any,
    out_bias: Any,
    norm_weight: Any,
    norm_bias: Any,
    up_weight: Any,
    up_bias: Any,
    down_weight: Any,
    down_bias: Any,
) -> None:
    """Put `steps`, (steps, width), through a layer in place, or the last of each history alone.

    `mixed`, (steps, 3 * width), holds queries, keys and values side by side.
    """
    width = steps.shape[1]
    size = width // heads
    scale = np.float32(1.0 / math.sqrt(size))
    attended, added, normed = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    inner = np.empty(len(up_bias), np.float32)
    chances = np.empty(len(steps), np.float32)
    for history in range(len(starts) - 1):
        first, end = starts[history], starts[history + 1]
        for step in range(end - 1 if last_only else first, end):
            for head in range(heads):
                _mix(mixed, first, step, head * size, size, width, scale, chances, attended)
            _affine(out_weight, out_bias, attended, added)
            for column in range(width):
                steps[step, column] += added[column]
            _norm(steps[step], norm_weight, norm_bias, normed)
            _affine(up_weight, up_bias, normed, inner)
            for column in range(len(inner)):
                inner[column] *= np.float32(0.5) * (np.float32(1.0) + np.float32(math.erf(inner[column] * np.float32(math.sqrt(0.5)))))
            _affine(down_weight, down_bias, inner, added)
            for column in range(width):
                steps[step, column] += added[column]


@compiled
def _mix(mixed: Any, first: int, step: int, begin: int, size: int, width: int, scale: Any, chances: Any, attended: Any) -> None:
    """Write what one head takes from the steps up to `step` into its columns of `attended`."""
    highest = np.float32(-np.inf)
    for other in range(first, step + 1):
        product = np.float32(0.0)
        for column in range(begin, begin + size):
            product += mixed[step, column] * mixed[other, width + column]
        chances[other - first] = product * scale
        highest = max(highest, product * scale)
    total = np.float32(0.0)
    for other in range(step + 1 - first):
        chances[other] = np.exp(chances[other] - highest)
        total += chances[other]
    for column in range(begin, begin + size):
        attended[column] = np.float32(0.0)
    for other in range(first, step + 1):
        share = chances[other - first] / total
        for column in range(begin, begin + size):
            attended[column] += share * mixed[other, 2 * width + column]


@compiled
def _to_length(vectors: Any, length: Any) -> None:
    for row in range(len(vectors)):
        total = np.float32(0.0)
        for column in range(vectors.shape[1]):
            total += vectors[row, column] ** 2
        scale = length / max(np.sqrt(total), np.float32(1e-12))
        for column in range(vectors.shape[1]):
            vectors[row, column] *= scale
