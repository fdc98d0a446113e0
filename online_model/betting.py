"""Whether a stream of numbers is above a bound on average, asked after each of them without more false alarms for the asking.

A bettor stakes a part of a wealth of 1 on each number being above the bound. Where the mean is not above it, the wealth is a
supermartingale, and by Ville's inequality the chance that it ever reaches 1 / `alarm_rate` is at most `alarm_rate` (Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024; the one-sided counterpart of the confidence
sequences of Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 49, 2021). The stakes are a mixture over a fixed grid (their
section 4.4), so nothing has to be tuned to how large the difference or its spread is.
"""

import math

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.gate_state import WealthState

# Shares of the largest stake that cannot lose everything; each bettor of the mixture keeps to one of them.
STAKES = 0.7 * 2.0 ** -np.arange(0.0, 7.0)


class Wealth:
    """Evidence that numbers, clipped to plus or minus `reach`, are above `bound` on average; `log_best` is the most there ever was.

    `bound` must lie within the reach.
    """

    def __init__(self, bound: float, reach: float) -> None:
        self._bound = bound
        self._reach = reach
        self._stakes = STAKES / (reach + bound)
        self._logs = np.zeros(len(STAKES))
        self.log_best = 0.0
        self.seen = 0
        self.total = 0.0

    @property
    def mean(self) -> float:
        """The mean of the clipped numbers so far, 0 where there are none."""
        return self.total / max(1, self.seen)

    def observe(self, numbers: NDArray[np.float64]) -> float:
        """Take in numbers, (numbers,), one after the other; return `log_best`."""
        if len(numbers):
            clipped = np.clip(numbers, -self._reach, self._reach)
            self.seen += len(clipped)
            self.total += float(clipped.sum())
            courses = self._logs + np.cumsum(np.log1p(self._stakes * (clipped - self._bound)[:, None]), axis=0)
            self._logs = courses[-1]
            top = courses.max(axis=1)
            mixed = top + np.log(np.exp(courses - top[:, None]).mean(axis=1))
            self.log_best = max(self.log_best, float(mixed.max()))
        return self.log_best

    def state(self) -> WealthState:
        """Return what was won and seen so far."""
        return WealthState(self._logs.tolist(), self.log_best, self.seen, self.total)

    def restore(self, state: WealthState) -> None:
        """Go on from a state. Raises ValueError where it has other stakes."""
        if len(state.logs) != len(STAKES):
            raise ValueError(f"logs: {len(STAKES)} were expected; there are {len(state.logs)}")
        self._logs = np.array(state.logs)
        self.log_best, self.seen, self.total = state.log_best, state.seen, state.total


def is_alarm(log_wealth: float, alarm_rate: float) -> bool:
    """Whether a wealth is one that chance reaches with a probability of at most `alarm_rate`."""
    return log_wealth >= -math.log(alarm_rate)
