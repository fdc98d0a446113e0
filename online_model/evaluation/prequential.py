"""The loop of the evaluation: ask, then teach (prequential; Gama, Sebastião and Rodrigues, Machine Learning 90, 2013)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log2

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.evaluation.segments import Questions
from headrace.online_model.evaluation.stream_model import HISTORY_LENGTH, StreamModel, StreamStep
from headrace.schemas import HistoryEntry

DEPTH = 20
MISSED = -1
_PROGRESS_STEPS = 256

Clock = Callable[[], int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answers:
    """What a model answered. `ranks` are the places of the targets, from 0, `MISSED` where not among the `DEPTH` best, and `query_ns`
    the time of each answer, both (questions,). `learn_ns` was spent on learning all steps.

    `recommended` are all items in any answer, `popularity` the mean of log2(1 + steps before) over all places of all answers.
    """

    ranks: NDArray[np.int64]
    query_ns: NDArray[np.int64]
    learn_ns: int
    recommended: frozenset[str]
    popularity: float


def answers_of(
    model: StreamModel,
    stream: Sequence[StreamStep],
    questions: Questions,
    clock: Clock,
    progress: Progress = lambda done, total: None,
) -> Answers:
    """Ask the model before each step that is scored, and teach it each step of the stream.

    `clock` gives nanoseconds; `progress` is told the steps done, of how many. The model sees the steps before the one in question,
    the shopper's last 50 as its history, and nothing else. Of its answer the first 20 items count, the history's last left out.
    """
    histories: dict[str, tuple[HistoryEntry, ...]] = {}
    counts: dict[str, int] = {}
    ranks = np.full(len(questions), MISSED, dtype=np.int64)
    query_ns = np.zeros(len(questions), dtype=np.int64)
    learn_ns, popularity, places = 0, 0.0, 0
    recommended: set[str] = set()
    asked = 0
    next_asked = questions.steps.tolist()
    for number, (shopper_id, entry, _) in enumerate(stream):
        if number % _PROGRESS_STEPS == 0:
            progress(number, len(stream))
        history = histories.get(shopper_id, ())
        if asked < len(next_asked) and next_asked[asked] == number:
            started_ns = clock()
            ranked = model.rank(shopper_id, history, DEPTH)
            query_ns[asked] = clock() - started_ns
            listed = list(islice((item for item in ranked if item != history[-1].item_id), DEPTH))
            if entry.item_id in listed:
                ranks[asked] = listed.index(entry.item_id)
            recommended.update(listed)
            popularity += sum(log2(1 + counts.get(item, 0)) for item in listed)
            places += len(listed)
            asked += 1
        started_ns = clock()
        model.learn(shopper_id, history, entry)
        learn_ns += clock() - started_ns
        # A tuple, made anew: a model that keeps it cannot see in it what comes later.
        histories[shopper_id] = (*history[1 - HISTORY_LENGTH :], entry)
        counts[entry.item_id] = counts.get(entry.item_id, 0) + 1
    progress(len(stream), len(stream))
    return Answers(ranks, query_ns, learn_ns, frozenset(recommended), popularity / places if places else 0.0)
