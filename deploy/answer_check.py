"""Whether answers were torn: each names the weights that it was made with; whoever has those can make it again and compare."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.deploy.asker import Answer
from headrace.online_model.scorer import Scorer, score_with
from headrace.schemas import ModelUpdate
from headrace.streams.weights_channel import WeightsFollower

TOLERANCE = 1e-3


@dataclass(frozen=True)
class AnswersChecked:
    """How many answers could be made again, and how many of them differ. `unknown` names versions that are not on the chain.

    `lanes` tells how many of each lane were checked.
    """

    checked: int
    torn: int
    unknown: int
    lanes: dict[str, int] = field(default_factory=dict)


class AnswerCheck:
    """Makes each answer again with the weights that it names, as the chain of updates passes by, and compares.

    After a rollback the chain goes on from an older version, whose snapshot then comes once more.
    """

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._waiting: dict[int, list[Answer]] = {}
        for answer in answers:
            self._waiting.setdefault(answer.version, []).append(answer)
        self._replica = Scorer()
        self._checked = 0
        self._torn = 0
        self._lanes: Counter[str] = Counter()

    def take(self, update: ModelUpdate, payload: bytes) -> None:
        """Take in the next update of the chain. Raises BadUpdate where it does not fit."""
        if update.version == self._replica.version:
            return
        self._replica.apply(update, payload)
        for answer in self._waiting.pop(update.version, ()):
            self._checked += 1
            if answer.lane is not None:
                self._lanes[answer.lane] += 1
            self._torn += not is_same(answer, self._replica)

    def result(self) -> AnswersChecked:
        """Return the outcome so far."""
        return AnswersChecked(self._checked, self._torn, sum(map(len, self._waiting.values())), dict(self._lanes))


def check_answers(bootstrap: str, answers: Sequence[Answer], timeout_s: float = 60.0) -> AnswersChecked:
    """Check the answers against the chain of weights as it lies in Kafka."""
    check = AnswerCheck(answers)
    if not answers:
        return check.result()
    follower = WeightsFollower(bootstrap, "answer-check", check.take, from_version=min(answer.version for answer in answers))
    deadline = time.monotonic() + timeout_s
    try:
        while not follower.caught_up.is_set() and time.monotonic() < deadline:
            follower.step(0.1)
    finally:
        follower.close()
    return check.result()


def is_same(answer: Answer, replica: Scorer) -> bool:
    """Whether the replica, which holds the version that the answer names, gives the same probabilities."""
    with replica.live() as copy:
        rows = np.array([copy.rows.get(item, 0) for item in answer.probabilities], np.int64)
        [scored] = score_with(copy, [answer.history], [rows], best=1)
        if answer.sha256 != copy.sha256:
            return False
    told = np.array(list(answer.probabilities.values()))
    again = np.nan_to_num(np.exp(scored.logits - scored.normaliser))
    return bool(np.all(np.abs(again - told) <= TOLERANCE * np.maximum(told, 1e-6)))
