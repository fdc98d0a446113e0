"""Training examples: what was known of a shopper just before a step, and the step; their split by time, and their joining again.

An example is made of a point-in-time read, so it holds nothing that could not have been known then. Most of a shopper's examples
go on from each other: the history of one is the history of the last and its target. Those are joined into one run of steps, of which
a causal network learns all targets at once, each from the very steps that its example held.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from msgspec import Struct

from headrace.schemas import HistoryEntry


class Example(NamedTuple):
    """A step and what could be read of its shopper at `asked_ms`, just before it: the history, oldest first."""

    shopper_id: str
    asked_ms: int
    history: Sequence[HistoryEntry]
    target: HistoryEntry
    source: str = ""
    offset: int = -1


class Run(NamedTuple):
    """Steps of one shopper, oldest first; those from number `first_target` on are learned, each from the ones before it."""

    steps: Sequence[HistoryEntry]
    first_target: int


class Split(Struct, frozen=True):
    """Examples to learn from, and newer ones to evaluate on."""

    training: list[Example]
    validation: list[Example]


class TooFewExamples(ValueError):
    """There is nothing to learn from."""


def split_by_time(examples: Iterable[Example], validation_share: float) -> Split:
    """Return the examples with the newest share of them, by `asked_ms`, as validation.

    All examples of one millisecond come to the same side, so every one to learn from is older than every one to evaluate on.
    Raises TooFewExamples where none is left to learn from.
    """
    ordered = sorted(examples, key=lambda example: example.asked_ms)
    cut = len(ordered) - int(len(ordered) * validation_share)
    while 0 < cut < len(ordered) and ordered[cut - 1].asked_ms == ordered[cut].asked_ms:
        cut -= 1
    if not any(example.history for example in ordered[:cut]):
        raise TooFewExamples(
            f"of {len(ordered)} examples, none of the {cut} to learn from has a history; "
            "give more events, or a smaller share for the validation"
        )
    return Split(ordered[:cut], ordered[cut:])


def runs_of(examples: Iterable[Example], length: int) -> list[Run]:
    """Join the examples of each shopper where one goes on from the last, and cut what is too long for a network of `length` steps.

    A run has at most `length` + 1 steps. Each example's target is learned once, in one run, from the steps that the example held
    and the network sees; where a run was cut, from at least half of them. An example without a history gives no target.
    """
    runs: list[Run] = []
    by_shopper = sorted(examples, key=lambda example: (example.shopper_id, example.asked_ms))
    for _, group in groupby(by_shopper, key=lambda example: example.shopper_id):
        steps: list[HistoryEntry] = []
        first_target = 0
        for example in group:
            seen = list(example.history[-length:])
            if seen != steps[-length:]:
                runs += _cut(steps, first_target, length)
                steps, first_target = seen, len(seen)
            steps.append(example.target)
        runs += _cut(steps, first_target, length)
    return runs


def reached_offsets(examples: Iterable[Example]) -> dict[str, int]:
    """Return, for each source partition, the newest offset among the examples that tell one: how far a stream has been learned."""
    reached: dict[str, int] = {}
    for example in examples:
        if example.source:
            reached[example.source] = max(example.offset, reached.get(example.source, -1))
    return reached


def rows_of(examples: Iterable[Example]) -> Mapping[str, int]:
    """Give each item of the examples a row, from 1, in the order in which they come."""
    rows: dict[str, int] = {}
    for example in examples:
        for step in (*example.history, example.target):
            if step.item_id not in rows:
                rows[step.item_id] = len(rows) + 1
    return rows


def _cut(steps: Sequence[HistoryEntry], first_target: int, length: int) -> Iterable[Run]:
    target = max(first_target, 1)
    while target < len(steps):
        start = 0 if target <= length else max(0, min(target - (length + 1) // 2, len(steps) - length - 1))
        stop = min(len(steps), start + length + 1)
        yield Run(steps[start:stop], target - start)
        target = stop
