"""A panel counts in whose lists an item stands, as a full scoring would, though it asks only for what is near or has changed."""

import numpy as np
import pytest
import torch

from headrace.online_model import exposure
from headrace.online_model.exposure import LISTED, NEAR, Counts, Panel, grown
from headrace.online_model.history_ring import KeptHistories
from headrace.online_model.step_batch import as_batch, encode_numbers
from headrace.online_model.transformer import NextItemTransformer, TransformerShape, last_vectors
from headrace.schemas import HistoryEntry

SHAPE = TransformerShape(width=16, layers=1, heads=2, length=5, categories=16)
ITEMS, CAPACITY = 400, 512
NO_ROWS = torch.zeros(0, dtype=torch.int64)


@pytest.fixture
def model() -> NextItemTransformer:
    torch.manual_seed(1)
    return NextItemTransformer(SHAPE, CAPACITY).requires_grad_(False).eval()


def histories(count: int = 40) -> KeptHistories:
    draw = np.random.default_rng(1)
    made = [
        [HistoryEntry(f"item-{item}", "view", 1000 * place) for place, item in enumerate(draw.integers(1, ITEMS, 1 + number % 6))]
        for number in range(count)
    ]
    numbers, lengths = encode_numbers(made, {f"item-{row}": row for row in range(1, ITEMS)}, SHAPE.length + 1)
    return KeptHistories(numbers, lengths, np.arange(count))


def fully_counted(model: NextItemTransformer, kept: KeptHistories) -> Counts:
    counts: Counts = np.zeros(CAPACITY, np.int64)
    units = model.unit_items(torch.arange(ITEMS))
    for place in range(len(kept)):
        length = int(kept.lengths[place])
        steps = as_batch(kept.numbers[place : place + 1, max(0, length - SHAPE.length) : length], np.array([min(length, SHAPE.length)]))
        scores = (last_vectors(model, steps) @ units.T)[0]
        scores[0] = float("-inf")
        counts[scores.topk(LISTED).indices.numpy()] += 1
    return counts


def test_the_weights_that_a_panel_was_made_with_are_counted_in_full(model: NextItemTransformer) -> None:
    counts = Panel(model, histories(), ITEMS).counts(model, NO_ROWS)
    assert np.array_equal(counts, fully_counted(model, histories()))
    assert counts.sum() == 40 * LISTED
    assert counts[0] == 0


def errors_over_rounds(model: NextItemTransformer, moved: float, rounds: int = 8) -> list[int]:
    """Return by how many places a panel is off after each of some rounds in which an eighth of the items move."""
    panel, found = Panel(model, histories(), ITEMS), []
    for seed in range(rounds):
        draw = torch.Generator().manual_seed(seed)
        touched = torch.randperm(ITEMS, generator=draw)[:50].sort().values
        model.items.weight[touched] += moved * torch.randn(50, SHAPE.width, generator=draw)
        found.append(int(np.abs(panel.counts(model, touched) - fully_counted(model, histories())).sum()))
        panel.keep()
    return found


def test_with_all_items_near_changed_rows_are_counted_exactly(model: NextItemTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "NEAR", ITEMS)
    assert errors_over_rounds(model, 0.1) == [0] * 8


def test_with_the_nearest_alone_rounds_of_the_usual_length_are_counted_exactly(model: NextItemTransformer) -> None:
    # A row's length is 1 here, and a usual round moves it by a twentieth: 0.0125 in each of 16 directions.
    assert errors_over_rounds(model, 0.0125) == [0] * 8


def test_what_was_not_kept_is_forgotten(model: NextItemTransformer) -> None:
    panel = Panel(model, histories(), ITEMS)
    before, kept = panel.counts(model, NO_ROWS), model.items.weight[7].clone()
    model.items.weight[7] = 100.0
    panel.counts(model, torch.tensor([7]))
    model.items.weight[7] = kept
    assert np.array_equal(panel.counts(model, NO_ROWS), before)


def test_a_shop_of_a_few_items_lists_all_of_them(model: NextItemTransformer) -> None:
    assert NEAR > 10
    counts = Panel(model, histories(), 10).counts(model, NO_ROWS)
    assert counts.tolist()[:12] == [0, *[40] * 9, 0, 0]


def test_a_panel_of_nobody_counts_nothing(model: NextItemTransformer) -> None:
    assert Panel(model, histories(0), ITEMS).counts(model, torch.arange(9)).sum() == 0


def test_growth_is_measured_by_times_and_by_lists_and_new_rows_count_from_nothing() -> None:
    before, now = np.array([0, 10, 10, 0, 2]), np.array([0, 15, 19, 3, 6, 4])
    assert grown(now, before, 1.5, 3.0) == [2, 5]
