"""An online mixture: every part is a distribution over items, and their weights follow how well each foresaw what came.

The weights are learned by incremental expectation maximisation (Cappé and Moulines, JRSS B 2009, with a constant step): after each
event every part's weight moves towards its share of the event's probability. Each context has weights of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-5


class Mixture:
    """Weights of `parts` in each of `contexts` contexts, numbered from 0; they begin equal."""

    def __init__(self, parts: tuple[str, ...], contexts: int, rate: float = 0.01) -> None:
        self.parts = parts
        self._rate = rate
        self._weights = np.full((contexts, len(parts)), 1.0 / len(parts))

    def weights(self, context: int) -> NDArray[np.float64]:
        """Return the weight of each part, (parts,); they add up to 1."""
        weights: NDArray[np.float64] = self._weights[context]
        return weights

    def named(self, context: int) -> Mapping[str, float]:
        """Return the weights by the parts' names."""
        return dict(zip(self.parts, self._weights[context].tolist(), strict=True))

    def learn(self, context: int, chances: NDArray[Any]) -> None:
        """Take in which chance each part, (parts,), had given to the item that came."""
        weights = self._weights[context]
        joint = weights * (chances + FLOOR)
        weights += self._rate * (joint / joint.sum() - weights)

    def learned(self) -> NDArray[np.float64]:
        """Return a copy of all weights, (contexts, parts)."""
        return self._weights.copy()

    def take_up(self, weights: NDArray[np.float64]) -> None:
        """Put weights that were learned elsewhere, (contexts, parts), in place of these."""
        self._weights[:] = weights
