"""Products of a vector with a few rows of a table, which torch would first copy out of it."""

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.compiled import compiled

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Rows = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def row_products(table: Tensor, rows: Tensor, vectors: Tensor) -> Floats:
    """Return the product of each vector, (batch, width), with its own rows of the table, (batch, wanted), as (batch, wanted)."""
    if table.device.type != "cpu" or table.dtype != torch.float32:
        products: Floats = (table[rows] @ vectors.unsqueeze(2)).squeeze(2).float().cpu().numpy()
        return products
    return _products(table.numpy(), rows.contiguous().numpy(), vectors.contiguous().numpy())


@compiled
def _products(table: Floats, rows: Rows, vectors: Floats) -> Floats:
    products = np.empty(rows.shape, np.float32)
    for place in range(rows.shape[0]):
        for number in range(rows.shape[1]):
            product = np.float32(0.0)
            for column in range(vectors.shape[1]):
                product += table[rows[place, number], column] * vectors[place, column]
            products[place, number] = product
    return products
