"""Models that do not learn all the time: frozen at a moment, or answering from a copy that is renewed on a schedule."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Protocol

from headrace.online_model.evaluation.stream_model import StreamModel
from headrace.schemas import HistoryEntry

DAY_MS = 86_400_000


class Frozen:
    """A model that learns the first `steps` steps, and none after."""

    def __init__(self, model: StreamModel, steps: int) -> None:
        self._model = model
        self._left = steps

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        """Return the inner model's answer."""
        return self._model.rank(shopper_id, history, k)

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        """Take in the step, as long as the model is not frozen."""
        if self._left > 0:
            self._left -= 1
            self._model.learn(shopper_id, history, step)


class Schedule(Protocol):
    """When a copy is renewed."""

    def is_due(self, step: HistoryEntry) -> bool:
        """Whether the copy is renewed before this step; called once for each, in the stream's order."""
        ...


class EachSteps:
    """Renewal after each `steps` steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._seen = 0

    def is_due(self, step: HistoryEntry) -> bool:
        """Whether a multiple of `steps` lies behind."""
        due = self._seen > 0 and self._seen % self._steps == 0
        self._seen += 1
        return due


class EachNight:
    """Renewal before the first step of each day (UTC) of event time."""

    def __init__(self) -> None:
        self._day: int | None = None

    def is_due(self, step: HistoryEntry) -> bool:
        """Whether a later day than any before has come."""
        day = step.time_ms // DAY_MS
        due = self._day is not None and day > self._day
        self._day = day if self._day is None else max(day, self._day)
        return due


class Renewed:
    """A model that is retrained now and then: one learns at each step, and answers come from the last copy of it.

    Between renewals only the shopper's history is fresh. Until the first one, the copy has learned nothing. Copying counts as
    learning.
    """

    def __init__(self, model: StreamModel, schedule: Schedule) -> None:
        self._learning = model
        self._answering = deepcopy(model)
        self._schedule = schedule

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        """Return the copy's answer."""
        return self._answering.rank(shopper_id, history, k)

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        """Renew the copy where it is time, then take in the step."""
        if self._schedule.is_due(step):
            self._answering = deepcopy(self._learning)
        self._learning.learn(shopper_id, history, step)
