"""Adam (Kingma and Ba, ICLR 2015) for dense tensors and, in its lazy form, for the rows of a table that a batch has touched.

torch's own optimizers do the same, but their import brings a compiler and a computer algebra system: several seconds at each
start of a learner, which is what a restart after a crash waits for.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Adam:
    """Steps of `rate` on parameters whose `.grad` is dense."""

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        self._parameters = list(parameters)
        self._rate = rate
        self._mean = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._square = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Take one step and clear the gradients."""
        self._steps += 1
        for parameter, mean, square in zip(self._parameters, self._mean, self._square, strict=True):
            if parameter.grad is not None:
                mean.lerp_(parameter.grad, 1 - BETAS[0])
                square.mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
                parameter.sub_(_direction(mean, square, self._steps), alpha=self._rate)
                parameter.grad = None


class LazyAdam:
    """Steps of `rate` on a table, (rows, width), whose `.grad` is sparse: rows without a gradient and their moments stay."""

    def __init__(self, table: Tensor, rate: float) -> None:
        self._rate = rate
        self._steps = 0
        self._table = table
        self._mean = torch.zeros_like(table)
        self._square = torch.zeros_like(table)

    def follow(self, larger: Tensor) -> None:
        """Go on with a table that has taken the place of the former one; the rows that were there keep their moments."""
        mean, square, rows = self._mean, self._square, len(self._table)
        self._table, self._mean, self._square = larger, torch.zeros_like(larger), torch.zeros_like(larger)
        self._mean[:rows], self._square[:rows] = mean, square

    @torch.no_grad()
    def step(self) -> None:
        """Take one step and clear the gradient."""
        if self._table.grad is None:
            return
        self._steps += 1
        gradient = self._table.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        mean = self._mean[rows].lerp_(values, 1 - BETAS[0])
        square = self._square[rows].mul_(BETAS[1]).addcmul_(values, values, value=1 - BETAS[1])
        self._mean[rows], self._square[rows] = mean, square
        self._table.index_add_(0, rows, _direction(mean, square, self._steps), alpha=-self._rate)
        self._table.grad = None


def _direction(mean: Tensor, square: Tensor, steps: int) -> Tensor:
    corrected = (square / (1 - BETAS[1] ** steps)).sqrt_().add_(EPSILON)
    return mean / (1 - BETAS[0] ** steps) / corrected
