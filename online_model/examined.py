"""One question, examined: its candidates with their features, and what each part of the mixture gives to them.

Made under the ranker's lock and then owned by whoever asked, so that scoring, learning and explaining need no more look at the memories.
"""

from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.choosing import choose, strongest
from headrace.online_model.evidence import CONTEXTS, FEATURES, PARTS, PARTS_COUNT, context_of, features, part_probabilities
from headrace.online_model.memory import Asking, Memory, Question
from headrace.online_model.mixture import Mixture
from headrace.schemas.recommendations import Part

# What the parts are called outside: what is taken from visits of others is co-visitation, whichever way it is counted.
TOLD_AS = {"followers": "covisitation", "two_hops": "covisitation"}
TOLD = cast(tuple[Part, ...], tuple(dict.fromkeys(TOLD_AS.get(part, part) for part in PARTS)))
_TOLD_OF = np.array([[float(TOLD_AS.get(part, part) == told) for told in TOLD] for part in PARTS])


@dataclass(frozen=True)
class Examined:
    """`candidates` are item numbers, (candidates,); `features` (candidates, FEATURES); `parts` (candidates, parts), probabilities."""

    question: Question
    candidates: NDArray[np.int32]
    features: NDArray[np.float32]
    parts: NDArray[np.float32]
    weights: NDArray[np.float64]
    context: int

    def row(self, item: int) -> int | None:
        """Return the row of an item; None if it is no candidate."""
        rows = np.flatnonzero(self.candidates == item)
        return int(rows[0]) if len(rows) else None

    def shares(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return which share of the candidates' chances in the mixture comes from each part as it is told, (rows, TOLD).

        A candidate's shares add up to 1; they are 0 where no part knows it.
        """
        given = (self.weights * self.parts[rows]) @ _TOLD_OF
        totals = given.sum(axis=1, keepdims=True)
        shares: NDArray[np.float64] = np.divide(given, totals, out=np.zeros_like(given), where=totals > 0.0)
        return shares


def examined(asking: Asking, mixture: Mixture, last: int) -> Examined:
    """Examine a question whose candidates are complete; the item `last` (-1: none) is left out of them."""
    kept = np.flatnonzero(asking.candidates != last)
    evidence = asking.evidence[kept]
    parts = np.zeros((len(kept), PARTS_COUNT), np.float32)
    part_probabilities(evidence, parts)
    context = int(context_of(asking.situation))
    weights = mixture.weights(context)
    out = np.zeros((len(kept), FEATURES), np.float32)
    features(evidence, asking.situation, parts, weights, out)
    return Examined(asking.question, asking.candidates[kept], out, parts, weights.copy(), context)


@cache
def warm_up() -> None:
    """Have all compiled code ready: some twenty seconds the first time on a machine, a second or two afterwards."""
    memory = Memory(2)
    memory.learn("warm", 0, is_new_visit=True)
    question = memory.question("warm")
    memory.learn("warm", 1, is_new_visit=False, question=question)
    with memory.ask(question) as asking:
        asking.add(np.array([1], np.int32))
        examined(asking, Mixture(PARTS, CONTEXTS), -1)
    strengths = memory.reasons(question.distinct, question.distinct)
    places, numbers = np.zeros((len(strengths), 1), np.int64), np.zeros((len(strengths), 1), np.float32)
    strongest(strengths, places, numbers)
    choose(numbers[:, 0], places[:, 0], numbers[:, 0])
