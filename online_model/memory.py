"""The instant memory: all that can be known of what follows what, learned at each step.

One log of events serves for the shopper's own history, for visits like this one, and for what came right after an item; each item
also has a row of decayed co-visitation. `memory_learning` and `memory_asking` hold the rules; this class owns the arrays.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.online_model import memory_arrays, memory_asking, memory_learning
from headrace.online_model.evidence import COLUMNS, SITUATIONS, Situation
from headrace.online_model.memory_arrays import LONGEST_HISTORY, PATTERN_STEPS, RETURN_PLACES, RETURN_ROWS

FIRST_ITEMS = 4096
POPULAR = 50
POPULAR_EVERY = 256

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Question:
    """What is asked: the items of a history, newest first, with (`steps`) and without repetition, and the shopper's own visit."""

    steps: Numbers
    distinct: Numbers
    visit: int
    patterns: NDArray[np.int64]


class Memory:
    """The memories of one shop. Items are numbers from 0; shoppers are any hashable. One thread at a time.

    `capacity`, a power of two, is how many events the log holds: 45 bytes each, and 590 bytes an item.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        if capacity < 2 or capacity & (capacity - 1):
            raise ValueError(f"capacity: a power of two was expected; the value is {capacity}")
        self._capacity = capacity
        self._log = memory_arrays.event_log(capacity)
        self._items = memory_arrays.item_rows(FIRST_ITEMS)
        self._room = memory_arrays.scratch(FIRST_ITEMS, capacity, COLUMNS)
        self._returns = np.zeros((RETURN_ROWS, RETURN_PLACES), np.float32)
        self._newest: dict[object, int] = {}
        # Where chains of an item's events were cut by `forget`, and what they led to.
        self._cut: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        self._popular = np.empty(0, np.int32)
        self._count = 0
        self._chances = np.empty(RETURN_PLACES, np.float32)

    @property
    def events(self) -> int:
        """How many steps were learned."""
        return int(self._log.clock[0])

    def knows(self, shopper: object, item: int) -> bool:
        """Whether the newest step of the shopper that is remembered is of `item`."""
        newest = self._newest.get(shopper, -1)
        return newest >= 0 and newest > self.events - 1 - self._capacity and int(self._log.item[newest & (self._capacity - 1)]) == item

    def learn(self, shopper: object, item: int, *, is_new_visit: bool, question: Question | None = None) -> None:
        """Take in a step of a shopper. `question` is what was asked before it, if it was: its place in the history is learned too."""
        self.hold(item)
        if question is not None and len(question.steps) and question.steps[0] != item:
            places = np.flatnonzero(question.distinct == item)
            memory_learning.learn_return(self._returns, question.patterns, int(places[0]) if len(places) else RETURN_PLACES - 1)
        before = self._newest.pop(shopper, -1)
        self._newest[shopper] = memory_learning.append(self._log, self._items, item, before, is_new_visit)
        clock = self.events
        # Early on the list is renewed at 1, 2, 4, 8, ... events, or the first item would be all that a new shop has to offer.
        if clock % POPULAR_EVERY == 0 or clock & (clock - 1) == 0:
            self._renew_popular()
        if len(self._newest) > self._capacity:
            self._forget_the_longest_away()

    def question(self, shopper: object, history: Sequence[int] = ()) -> Question:
        """Return the question for a history of items, oldest first, -1 where unknown.

        Where the shopper's newest step that is remembered is the history's last, all that is remembered of them takes its place.
        """
        newest = self._newest.get(shopper, -1) if not history or self.knows(shopper, history[-1]) else -1
        if newest >= 0:
            steps = np.empty(LONGEST_HISTORY, np.int32)
            steps = steps[: memory_asking.own_steps(self._log, newest, steps)]
        else:
            known = [item for item in history[::-1] if item >= 0][:LONGEST_HISTORY]
            steps = np.array(known, np.int32)
        distinct = np.empty(len(steps), np.int32)
        distinct = distinct[: memory_asking.distinct_of(steps, distinct)]
        patterns = np.empty(PATTERN_STEPS, np.int64)
        memory_learning.pattern_rows(steps, distinct, patterns)
        visit = int(self._log.visit[newest & (self._capacity - 1)]) if newest >= 0 else -1
        return Question(steps, distinct, visit, patterns)

    @contextmanager
    def ask(self, question: Question) -> Iterator["Asking"]:
        """Lend what the memories say; the room is cleared at the end."""
        asking = Asking(self, question)
        try:
            yield asking
        finally:
            memory_asking.clear(self._room, asking.count)

    def reasons(self, distinct: Numbers, wanted: Numbers) -> NDArray[np.float32]:
        """Return how strongly each history item leads to each of the `wanted` items, (wanted, distinct): co-visitation, newer first."""
        strengths = np.zeros((len(wanted), len(distinct)), np.float32)
        memory_asking.reasons(self._log, self._items, distinct, wanted, strengths)
        return strengths

    def forget(self, keep: float, *, cut: bool = False) -> None:
        """Let all that was learned count `keep` times as much beside what comes, from 0 to 1: the shop has changed.

        What is asked next has nearly the same answer, but a new step weighs more. With `cut` the events before, but the newest of each
        item, are not looked at any more; `recall` takes that back.
        """
        if not 0.0 < keep <= 1.0:
            raise ValueError(f"keep: above 0 and at most 1 was expected; the value is {keep:g}")
        items = self._items
        items.strength[:] *= np.float32(keep)
        items.total[:] *= np.float32(keep)
        items.heat[:] *= np.float32(keep)
        items.count[:] = np.where(items.count > 0, np.maximum(1, np.round(items.count * keep)), 0)
        if cut:
            self.recall()
            newest = items.newest[(items.newest >= 0) & (items.newest > self.events - 1 - self._capacity)]
            places = newest & (self._capacity - 1)
            self._cut = newest, self._log.same_item[places].copy()
            self._log.same_item[places] = -1

    def recall(self) -> None:
        """Look again at the events that `forget` cut off, as far as the log still has them."""
        if self._cut is None:
            return
        events, led_to = self._cut
        there = events > self.events - 1 - self._capacity
        self._log.same_item[events[there] & (self._capacity - 1)] = led_to[there]
        self._cut = None

    def __deepcopy__(self, _: object) -> "Memory":
        """Return a copy that learns apart from this one."""
        copy = Memory(self._capacity)
        copy._log = type(self._log)(*(array.copy() for array in self._log))
        copy._items = type(self._items)(*(array.copy() for array in self._items))
        copy._room = memory_arrays.scratch(len(self._items.count), self._capacity, COLUMNS)
        copy._returns = self._returns.copy()
        copy._newest = dict(self._newest)
        copy._cut = self._cut
        copy._popular = self._popular.copy()
        copy._count = self._count
        return copy

    def hold(self, item: int) -> None:
        """Make room for an item that may be asked for before it is seen."""
        self._count = max(self._count, item + 1)
        size = len(self._items.count)
        if item >= size:
            while size <= item:
                size *= 2
            self._items = memory_arrays.grown(self._items, size)
            self._room = memory_arrays.scratch(size, self._capacity, COLUMNS)

    def _renew_popular(self) -> None:
        heat = self._items.heat[: self._count, 1] * 0.5 ** (
            (self.events - self._items.newest[: self._count]) / memory_learning.HEAT_HALF_LIVES[1]
        )
        best = min(POPULAR, self._count)
        order = np.argpartition(-heat, best - 1)[:best]
        self._popular = order[np.argsort(-heat[order])].astype(np.int32)

    def _forget_the_longest_away(self) -> None:
        oldest = self.events - self._capacity
        gone = []
        for shopper, newest in self._newest.items():
            if newest >= oldest:
                break
            gone.append(shopper)
        for shopper in gone:
            del self._newest[shopper]


class Asking:
    """One question's candidates and evidence, to which others may add candidates of their own."""

    def __init__(self, memory: Memory, question: Question) -> None:
        self._memory = memory
        self.question = question
        room, log, items = memory._room, memory._log, memory._items
        memory_learning.return_chances(memory._returns, question.patterns, memory._chances)
        self.count = int(
            memory_asking.gather(log, items, room, question.steps, question.distinct, question.visit, memory._chances, memory._popular)
        )
        newest = int(question.steps[0]) if len(question.steps) else -1
        self.situation = np.zeros(SITUATIONS, np.float32)
        if newest >= 0:
            self.situation[Situation.OCCURRENCES] = min(int(items.count[newest]), memory_asking.OCCURRENCES)
            self.situation[Situation.REPEATED] = len(question.steps) > 1 and question.steps[1] == newest
        self.situation[Situation.STEPS] = len(question.steps)
        self.situation[Situation.DISTINCT] = len(question.distinct)

    @property
    def candidates(self) -> Numbers:
        """The candidates' numbers, (candidates,)."""
        candidates: Numbers = self._memory._room.candidates[: self.count]
        return candidates

    @property
    def evidence(self) -> Any:
        """What is known of them, (candidates, COLUMNS), to be read and written."""
        return self._memory._room.evidence[: self.count]

    def add(self, numbers: Numbers) -> None:
        """Add candidates; those that are there already stay as they are."""
        memory = self._memory
        self.count = int(memory_asking.add_candidates(memory._log, memory._items, memory._room, numbers, memory._chances, self.count))
