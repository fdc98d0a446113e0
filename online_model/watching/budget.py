"""How many false alarms are allowed, and what that means for each single test.

The rate for a million events is divided among watches by their shares, among the columns of a watch, and among the tests of a million
events (Bonferroni, which holds however the tests depend on each other). Windows that overlap almost wholly are hardly two tests: the
mean of a window of `n` blocks that slides for `n` blocks is about eight tests (the rate at which a stationary Gaussian process whose
correlation falls linearly crosses a level of four to five; Leadbetter, Lindgren and Rootzén, 1983, chapter 12).
"""

from collections.abc import Sequence
from dataclasses import dataclass

MILLION = 1_000_000
TESTS_OF_A_WINDOW = 8.0


@dataclass(frozen=True)
class Budget:
    """`false_alarms_per_million` for all watches together, whose `shares` are numbers beside each other; blocks hold `block` events."""

    false_alarms_per_million: float
    shares: Sequence[float]
    block: int

    def of_test(self, share: float, columns: int, windows: Sequence[int]) -> float:
        """Return the p-value at or below which one test of a watch may speak.

        The watch has `columns` columns, each tested after each block over each of `windows`, in blocks.
        """
        tests = sum(MILLION / self.block * min(1.0, TESTS_OF_A_WINDOW / window) for window in windows)
        return self.false_alarms_per_million * share / sum(self.shares) / columns / tests
