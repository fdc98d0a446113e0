"""The compiled way from histories to vectors, held against the network in torch."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from headrace.online_model.last_vectors import LastVectors, vectors_after
from headrace.online_model.step_batch import as_batch, encode_numbers
from headrace.online_model.transformer import NextItemTransformer, TransformerShape
from headrace.schemas import HistoryEntry

ITEMS = 60
ROWS = {f"item-{number}": number for number in range(1, ITEMS)}


class OtherLayer(torch.nn.Linear):
    """Stands in for a layer whose numbers are packed."""


def model_of(layers: int, heads: int) -> NextItemTransformer:
    torch.manual_seed(5)
    model = NextItemTransformer(TransformerShape(width=16, layers=layers, heads=heads, length=6, categories=32), ITEMS)
    for parameter in model.parameters():
        # Norms and biases that do nothing would hide that they were left out.
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.requires_grad_(False).eval()


def histories(count: int) -> list[list[HistoryEntry]]:
    draw = np.random.default_rng(2)
    return [
        [
            HistoryEntry(
                f"item-{draw.integers(1, ITEMS + 5)}", ("view", "cart", "purchase")[step % 3], 10**12 + 90_000 * step, 2.5**step, "a"
            )
            for step in range(draw.integers(1, 9))
        ]
        for _ in range(count)
    ]


def in_torch(model: NextItemTransformer, units: torch.Tensor, asked: list[list[HistoryEntry]]) -> np.ndarray:
    steps = as_batch(*encode_numbers(asked, ROWS, model.shape.length))
    vectors: np.ndarray = model.follow(units[steps.rows], steps)[torch.arange(len(asked)), steps.lengths - 1].numpy()
    return vectors


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_the_vectors_are_those_of_the_network(layers: int, heads: int) -> None:
    model = model_of(layers, heads)
    units, reader = model.unit_items(torch.arange(ITEMS)), LastVectors(model)
    for count in (1, 7, 40):
        asked = histories(count)
        found = reader.of(units.numpy(), *encode_numbers(asked, ROWS, model.shape.length))
        assert found == pytest.approx(in_torch(model, units, asked), abs=2e-5)


def test_weights_that_change_in_place_are_followed_and_those_of_a_copy_apart_from_them() -> None:
    model = model_of(1, 2)
    units, reader, asked = model.unit_items(torch.arange(ITEMS)), LastVectors(model), histories(5)
    numbers = encode_numbers(asked, ROWS, model.shape.length)
    before, twin = reader.of(units.numpy(), *numbers), deepcopy(reader)
    for parameter in model.parameters():
        parameter.copy_(parameter.neg() + 0.1)
    assert reader.of(units.numpy(), *numbers) == pytest.approx(in_torch(model, units, asked), abs=2e-5)
    assert twin.of(units.numpy(), *numbers).tolist() == before.tolist()


def test_a_network_of_other_numbers_than_32_bit_floats_is_left_to_torch() -> None:
    model = model_of(1, 2)
    assert LastVectors.fits(model)
    other, asked = deepcopy(model).to(torch.float64), histories(5)
    assert not LastVectors.fits(other)
    for each in (model, other):
        units = each.unit_items(torch.arange(ITEMS))
        found = vectors_after(each, units, *encode_numbers(asked, ROWS, model.shape.length))
        assert found.dtype == units.dtype
        assert found.numpy() == pytest.approx(in_torch(each, units, asked), abs=2e-5)
    model.blocks[0].mlp[0] = OtherLayer(16, 32)
    assert not LastVectors.fits(model)
