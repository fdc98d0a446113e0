"""Rows and their unit vectors, against torch's own."""

import torch
from torch.nn import functional

from headrace.online_model.unit_rows import fits, put_rows, unit_rows

ROWS, WIDTH = 50, 24


def drawn(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_the_rows_of_a_table_come_out_at_length_1_and_row_0_as_nothing() -> None:
    table = drawn(ROWS, 1)
    table[7] = 0.0
    units = unit_rows(table)
    assert torch.allclose(units[1:], functional.normalize(table[1:], dim=1), atol=1e-6)
    assert not units[0].any()
    assert not units[7].any()


def test_rows_that_are_put_are_to_the_last_bit_those_of_a_whole_table() -> None:
    table, values = drawn(ROWS, 1), drawn(4, 2)
    units, rows = unit_rows(table), torch.tensor([30, 2, 0, 49])
    whole = table.clone()
    whole[rows] = values
    # Every second of the rows and columns of something larger.
    spread = torch.zeros(8, 2 * WIDTH)
    spread[::2, ::2] = values
    put_rows(table, units, rows, spread[::2, ::2])
    assert torch.equal(table, whole)
    assert torch.equal(units, unit_rows(whole))


def test_a_table_that_learns_is_written_like_any_other() -> None:
    table = torch.nn.Parameter(drawn(ROWS, 1))
    units = unit_rows(table)
    put_rows(table, units, torch.tensor([3]), torch.ones(1, WIDTH))
    assert torch.equal(table[3], torch.ones(WIDTH))
    assert not units.requires_grad


def test_only_single_precision_on_the_cpu_fits() -> None:
    assert fits(drawn(ROWS, 1))
    assert not fits(drawn(ROWS, 1).half())
    assert not fits(torch.empty(1, WIDTH, device="meta"))
