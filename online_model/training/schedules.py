"""Schedules of the learning rate: pure functions of the step and of the validation losses so far, so a checkpoint holds no more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from headrace.online_model.training.plan import ScheduleName


class Schedule(Protocol):
    """Tells by which factor the learning rate is multiplied."""

    def factor(self, step: int, losses: Sequence[float]) -> float:
        """Return the factor at this step, from 0, after evaluations that found these validation losses."""


@dataclass(frozen=True)
class Constant:
    """The factor 1 throughout."""

    def factor(self, step: int, losses: Sequence[float]) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class StepDecay:
    """Multiplied by `by` after each `every` steps."""

    every: int
    by: float = 0.5

    def factor(self, step: int, losses: Sequence[float]) -> float:
        """Return `by` to the power of the whole stretches that are over."""
        return float(self.by ** (step // self.every))


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to `floor` over `steps`, without restarts (Loshchilov and Hutter, ICLR 2017), then `floor`."""

    steps: int
    floor: float = 0.0

    def factor(self, step: int, losses: Sequence[float]) -> float:
        """Return the height of the curve."""
        share = min(1.0, step / self.steps)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Multiplied by `by` each time the loss has not fallen by `least_gain` (a share of it) for `patience` evaluations."""

    patience: int = 1
    by: float = 0.5
    least_gain: float = 1e-3

    def factor(self, step: int, losses: Sequence[float]) -> float:
        """Return `by` to the power of the plateaus met."""
        best, waited, met = math.inf, 0, 0
        for loss in losses:
            if loss < best - self.least_gain * abs(best) if math.isfinite(best) else loss < best:
                best, waited = loss, 0
                continue
            waited += 1
            if waited > self.patience:
                met, waited = met + 1, 0
        return float(self.by**met)


@dataclass(frozen=True)
class WarmUp:
    """A straight rise over the first `steps`, and then another schedule, which begins where the rise has ended."""

    steps: int
    then: Schedule

    def factor(self, step: int, losses: Sequence[float]) -> float:
        """Return the factor of the rise, above 0 at once, or that of the other schedule."""
        if step < self.steps:
            return (step + 1) / self.steps * self.then.factor(0, losses)
        return self.then.factor(step - self.steps, losses)


NAMES = get_args(ScheduleName)


def schedule_of(name: str, total_steps: int, warm_up: int = 0) -> Schedule:
    """Return a schedule by its name, laid out over `total_steps` of which the first `warm_up` rise. Raises ValueError."""
    rest = max(1, total_steps - warm_up)
    known: dict[str, Schedule] = {
        "constant": Constant(),
        "step": StepDecay(max(1, rest // 3)),
        "cosine": Cosine(rest),
        "plateau": ReduceOnPlateau(),
    }
    if name not in known:
        raise ValueError(f"schedule: one of {', '.join(NAMES)} was expected; the value is {name!r}")
    return WarmUp(warm_up, known[name]) if warm_up else known[name]
