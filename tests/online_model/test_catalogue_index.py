"""The approximate index finds most of the best, tells how many, and follows rows that change."""

import pytest
import torch
from torch.nn import functional

from headrace.online_model.catalogue_index import CatalogueIndex

pytest.importorskip("usearch")
SIZE = 4000


@pytest.fixture
def units() -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    centres = torch.randn(80, 32, generator=draw)
    noise = 0.5 * torch.randn(SIZE, 32, generator=draw)
    return functional.normalize(centres[torch.randint(80, (SIZE,), generator=draw)] + noise, dim=1)


def test_nearly_all_of_the_best_hundred_are_found_with_their_exact_products(units: torch.Tensor) -> None:
    index, vectors = CatalogueIndex(units, SIZE, threads=1), 10.0 * units[5:45]
    assert len(index) == SIZE - 1
    assert index.recall(vectors, 100, SIZE) >= 0.97
    products, rows = index.best(vectors, 100)
    assert torch.allclose(products[0], units[rows[0]] @ vectors[0], atol=1e-5)
    assert bool((products[:, :-1] >= products[:, 1:]).all())
    assert rows[:, 0].tolist() == list(range(5, 45))


def test_a_row_that_has_moved_is_found_where_it_is_now_and_nowhere_else(units: torch.Tensor) -> None:
    index = CatalogueIndex(units, SIZE, threads=1)
    place, old = units[7].clone(), units[9].clone()
    units[9] = place
    index.put(torch.tensor([9]), units)
    assert len(index) == SIZE - 1
    assert set(index.best(place[None], 2)[1][0].tolist()) == {7, 9}
    assert 9 not in index.best(old[None], 20)[1][0].tolist()


def test_a_new_row_is_found(units: torch.Tensor) -> None:
    index = CatalogueIndex(units, SIZE - 1, threads=1)
    index.put(torch.tensor([SIZE - 1]), units)
    assert index.best(units[SIZE - 1][None], 1)[1].tolist() == [[SIZE - 1]]
