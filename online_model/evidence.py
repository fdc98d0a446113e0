"""What the memories say of one candidate, and how that becomes the features that the ranking network sees.

Evidence is a matrix with a row for each candidate and the columns below; `features` is a pure function of it.
"""

from enum import IntEnum
from typing import Any

import numpy as np

from headrace.online_model.compiled import compiled


class Column(IntEnum):
    """Columns of the evidence. Counts are per occurrence of the item that they start from; `r` is the place of a history item.

    The newest item of the history has r = 0, and histories are taken without repetition.
    """

    NEXT = 0  # how often the candidate came right after the newest item
    AHEAD = 1  # the same for all steps after it, each step further counting 0.75 of the one before
    BEHIND = 2  # the same for the steps before it
    FRESH = 3  # AHEAD, halved for every 2,000 events that have gone by since
    VOTES = 4  # votes of similar visits, as a share of all votes
    LIKEST = 5  # the likeness of the most similar visit that has the candidate
    ROW = 6  # decayed co-visitation with all history items, the r-th counting 1 / (1 + r)
    ROW_LAST = 7  # decayed co-visitation with the newest item alone
    ROW_BEST = 8  # the largest over all history items
    SUPPORT = 9  # how many of the history items it was ever visited with
    LIFT = 10  # co-visitation divided by how common the two items are (cosine)
    TWO_HOPS = 11  # co-visitation with what was visited with the history
    OWN_COUNT = 12  # how often the shopper has had it
    OWN_PLACE = 13  # 1 for the item before the newest, 2 for the one before that, ...; 0 if the shopper never had it
    OWN_AFTER = 14  # how often it came after the newest item in the shopper's own history
    RETURN = 15  # probability of a return to just this place of the history; for others, of something new
    HEAT_SHORT = 16  # events of the item, halved every 300 events of the shop
    HEAT = 17  # halved every 3,000
    HEAT_LONG = 18  # halved every 20,000
    COUNT = 19  # events of the item ever
    AGE = 20  # events of the shop since its first
    SINCE = 21  # events of the shop since its newest
    LOGIT = 22  # the Transformer's logit
    TO_LAST = 23  # cosine of the Transformer's vectors of the candidate and of the newest item


COLUMNS = len(Column)


class Situation(IntEnum):
    """What is the same for all candidates of one question."""

    OCCURRENCES = 0  # how often the newest item has been seen, at most 200
    STEPS = 1  # length of the history
    DISTINCT = 2  # its number of distinct items
    REPEATED = 3  # 1 if the newest item was also the one before it


SITUATIONS = len(Situation)

PARTS = ("covisitation", "neighbours", "own_history", "followers", "two_hops", "transformer", "popularity")
PARTS_COUNT = len(PARTS)
NETWORK = "network"
FEATURES = 38
LOG_MIX = 0
CONTEXTS = 24

_OCCURRENCES, _STEPS, _DISTINCT, _REPEATED = range(SITUATIONS)
(
    _NEXT, _AHEAD, _BEHIND, _FRESH, _VOTES, _LIKEST, _ROW, _ROW_LAST, _ROW_BEST, _SUPPORT, _LIFT, _TWO_HOPS, _OWN_COUNT, _OWN_PLACE,
    _OWN_AFTER, _RETURN, _HEAT_SHORT, _HEAT, _HEAT_LONG, _COUNT, _AGE, _SINCE, _LOGIT, _TO_LAST,
) = range(COLUMNS)  # fmt: skip


# What each part of the model rests on: to see what a part is worth, its columns are emptied (`silence`).
COLUMNS_OF = {
    "covisitation": (Column.ROW, Column.ROW_LAST, Column.ROW_BEST, Column.SUPPORT, Column.LIFT),
    "neighbours": (Column.VOTES, Column.LIKEST),
    "own_history": (Column.OWN_COUNT, Column.OWN_PLACE, Column.OWN_AFTER, Column.RETURN),
    "followers": (Column.NEXT, Column.AHEAD, Column.BEHIND, Column.FRESH),
    "two_hops": (Column.TWO_HOPS,),
    "transformer": (Column.LOGIT, Column.TO_LAST),
    "popularity": (Column.HEAT_SHORT, Column.HEAT, Column.HEAT_LONG),
}


def silence(evidence: Any, part: str) -> None:
    """Empty the evidence, (candidates, COLUMNS), of all that one of `PARTS` rests on."""
    for column in COLUMNS_OF[part]:
        evidence[:, column] = np.nan if column is Column.LOGIT else 0.0


@compiled
def part_probabilities(evidence: Any, out: Any) -> None:
    """Write what each of `PARTS` gives to each candidate, (candidates, parts), each column adding up to 1, or to 0 where it is silent.

    A logit that is not a number (an item without a row in the Transformer's table) counts as probability 0.
    """
    highest = -np.inf
    for row in range(len(evidence)):
        if evidence[row, _LOGIT] > highest:
            highest = evidence[row, _LOGIT]
    totals = np.zeros(out.shape[1])
    for row in range(len(evidence)):
        seen = evidence[row]
        out[row, 0] = seen[_ROW]
        out[row, 1] = seen[_VOTES]
        out[row, 2] = seen[_RETURN] if seen[_OWN_PLACE] > 0 else 0.0
        out[row, 3] = seen[_AHEAD] + 0.5 * seen[_BEHIND]
        out[row, 4] = seen[_TWO_HOPS]
        out[row, 5] = np.exp(seen[_LOGIT] - highest) if seen[_LOGIT] > -1e30 else 0.0
        out[row, 6] = seen[_HEAT]
        for part in range(out.shape[1]):
            totals[part] += out[row, part]
    for part in range(out.shape[1]):
        if totals[part] > 0.0:
            for row in range(len(evidence)):
                out[row, part] /= totals[part]


@compiled
def context_of(situation: Any) -> int:
    """Number the situation from 0 to `CONTEXTS` - 1: six lengths of history by four degrees of knowing the newest item."""
    distinct, occurrences = situation[_DISTINCT], situation[_OCCURRENCES]
    length = 5
    for bound, limit in enumerate((2, 3, 4, 6, 12)):
        if distinct < limit:
            length = bound
            break
    known = 3
    for bound, limit in enumerate((3, 10, 50)):
        if occurrences < limit:
            known = bound
            break
    return length * 4 + known


@compiled
def features(evidence: Any, situation: Any, parts: Any, weights: Any, out: Any) -> None:
    """Write the features of each candidate, (candidates, FEATURES): logarithms, so that the network adds where chances multiply.

    `parts` are the probabilities of the parts and `weights` their weights in the mixture; column `LOG_MIX` is the log of their mix.
    """
    highest = -1e30
    for row in range(len(evidence)):
        if evidence[row, _LOGIT] > highest:
            highest = evidence[row, _LOGIT]
    occurrences = 0.3 * np.log(1.0 + situation[_OCCURRENCES])
    steps = 0.5 * np.log(1.0 + situation[_STEPS])
    distinct = 0.5 * np.log(1.0 + situation[_DISTINCT])
    for row in range(len(evidence)):
        seen, x = evidence[row], out[row]
        mixed = 1e-6
        for part in range(len(weights)):
            mixed += weights[part] * parts[row, part]
        x[0] = np.log(mixed)
        place = seen[_OWN_PLACE]
        x[1] = 0.4 * np.log(1.0 + 200.0 * seen[_NEXT])
        x[2] = 0.4 * np.log(1.0 + 200.0 * seen[_AHEAD])
        x[3] = 0.4 * np.log(1.0 + 200.0 * seen[_BEHIND])
        x[4] = np.log(1.0 + seen[_FRESH])
        x[5] = 0.4 * np.log(1.0 + 500.0 * seen[_VOTES])
        x[6] = 0.5 * seen[_LIKEST]
        x[7] = 0.4 * np.log(1.0 + 200.0 * seen[_ROW])
        x[8] = 0.4 * np.log(1.0 + 200.0 * seen[_ROW_LAST])
        x[9] = 0.4 * np.log(1.0 + 200.0 * seen[_ROW_BEST])
        x[10] = np.log(1.0 + seen[_SUPPORT])
        x[11] = 0.4 * np.log(1.0 + 200.0 * seen[_LIFT])
        x[12] = 0.4 * np.log(1.0 + 500.0 * seen[_TWO_HOPS])
        x[13] = 0.4 * np.log(1.0 + 500.0 * seen[_TWO_HOPS] / np.sqrt(seen[_COUNT] + 3.0))
        x[14] = np.log(1.0 + seen[_OWN_COUNT])
        x[15] = 1.0 if place > 0 else 0.0
        x[16] = 1.0 / (1.0 + place) if place > 0 else 0.0
        x[17] = 1.0 if place == 1 else 0.0
        x[18] = 1.0 if place == 2 else 0.0
        x[19] = 1.0 if place > 2 else 0.0
        x[20] = np.log(1.0 + seen[_OWN_AFTER])
        x[21] = np.log(seen[_RETURN] + 1e-4)
        x[22] = x[21] if place > 0 else 0.0
        x[23] = np.log(1.0 + seen[_HEAT_SHORT])
        x[24] = np.log(1.0 + seen[_HEAT])
        x[25] = 0.5 * np.log(1.0 + seen[_HEAT_LONG])
        x[26] = 0.3 * np.log(1.0 + seen[_COUNT])
        x[27] = 0.15 * np.log(1.0 + seen[_AGE])
        x[28] = 0.15 * np.log(1.0 + seen[_SINCE])
        known = seen[_LOGIT] > -1e30
        x[29] = 0.3 * seen[_LOGIT] if known else 0.0
        x[30] = 0.3 * (seen[_LOGIT] - highest) if known else -3.0
        x[31] = 2.0 * seen[_TO_LAST] if known else 0.0
        x[32] = 1.0 if known else 0.0
        x[33] = occurrences
        x[34] = steps
        x[35] = distinct
        x[36] = situation[_REPEATED]
        x[37] = 0.3 * np.log(1.0 + seen[_NEXT] * (situation[_OCCURRENCES] + 2.0))
