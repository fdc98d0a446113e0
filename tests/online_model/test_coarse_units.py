"""The best items found by 8-bit vectors are those of an exhaustive search, also after rows have changed."""

import math

import numpy as np
import pytest
import torch
from links import SHAPE
from torch.nn import functional

from headrace.online_model import coarse_units, scorer
from headrace.online_model.coarse_units import FEW, MANY, CoarseUnits, is_worth_it, pays_from
from headrace.online_model.scorer import score_with, search
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry

SIZE = 32_768 + 5
CAPACITY = 1 << 16


def unit_vectors(count: int, width: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("batch", [1, FEW, FEW + 1, 37, 300])
@pytest.mark.parametrize("by_matrices", [False, True])
def test_the_best_are_those_of_an_exhaustive_search(batch: int, by_matrices: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse_units, "multiplies_matrices_fast", lambda: by_matrices)
    units, vectors = unit_vectors(CAPACITY, 16, seed=1), 10.0 * unit_vectors(batch, 16, seed=2)
    values, rows = CoarseUnits(units).best(units, vectors, SIZE, 100)
    expected = (vectors @ units[1:SIZE].T).topk(100, dim=1)
    assert torch.allclose(values, expected.values, atol=1e-4)
    assert float((rows == expected.indices + 1).float().mean()) > 0.999


def test_rows_that_are_put_are_found_and_those_that_have_left_are_not() -> None:
    units, vectors = unit_vectors(CAPACITY, 16, seed=1), unit_vectors(1, 16, seed=2)
    coarse = CoarseUnits(units)
    _, [former] = coarse.best(units, vectors, SIZE, 5)
    near, far = torch.tensor([7, 12_000]), former[:1]
    units[near], units[far] = vectors.expand(2, -1), -vectors
    coarse.put(torch.cat([near, far]), units)
    _, [found] = coarse.best(units, vectors, SIZE, 5)
    assert set(found[:2].tolist()) == {7, 12_000}
    assert found[2:].tolist() == former[1:4].tolist()


def test_a_row_beyond_the_scale_of_the_others_is_still_found() -> None:
    units = unit_vectors(CAPACITY, 16, seed=1)
    coarse = CoarseUnits(units)
    axis = torch.zeros(1, 16)
    axis[0, 3] = 1.0
    units[9] = axis[0]
    coarse.put(torch.tensor([9]), units)
    values, rows = coarse.best(units, axis, SIZE, 3)
    assert rows[0, 0] == 9
    assert values[0, 0] == pytest.approx(1.0)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_copy_of_a_large_catalogue_answers_as_by_a_plain_product_and_goes_on_so_after_an_update(
    normalised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse_units, "pays_from", lambda batch: SIZE)
    copy = ModelCopy(SHAPE)
    copy.add_items([f"item-{number}" for number in range(SIZE - 1)])
    copy.renew_units()
    history = [HistoryEntry(f"item-{number}", "view", 1000 * number) for number in (5, 9, 200)]
    for _ in range(2):
        [scored] = score_with(copy, [history], [np.array([3, 40_000_000, 0])], best=20, normalised=normalised)
        vectors = torch.from_numpy(scored.vector)[None]
        logits = (vectors @ copy.units[1 : len(copy.items)].T)[0]
        assert np.allclose(scored.best_logits, logits.topk(20).values, atol=1e-4)
        assert scored.normaliser == pytest.approx(float(logits.logsumexp(0)) if normalised else math.nan, rel=1e-5, nan_ok=True)
        assert scored.logits[0] == pytest.approx(float(logits[2]), abs=1e-5)
        assert np.isnan(scored.logits[1:]).all()
        copy.put_rows(torch.tensor([12_345]), vectors)
    assert scored.best_rows[0] == 12_345


def test_histories_that_do_not_fit_together_are_answered_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = ModelCopy(SHAPE)
    copy.add_items([f"item-{number}" for number in range(500)])
    vectors = unit_vectors(5, SHAPE.width, seed=3)
    best, normalisers = search(copy, vectors, 20, normalised=True)
    monkeypatch.setattr(scorer, "LOGITS_TOGETHER", 2 * len(copy.items))
    parts, parted = search(copy, vectors, 20, normalised=True)
    assert torch.equal(best.rows, parts.rows)
    assert parted == pytest.approx(normalisers)


def test_the_normaliser_is_left_out_where_nobody_asks_for_it() -> None:
    copy = ModelCopy(SHAPE)
    copy.add_items(["a", "b", "c"])
    best, normalisers = search(copy, torch.ones(2, SHAPE.width), 50, normalised=False)
    assert best.rows.shape == (2, 3)
    assert np.isnan(normalisers).all()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("batch", [1, FEW, FEW + 1, MANY])
def test_a_small_catalogue_and_a_wish_for_very_many_are_served_by_a_plain_product(
    fast: bool, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse_units, "multiplies_matrices_fast", lambda: fast)
    least = pays_from(batch)
    units = torch.zeros(1 << 20, 16)
    if math.isinf(least):
        assert not is_worth_it(units, len(units), 100, batch)
        return
    assert is_worth_it(units, int(least), 100, batch)
    assert not is_worth_it(units, int(least) - 1, 100, batch)
    assert not is_worth_it(units, int(least), 10_000, batch)
