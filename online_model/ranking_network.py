"""A small network that ranks candidates by their features, learning at each tested event.

score = w . x + v . relu(W x + b), and the chance of a candidate is the softmax of the scores over all candidates of its question
(ListNet; Cao et al., ICML 2007, with the item that came as the only relevant one). It begins as the mixture: w is 1 for the log of
the mix and 0 else, and v is 0; so what it learns is a correction. AdamW (Loshchilov and Hutter, ICLR 2019) on the mean gradient of
some questions, new and remembered; answers are given by a running mean of the weights (Polyak and Juditsky, 1992).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.evidence import FEATURES, LOG_MIX

Floats = NDArray[np.float32]


class RankingNetwork:
    """Scores questions of (candidates, FEATURES). `rate` falls with the inverse root of the steps, down to a tenth."""

    def __init__(
        self,
        *,
        hidden: int = 64,
        rate: float = 2e-3,
        questions_per_step: int = 15,
        weight_decay: float = 1e-3,
        averaged_over: int = 500,
        replayed: int = 2,
        remembered: int = 1000,
        seed: int = 1,
    ) -> None:
        draw = self._draw = np.random.default_rng(seed)
        ends = np.cumsum([FEATURES * hidden, hidden, hidden, FEATURES]).tolist()
        self._parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self._rate = rate
        self._per_step = questions_per_step
        self._decay = weight_decay
        self._averaged_over = averaged_over
        into = draw.normal(size=(FEATURES, hidden)) / FEATURES**0.5
        bias, out, first = np.zeros(hidden), np.zeros(hidden), np.zeros(FEATURES)
        first[LOG_MIX] = 1.0
        # All parameters lie in one array, so that a step of the optimizer is a handful of operations.
        self._weights = np.concatenate([into.ravel(), bias, out, first]).astype(np.float32)
        self._mean_weights = self._weights.copy()
        self._gradient = np.zeros_like(self._weights)
        self._moment = np.zeros_like(self._weights)
        self._square = np.zeros_like(self._weights)
        self._waiting = 0
        self._steps = 0
        # Steps since the optimizer's means began at nothing.
        self._since = 0
        self._replayed = replayed
        self._remembered = remembered
        self._old: list[tuple[Floats, int]] = []

    @property
    def steps(self) -> int:
        """How many steps the optimizer has made."""
        return self._steps

    def scores(self, features: Floats) -> Floats:
        """Return the log of the unnormalised chance of each candidate, (candidates,), by the running mean of the weights."""
        into, bias, out, direct = self._parameters(self._mean_weights)
        scores: Floats = _hidden(features, into, bias) @ out + features @ direct
        return scores

    def learn(self, features: Floats, came: int) -> None:
        """Take in that of these candidates the one in row `came` was chosen, and once more some of the questions before.

        A question is seen three times or so; without that a shop's first hundred thousand events would be too few to learn from.
        """
        asked = [(features, came)]
        if len(self._old) == self._remembered:
            asked += [self._old[number] for number in self._draw.integers(self._remembered, size=self._replayed)]
        self._take_in(asked)
        self._keep(features, came)

    def learned(self) -> Floats:
        """Return a copy of the running mean of all weights, by which it answers, (weights,)."""
        return self._mean_weights.copy()

    def take_up(self, weights: Floats, steps: int) -> None:
        """Put weights that were learned elsewhere in `steps` steps, (weights,), in place of these, and go on learning from there."""
        self._weights[:] = weights
        self._mean_weights[:] = weights
        for state in (self._moment, self._square, self._gradient):
            state[:] = 0.0
        self._waiting = 0
        self._steps = steps
        self._since = 0

    def _keep(self, features: Floats, came: int) -> None:
        kept = (features.copy(), came)
        if len(self._old) < self._remembered:
            self._old.append(kept)
        else:
            self._old[int(self._draw.integers(self._remembered))] = kept

    def _take_in(self, questions: Sequence[tuple[Floats, int]]) -> None:
        """Add the gradients of some questions, all at once: for a single one NumPy's calls take longer than their numbers."""
        into, bias, out, direct = self._parameters(self._weights)
        features = np.concatenate([candidates for candidates, _ in questions])
        hidden = _hidden(features, into, bias)
        scores = hidden @ out + features @ direct
        error = np.empty_like(scores)
        end = 0
        for candidates, came in questions:
            of_it = slice(end, end := end + len(candidates))
            chances = np.exp(scores[of_it] - scores[of_it].max())
            chances /= chances.sum()
            chances[came] -= 1.0
            error[of_it] = chances
        back = np.outer(error, out)
        back *= hidden > 0.0
        to_into, to_bias, to_out, to_direct = self._parameters(self._gradient)
        to_into += features.T @ back
        to_bias += back.sum(axis=0)
        to_out += error @ hidden
        to_direct += error @ features
        self._waiting += len(questions)
        if self._waiting >= self._per_step:
            self._step()

    def _step(self) -> None:
        gradient = self._gradient / self._waiting
        self._gradient[:] = 0.0
        self._waiting = 0
        self._steps += 1
        self._since += 1
        steps, since = self._steps, self._since
        rate = self._rate * min(1.0, since / 100) * max(0.1, (1.0 + steps / 1000) ** -0.5)
        self._moment += 0.1 * (gradient - self._moment)
        self._square += 0.001 * (gradient * gradient - self._square)
        direction = self._moment / (1.0 - 0.9**since) / (np.sqrt(self._square / (1.0 - 0.999**since)) + 1e-6)
        self._weights -= np.float32(rate) * (direction + np.float32(self._decay) * self._weights)
        share = max(1.0 / self._averaged_over, 1.0 / (1.0 + steps))
        self._mean_weights += np.float32(share) * (self._weights - self._mean_weights)

    def _parameters(self, flat: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return views of one flat array as into-hidden weights, hidden bias, hidden-out weights and direct weights."""
        into, bias, out, direct = (flat[part] for part in self._parts)
        return into.reshape(FEATURES, -1), bias, out, direct


def _hidden(features: Floats, into: Floats, bias: Floats) -> Floats:
    hidden: Floats = features @ into
    hidden += bias
    return np.maximum(hidden, 0.0, out=hidden)
