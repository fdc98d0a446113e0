"""The optimizers take the steps of torch's own; on tables, those of their sources, and rows without a gradient stay."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from headrace.online_model.lazy_adam import LAZY_BETAS
from headrace.online_model.training.optimizers import DENSE, TABLE, DenseOptimizer, TableOptimizer

PEERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.05),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.05),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05),
}


def parameters_of(seed: int = 1) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, generator=draw).requires_grad_(), torch.randn(4, generator=draw).requires_grad_()]


def set_gradients(parameters: list[Tensor], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=draw)


@pytest.mark.parametrize("name", PEERS)
def test_a_dense_optimizer_takes_the_steps_of_torchs_own(name: str) -> None:
    ours, theirs = parameters_of(), parameters_of()
    optimizer, peer = DENSE[name](ours), PEERS[name](theirs)
    for seed in range(20):
        set_gradients(ours, seed)
        set_gradients(theirs, seed)
        optimizer.step(0.05)
        peer.step()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-6)
        assert our.grad is None


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_optimizer_goes_on_from_its_state_to_the_last_bit(name: str) -> None:
    whole, halved = parameters_of(), parameters_of()

    def steps(optimizer: DenseOptimizer, parameters: list[Tensor], seeds: range) -> None:
        for seed in seeds:
            set_gradients(parameters, seed)
            optimizer.step(0.05)

    steps(DENSE[name](whole), whole, range(10))
    first, second = DENSE[name](halved), DENSE[name](halved)
    steps(first, halved, range(6))
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    steps(second, halved, range(6, 10))
    assert all(torch.equal(one, other) for one, other in zip(whole, halved, strict=True))


ROWS = torch.tensor([1, 3])


def gradient_of(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))


def a_table() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TABLE)
def test_a_table_optimizer_goes_on_from_its_state_to_the_last_bit(name: str) -> None:
    whole, halved = a_table(), a_table()

    def steps(optimizer: TableOptimizer, seeds: range) -> None:
        for seed in seeds:
            optimizer.step(torch.tensor([seed % 3, 3 + seed % 2]), gradient_of(2, seed), 0.05)

    steps(TABLE[name](whole), range(10))
    first, second = TABLE[name](halved), TABLE[name](halved)
    steps(first, range(6))
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    steps(second, range(6, 10))
    assert torch.equal(whole, halved)


@pytest.mark.parametrize("name", TABLE)
def test_rows_without_a_gradient_stay_and_so_does_what_is_kept_of_them(name: str) -> None:
    table, before = a_table(), a_table()
    optimizer = TABLE[name](table)
    kept = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    optimizer.step(ROWS, gradient_of(2, 0), 0.1)
    assert (table != before).any(dim=1).tolist() == [False, True, False, True, False]
    others = torch.tensor([0, 2, 4])
    assert all(torch.equal(tensor[others], kept[name][others]) for name, tensor in optimizer.state().items())


def test_lazy_adam_is_adam_where_every_row_has_a_gradient() -> None:
    ours, theirs = a_table(), a_table().requires_grad_()
    optimizer, peer = TABLE["lazy-adam"](ours), torch.optim.Adam([theirs], lr=0.05, betas=LAZY_BETAS)
    for seed in range(10):
        theirs.grad = gradient_of(5, seed)
        optimizer.step(torch.arange(5), gradient_of(5, seed), 0.05)
        peer.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_row_wise_adagrad_follows_its_formula_with_one_sum_a_row() -> None:
    table = a_table()
    expected, sums = table.double().clone(), torch.zeros(5, dtype=torch.float64)
    optimizer = TABLE["rowwise-adagrad"](table)
    for seed in range(10):
        rows, gradient = torch.tensor([seed % 5, (seed + 2) % 5]), gradient_of(2, seed)
        sums[rows] += gradient.double().square().sum(dim=1) / 3
        expected[rows] -= 0.1 * gradient.double() / (sums[rows].sqrt() + 1e-8)[:, None]
        optimizer.step(rows, gradient, 0.1)
    torch.testing.assert_close(table.double(), expected, rtol=1e-5, atol=1e-6)
    assert optimizer.state()["sum"].shape == (5,)
