"""Whether a batch's targets belong to its histories: how well the live weights foresee them, before anything is learned from them.

Mixed-up labels look like any others one by one, but the live weights foresee them far worse than those of the rounds before. After a
sudden change of the shop they foresee everything worse, though: also what was held back from the same batch, by lot.
"""

import math
from collections import deque

import numpy as np

from headrace.online_model.judgement import Losses

ROUNDS, FEWEST_ROUNDS, FEWEST_ASIDE = 16, 8, 4
BY_CHANCE = 1.645


class LabelLevels:
    """The mean losses of the last rounds' batches, before they were learned."""

    def __init__(self, errors: float) -> None:
        self._errors = errors
        self._levels: deque[float] = deque(maxlen=ROUNDS)
        self._newest: float | None = None

    def fault(self, learned: Losses, aside: Losses, metrics: dict[str, float]) -> str | None:
        """Return what is wrong with a batch by the losses of what was learned, (histories,), and held back, (others,), or None."""
        self._newest = None
        if len(learned) < FEWEST_ASIDE:
            return None
        level, variance = float(learned.mean()), float(learned.var()) / len(learned)
        self._newest = level
        if len(self._levels) < FEWEST_ROUNDS:
            return None
        usual = float(np.mean(self._levels))
        above = (level - usual) / math.sqrt(variance + float(np.var(self._levels)) + 1e-12)
        metrics |= {"batch_loss": level, "batch_errors_above": above}
        if above <= self._errors:
            return None
        if len(aside) >= FEWEST_ASIDE:
            error = math.sqrt(variance + float(aside.var()) / len(aside) + 1e-12)
            metrics["batch_errors_above_aside"] = (level - float(aside.mean())) / error
            if metrics["batch_errors_above_aside"] <= BY_CHANCE:
                return None
        return f"the targets of the batch do not follow from its histories: their loss is {level:.2f}, {usual:.2f} in the last rounds"

    def keep(self) -> None:
        """Let the newest batch count among the last rounds."""
        if self._newest is not None:
            self._levels.append(self._newest)
        self._newest = None

    def drop(self) -> None:
        """Forget the newest batch."""
        self._newest = None
