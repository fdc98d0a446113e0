"""The network sees how, when, for what price and in which category an item was touched, and no input makes it raise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from links import SHAPE
from torch import Tensor

from headrace.online_model.step_batch import GAPS, PRICES
from headrace.online_model.transformer import NextItemTransformer, TransformerShape, encode, last_vectors
from headrace.schemas import HistoryEntry

ROWS = {"lamp": 1, "bulb": 2, "vase": 3}
LAMP, BULB = HistoryEntry("lamp", "view", 1_000_000), HistoryEntry("bulb", "view", 1_060_000)
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def model() -> NextItemTransformer:
    torch.manual_seed(1)
    return NextItemTransformer(TransformerShape(), 8).eval()


@torch.no_grad()
def vector(model: NextItemTransformer, *history: HistoryEntry) -> Tensor:
    [found] = last_vectors(model, encode([history], ROWS, model.shape.length))
    return found


def test_vectors_have_the_length_of_the_temperature_and_items_the_length_1(model: NextItemTransformer) -> None:
    assert float(vector(model, LAMP, BULB).norm()) == pytest.approx(10.0, rel=1e-5)
    assert model.unit_items(torch.tensor([0, 1, 2])).norm(dim=1).tolist() == pytest.approx([0.0, 1.0, 1.0], rel=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        HistoryEntry("vase", "view", 1_060_000),
        HistoryEntry("bulb", "purchase", 1_060_000),
        HistoryEntry("bulb", "view", 9_060_000),
        HistoryEntry("bulb", "view", 1_060_000, price=9.5),
        HistoryEntry("bulb", "view", 1_060_000, category="lights"),
    ],
    ids=["item", "kind", "gap", "price", "category"],
)
def test_each_input_changes_the_vector(model: NextItemTransformer, changed: HistoryEntry) -> None:
    assert not torch.allclose(vector(model, LAMP, changed), vector(model, LAMP, BULB), atol=1e-3)


def test_inputs_are_numbered_by_what_they_tell() -> None:
    history = [
        HistoryEntry("lamp", "view", 5_000, price=1.0, category="lights"),
        HistoryEntry("bulb", "cart", 6_000, price=2.0, category="lights"),
        HistoryEntry("never seen", "purchase", 1_030_000, price=0.0),
    ]
    steps = encode([history, [], history[:1]], ROWS, 20)
    assert steps.rows.tolist() == [[1, 2, 0], [0, 0, 0], [1, 0, 0]]
    assert steps.kinds.tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]
    assert steps.gaps.tolist() == [[0, 1, 11], [0, 0, 0], [0, 0, 0]]
    assert steps.prices.tolist() == [[15, 17, 0], [0, 0, 0], [15, 0, 0]]
    assert steps.categories[0, 0] == steps.categories[0, 1] != steps.categories[0, 2] == 0
    assert steps.lengths.tolist() == [3, 1, 1]


def test_the_last_steps_count_and_padding_does_not(model: NextItemTransformer) -> None:
    long = [LAMP, BULB] * 5_000
    assert torch.equal(vector(model, *long), vector(model, *long[-20:]))
    batch = last_vectors(model, encode([long, [LAMP, BULB]], ROWS, 20))
    assert torch.allclose(batch[1], vector(model, LAMP, BULB), atol=1e-5)


def test_what_comes_later_does_not_change_what_is_said_of_a_step(model: NextItemTransformer) -> None:
    first, _ = model(encode([[LAMP, BULB]], ROWS, 20))[0]
    assert torch.allclose(first, vector(model, LAMP), atol=1e-5)


@pytest.mark.parametrize("price", [NAN, INF, -INF, -1.0, 0.0, 1e-300, 1e300])
@pytest.mark.parametrize("time_ms", [-(2**60), 0, 2**60])
def test_a_price_or_time_that_makes_no_sense_gets_an_answer(model: NextItemTransformer, price: float, time_ms: int) -> None:
    odd = HistoryEntry("bulb", "view", time_ms, price=price, category="\ud800 never seen")
    steps = encode([[LAMP, odd, LAMP]], ROWS, 20)
    assert 0 <= int(steps.gaps.min()) <= int(steps.gaps.max()) < GAPS
    assert 0 <= int(steps.prices.min()) <= int(steps.prices.max()) < PRICES
    assert bool(torch.isfinite(vector(model, LAMP, odd, LAMP)).all())


ENTRIES = st.builds(
    HistoryEntry,
    st.sampled_from(["lamp", "bulb", "never seen", ""]),
    st.sampled_from(["view", "cart", "purchase", "returned"]),
    st.integers(-(2**62), 2**62),
    st.none() | st.floats(),
    st.none() | st.text(),
)


@given(st.lists(st.lists(ENTRIES, max_size=8), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_histories_get_finite_vectors(histories: list[list[HistoryEntry]]) -> None:
    model = NextItemTransformer(SHAPE, 8).eval()
    vectors = last_vectors(model, encode(histories, ROWS, SHAPE.length))
    assert vectors.shape == (len(histories), SHAPE.width)
    assert bool(torch.isfinite(vectors).all())


def test_parts_of_the_network_are_left_out_in_training_alone(model: NextItemTransformer) -> None:
    assert torch.equal(vector(model, LAMP, BULB), vector(model, LAMP, BULB))
    model.train()
    assert not torch.equal(vector(model, LAMP, BULB), vector(model, LAMP, BULB))
