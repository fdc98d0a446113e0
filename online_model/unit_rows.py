"""Rows of the item table and their unit vectors, written together on the CPU.

Torch takes six calls for them, each of which goes through the rows once more, and is a turn at the interpreter.
"""

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.compiled import compiled

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Rows = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# As in torch's `normalize`.
SHORTEST = 1e-12


def fits(table: Tensor) -> bool:
    """Whether the table lies on the CPU and holds 32-bit floats."""
    return table.device.type == "cpu" and table.dtype == torch.float32


def unit_rows(table: Tensor) -> Tensor:
    """Return the rows of a table, (capacity, width), at length 1, row 0 as 0: to the last bit what `put_rows` makes of the same numbers."""
    units = torch.empty(table.shape)
    _to_length_1(table.detach().numpy(), units.numpy(), np.arange(len(table)))
    return units


def put_rows(table: Tensor, units: Tensor, rows: Tensor, values: Tensor) -> None:
    """Set rows, (rows,), of a table, (capacity, width), to values, (rows, width), and those of `units` to these at length 1; row 0 to 0."""
    places, numbers = rows.contiguous().numpy(), table.detach().numpy()
    _copy(numbers, places, values.contiguous().numpy())
    _to_length_1(numbers, units.numpy(), places)


@compiled
def _copy(table: Floats, rows: Rows, values: Floats) -> None:
    for place in range(len(rows)):
        for column in range(values.shape[1]):
            table[rows[place], column] = values[place, column]


@compiled
def _to_length_1(table: Floats, units: Floats, rows: Rows) -> None:
    for row in rows:
        square = np.float32(0.0)
        for column in range(table.shape[1]):
            square += table[row, column] * table[row, column]
        scale = np.float32(1.0) / max(np.sqrt(square), np.float32(SHORTEST)) if row > 0 else np.float32(0.0)
        for column in range(table.shape[1]):
            units[row, column] = table[row, column] * scale
