"""An online mixture: every part is a distribution over items, and their weights follow how well each foresaw what came.

The weights are learned by incremental expectation maximisation (Cappé and Moulines, JRSS B 2009, with a constant step): after each
event every part's weight moves towards its share of the event's probability. Each context has weights of its own.
"""

from collections.abc import Mapping, Sequence

PARTS = ("covisitation", "neighbours", "own_history", "transformer", "popularity")
FLOOR = 1e-6


class Mixture:
    """Weights of `PARTS` in each of `contexts` contexts, numbered from 0."""

    def __init__(self, contexts: int, rate: float = 0.01) -> None:
        self._rate = rate
        start = {"covisitation": 0.4, "neighbours": 0.25, "own_history": 0.25, "transformer": 0.05, "popularity": 0.05}
        self._weights = [[start[part] for part in PARTS] for _ in range(contexts)]

    def weights(self, context: int) -> Mapping[str, float]:
        """Return the weight of each part; they add up to 1."""
        return dict(zip(PARTS, self._weights[context], strict=True))

    def learn(self, context: int, likelihoods: Sequence[float]) -> None:
        """Take in which probability each part, in the order of `PARTS`, had given to the item that came."""
        weights = self._weights[context]
        joint = [weight * (likelihood + FLOOR) for weight, likelihood in zip(weights, likelihoods, strict=True)]
        total = sum(joint)
        self._weights[context] = [weight + self._rate * (share / total - weight) for weight, share in zip(weights, joint, strict=True)]
