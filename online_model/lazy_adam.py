"""Adam (Kingma and Ba, ICLR 2015) for dense tensors and, in its lazy form, for the rows of a table that a batch has touched.

torch's own optimizers do much the same, but their import brings a compiler and a computer algebra system: several seconds at each
start of a learner, which is what a restart after a crash waits for.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from headrace.online_model.gate_state import AdamState, RowMoments

BETAS = (0.9, 0.999)
# A row is touched far less often than a dense weight: it must not take a thousand touches to forget how large its gradients were.
LAZY_BETAS = (0.9, 0.99)
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
    def step(self, scale: float = 1.0) -> None:
        """Take one step of `scale` times the rate and clear the gradients."""
        self._steps += 1
        for parameter, mean, square in zip(self._parameters, self._mean, self._square, strict=True):
            if parameter.grad is not None:
                mean.lerp_(parameter.grad, 1 - BETAS[0])
                square.mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
                corrected = (square / (1 - BETAS[1] ** self._steps)).sqrt_().add_(EPSILON)
                parameter.addcdiv_(mean, corrected, value=-scale * self._rate / (1 - BETAS[0] ** self._steps))
                parameter.grad = None

    def moments(self) -> AdamState:
        """Return the moments and the number of steps."""
        return AdamState([mean.numpy().copy() for mean in self._mean], [square.numpy().copy() for square in self._square], self._steps)

    def restore(self, state: AdamState) -> None:
        """Go on from moments of the same parameters. Raises RuntimeError or ValueError for those of others."""
        for ours, theirs in ((self._mean, state.means), (self._square, state.squares)):
            for moment, kept in zip(ours, theirs, strict=True):
                moment.copy_(torch.from_numpy(kept))
        self._steps = state.steps


class LazyAdam:
    """Steps of `rate` on rows of a table, (rows, width). Rows without a gradient and their moments stay as they are.

    Moments are corrected for their start at 0 by the number of steps that their own row has taken, so that the first steps of a new
    row are as long as those of any other.
    """

    def __init__(self, table: Tensor, rate: float) -> None:
        self._rate = rate
        self._table = table
        self._mean = torch.zeros_like(table)
        self._square = torch.zeros_like(table)
        self._steps = torch.zeros(len(table), 1, dtype=table.dtype)

    def follow(self, larger: Tensor) -> None:
        """Go on with a table that has taken the place of the former one; the rows that were there keep their moments."""
        former, rows = (self._mean, self._square, self._steps), len(self._table)
        self._table, self._mean, self._square = larger, torch.zeros_like(larger), torch.zeros_like(larger)
        self._steps = torch.zeros(len(larger), 1, dtype=larger.dtype)
        for kept, now in zip(former, (self._mean, self._square, self._steps), strict=True):
            now[:rows] = kept

    def forget(self, rows: Tensor) -> None:
        """Let rows begin anew, since they stand for something else now."""
        for moment in (self._mean, self._square, self._steps):
            moment[rows] = 0.0

    def moments(self, rows: Tensor) -> RowMoments:
        """Return the moments of some rows, (rows,), and their numbers of steps."""
        return RowMoments(rows.numpy(), self._mean[rows].numpy(), self._square[rows].numpy(), self._steps[rows].numpy())

    def restore(self, state: RowMoments) -> None:
        """Go on from the moments of some rows. Raises RuntimeError or IndexError for those of another table."""
        rows = torch.from_numpy(state.rows)
        for moment, kept in zip((self._mean, self._square, self._steps), (state.means, state.squares, state.steps), strict=True):
            moment[rows] = torch.from_numpy(kept)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, scale: float = 1.0) -> None:
        """Take one step of `scale` times the rate on `rows`, each named once, with their gradient, (rows, width)."""
        steps = self._steps[rows] + 1
        mean = self._mean[rows].lerp_(gradient, 1 - LAZY_BETAS[0])
        square = self._square[rows].mul_(LAZY_BETAS[1]).addcmul_(gradient, gradient, value=1 - LAZY_BETAS[1])
        self._steps[rows], self._mean[rows], self._square[rows] = steps, mean, square
        corrected = (square / (1 - LAZY_BETAS[1] ** steps)).sqrt_().add_(EPSILON)
        self._table.index_add_(0, rows, mean / (1 - LAZY_BETAS[0] ** steps) / corrected, alpha=-scale * self._rate)
