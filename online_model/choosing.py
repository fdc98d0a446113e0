"""Choosing among what was scored: compiled loops in place of a dozen array operations for each list of twenty."""

from typing import Any

import numpy as np

from headrace.online_model.compiled import compiled


@compiled
def choose(scores: Any, rows: Any, chances: Any) -> None:
    """Write the rows of the best of `scores`, (candidates,), into `rows`, (k,), best first, and the probability of each into `chances`.

    There must be `k` candidates or more. Of candidates that are equal the one found first wins, so that the same question has the same
    answer.
    """
    most, found, highest = len(rows), 0, -np.inf
    for row in range(len(scores)):
        score = scores[row]
        highest = max(highest, score)
        if found == most and score <= scores[rows[most - 1]]:
            continue
        place = min(found, most - 1)
        while place > 0 and scores[rows[place - 1]] < score:
            rows[place] = rows[place - 1]
            place -= 1
        rows[place] = row
        found = min(found + 1, most)
    total = 0.0
    for row in range(len(scores)):
        total += np.exp(scores[row] - highest)
    for place in range(most):
        chances[place] = np.exp(scores[rows[place]] - highest) / total


@compiled
def strongest(strengths: Any, places: Any, shares: Any) -> None:
    """Write for each row of `strengths`, (items, steps), the strongest steps, (items, reasons), and their shares in the row's sum.

    Of steps that are equal the first comes first. Where the sum is 0 all shares are 0. There must be as many steps as reasons, or more.
    """
    for item in range(strengths.shape[0]):
        total = 1e-9
        for step in range(strengths.shape[1]):
            total += strengths[item, step]
        for step in range(strengths.shape[1]):
            place = min(step, places.shape[1])
            while place > 0 and strengths[item, places[item, place - 1]] < strengths[item, step]:
                if place < places.shape[1]:
                    places[item, place] = places[item, place - 1]
                place -= 1
            if place < places.shape[1]:
                places[item, place] = step
        for place in range(places.shape[1]):
            shares[item, place] = strengths[item, places[item, place]] / total
