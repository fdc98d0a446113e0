"""Optimizers: for dense parameters, and for an embedding table of which a batch touches a few rows.

Each takes its learning rate with each step, from a schedule, and shows its state as tensors, for checkpoints. torch has the dense
ones too, but their import brings a compiler: several seconds (`docs/decisions/0003-own-lazy-adam.md`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from headrace.online_model import lazy_adam

STEPS, MEAN, SQUARE, SUM = "steps", "mean", "square", "sum"
# The rates of the optimizers that are shared with fine-tuning are factors of this one.
WHOLE = 1.0


class Kept(Protocol):
    """What the next step depends on beside parameters and gradients."""

    def state(self) -> dict[str, Tensor]:
        """Return it as tensors by name."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned. Raises KeyError for that of another optimizer."""


class DenseOptimizer(Kept, Protocol):
    """Moves parameters by their `.grad`."""

    def step(self, rate: float) -> None:
        """Take a step of this learning rate and clear the gradients."""


class TableOptimizer(Kept, Protocol):
    """Moves rows of a table, (rows, width)."""

    def step(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Take a step of this learning rate on `rows`, each named once, with their gradient, (rows, width); all others stay."""


class OneSlot(ABC):
    """A dense optimizer that keeps one tensor for each parameter, named `SLOT`."""

    SLOT: ClassVar[str]

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = list(parameters)
        self._slots = [torch.zeros_like(parameter) for parameter in self._parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take a step of this learning rate and clear the gradients."""
        for parameter, slot in zip(self._parameters, self._slots, strict=True):
            if parameter.grad is not None:
                self._move(parameter, parameter.grad, rate, slot)
                parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the slots."""
        return _numbered(self.SLOT, self._slots)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take in the slots."""
        _copy_numbered(self.SLOT, state, self._slots)

    @abstractmethod
    def _move(self, parameter: Tensor, gradient: Tensor, rate: float, slot: Tensor) -> None: ...


class Momentum(OneSlot):
    """Stochastic gradient descent with momentum (Polyak, 1964): velocity = 0.9 velocity + gradient."""

    SLOT = "velocity"
    KEPT = 0.9

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float, slot: Tensor) -> None:
        parameter.sub_(slot.mul_(self.KEPT).add_(gradient), alpha=rate)


class Adagrad(OneSlot):
    """Steps shrink with the root of the sum of all squared gradients so far (Duchi, Hazan and Singer, JMLR 2011)."""

    SLOT = SUM
    EPSILON = 1e-10

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float, slot: Tensor) -> None:
        slot.addcmul_(gradient, gradient)
        parameter.addcdiv_(gradient, slot.sqrt().add_(self.EPSILON), value=-rate)


class RMSProp(OneSlot):
    """Steps are divided by the root of a fading mean of squared gradients (Tieleman and Hinton, 2012)."""

    SLOT = SQUARE
    KEPT = 0.99
    EPSILON = 1e-8

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float, slot: Tensor) -> None:
        slot.mul_(self.KEPT).addcmul_(gradient, gradient, value=1 - self.KEPT)
        parameter.addcdiv_(gradient, slot.sqrt().add_(self.EPSILON), value=-rate)


class Adam(lazy_adam.Adam):
    """Adam as fine-tuning has it, with a state."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, WHOLE)

    def state(self) -> dict[str, Tensor]:
        """Return the number of steps and both means of each parameter."""
        return {STEPS: torch.tensor([self._steps]), **_numbered(MEAN, self._mean), **_numbered(SQUARE, self._square)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them in."""
        self._steps = int(state[STEPS].item())
        _copy_numbered(MEAN, state, self._mean)
        _copy_numbered(SQUARE, state, self._square)


class LazyAdam(lazy_adam.LazyAdam):
    """Adam for a table as fine-tuning has it, with a state."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(table, WHOLE)

    def state(self) -> dict[str, Tensor]:
        """Return the number of steps and both means of each row."""
        return {STEPS: self._steps, MEAN: self._mean, SQUARE: self._square}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them in."""
        for name, kept in self.state().items():
            kept.copy_(state[name])


class RowWiseAdagrad:
    """Adagrad with one sum for each row of a table: that of the row's mean squared gradient. It keeps 1 / width of what Adagrad keeps.

    Source: Mudigere et al., "Software-Hardware Co-design for Fast and Scalable Training of Deep Learning Recommendation Models",
    ISCA 2022; the same is FBGEMM's `EXACT_ROWWISE_ADAGRAD`.
    """

    EPSILON = 1e-8

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self._sum = torch.zeros(len(table), dtype=table.dtype, device=table.device)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Take a step of this learning rate on `rows`, each named once, with their gradient, (rows, width)."""
        reached = self._sum[rows] + gradient.square().mean(dim=1)
        self._sum[rows] = reached
        self._table.index_add_(0, rows, gradient / (reached.sqrt() + self.EPSILON)[:, None], alpha=-rate)

    def state(self) -> dict[str, Tensor]:
        """Return the sums, (rows,)."""
        return {SUM: self._sum}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them in."""
        self._sum.copy_(state[SUM])


DENSE: dict[str, type[Momentum | Adagrad | RMSProp | Adam]] = {"sgd": Momentum, "adagrad": Adagrad, "rmsprop": RMSProp, "adam": Adam}
TABLE: dict[str, type[RowWiseAdagrad | LazyAdam]] = {"rowwise-adagrad": RowWiseAdagrad, "lazy-adam": LazyAdam}


def _numbered(name: str, slots: list[Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{place}": slot for place, slot in enumerate(slots)}


def _copy_numbered(name: str, state: Mapping[str, Tensor], slots: list[Tensor]) -> None:
    for place, slot in enumerate(slots):
        slot.copy_(state[f"{name}.{place}"])
