"""The largest products of each column, beside torch's."""

import numpy as np
import pytest
import torch

from headrace.online_model.best_rows import rank_all


@pytest.mark.parametrize("size", [2, 3, 17, 18, 100, 1605, 5000])
@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("batch", [1, 2, 19])
def test_the_best_of_all_products_are_those_of_torch(size: int, k: int, batch: int) -> None:
    k = min(k, size - 1)
    torch.manual_seed(size)
    products = torch.randn(batch, size)
    # The unknown item would be the best; one vector has few different products, the last, where there are several, none at all.
    products[:, 0] = 9.0
    products[batch // 2] = products[batch // 2].round()
    products[1:][-1:] = 0.5
    values, rows = np.empty((batch, k), np.float32), np.empty((batch, k), np.int64)
    rank_all(products.T.contiguous().numpy(), values, rows)
    assert values.tolist() == products[:, 1:].topk(k, dim=1).values.tolist()
    assert np.take_along_axis(products.numpy(), rows, axis=1).tolist() == values.tolist()
    assert all(len(set(found)) == k and min(found) >= 1 for found in rows.tolist())


@pytest.mark.parametrize("batch", [1, 3])
def test_products_that_are_no_numbers_have_no_best(batch: int) -> None:
    products = np.full((400, batch), np.nan, np.float32)
    values, rows = np.empty((batch, 9), np.float32), np.empty((batch, 9), np.int64)
    rank_all(products, values, rows)
    assert np.isnan(values).all()
    assert (rows < 400).all()
