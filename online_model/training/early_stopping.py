"""When training has stopped to gain: a pure function of the validation losses so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """Ends training after `patience` evaluations in a row without a new lowest validation loss; 0 never ends it.

    A loss must be lower than the lowest one by `least_gain` to be the new lowest. One that is not a number never is.
    """

    patience: int = 3
    least_gain: float = 0.0

    def best(self, losses: Sequence[float]) -> int | None:
        """Return the number of the evaluation, from 0, whose weights are to be kept; None before any had a finite loss."""
        best: int | None = None
        for number, loss in enumerate(losses):
            if math.isfinite(loss) and (best is None or loss < losses[best] - self.least_gain):
                best = number
        return best

    def improved(self, losses: Sequence[float]) -> bool:
        """Whether the last evaluation is the best one."""
        return bool(losses) and self.best(losses) == len(losses) - 1

    def is_over(self, losses: Sequence[float]) -> bool:
        """Whether training ends now."""
        best = self.best(losses)
        waited = len(losses) if best is None else len(losses) - 1 - best
        return 0 < self.patience <= waited
