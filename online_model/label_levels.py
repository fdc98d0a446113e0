"""Whether a batch's targets belong to its histories: how well the live weights foresee them, before anything is learned from them.

Mixed-up labels look like any others one by one, but the live weights foresee them far worse than those of the rounds before. After a
sudden change of the shop they foresee everything worse, though: also what was held back from the same batches, by lot. So a batch that
is foreseen far worse is believed once that is proved, which takes a few rounds; mixed-up labels never are.
"""

import math
from collections import deque

import numpy as np

from headrace.online_model.betting import Wealth, is_alarm
from headrace.online_model.gate_state import LabelState
from headrace.online_model.judgement import Losses

ROUNDS, FEWEST_ROUNDS, FEWEST_HISTORIES = 16, 8, 4
# Of what was held back: fewer prove nothing, and a loss counts as at most so far from the usual.
FEWEST_ASIDE, REACH = 12, 5.0


class LabelLevels:
    """The mean losses of the last rounds' batches, before they were learned."""

    def __init__(self, errors: float, change_alarm_rate: float) -> None:
        self._errors = errors
        self._change_alarm_rate = change_alarm_rate
        self._levels: deque[float] = deque(maxlen=ROUNDS)
        self._newest: float | None = None
        # What was held back from batches that are foreseen far worse, one right after the other.
        self._aside: Wealth | None = None

    def fault(self, learned: Losses, aside: Losses, metrics: dict[str, float]) -> str | None:
        """Return what is wrong with a batch by the losses of what was learned, (histories,), and held back, (others,), or None."""
        self._newest = None
        if len(learned) < FEWEST_HISTORIES:
            return None
        level, variance = float(learned.mean()), float(learned.var()) / len(learned)
        self._newest = level
        if len(self._levels) < FEWEST_ROUNDS:
            return None
        usual = float(np.mean(self._levels))
        above = (level - usual) / math.sqrt(variance + float(np.var(self._levels)) + 1e-12)
        metrics |= {"batch_loss": level, "batch_errors_above": above}
        if above <= self._errors:
            self._aside = None
            return None
        self._aside = self._aside or Wealth(0.0, REACH)
        evidence = self._aside.observe(aside - usual)
        metrics["change_evidence"] = evidence
        if self._aside.seen >= FEWEST_ASIDE and is_alarm(evidence, self._change_alarm_rate):
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

    def state(self) -> LabelState:
        """Return what is known between two rounds."""
        return LabelState(list(self._levels), self._aside.state() if self._aside is not None else None)

    def restore(self, state: LabelState) -> None:
        """Go on from a state. Raises ValueError where it cannot be."""
        self._levels.extend(state.levels)
        if state.aside is not None:
            self._aside = Wealth(0.0, REACH)
            self._aside.restore(state.aside)
