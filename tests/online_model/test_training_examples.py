"""Examples are split by time, and joined into runs that hold for each target no more than its example held."""

import random

import pytest
from small_shop import walks

from headrace.online_model.training.examples import Example, Run, TooFewExamples, reached_offsets, rows_of, runs_of, split_by_time
from headrace.schemas import HistoryEntry


def step(number: int, item: str | None = None) -> HistoryEntry:
    return HistoryEntry(item or f"item-{number}", "view", 1000 * number)


def test_no_example_to_learn_from_is_newer_than_one_to_evaluate_on() -> None:
    examples = walks()
    random.Random(1).shuffle(examples)
    split = split_by_time(examples, 0.1)
    assert len(split.training) + len(split.validation) == len(examples)
    assert len(split.validation) == len(examples) // 10
    cut_ms = min(example.asked_ms for example in split.validation)
    assert max(example.asked_ms for example in split.training) < cut_ms
    assert all(entry.time_ms < cut_ms for example in split.training for entry in example.history)


def test_examples_of_one_millisecond_come_to_one_side() -> None:
    examples = [Example(str(number), 5 if number > 2 else number, [step(0)], step(1)) for number in range(10)]
    split = split_by_time(examples, 0.3)
    assert [example.asked_ms for example in split.training] == [0, 1, 2]


def test_nothing_to_learn_from_is_an_error_that_says_so() -> None:
    with pytest.raises(TooFewExamples, match="of 2 examples, none of the 2 to learn from has a history"):
        split_by_time([Example("a", 1, [], step(1)), Example("b", 2, [], step(2))], 0.1)


def targets_with_what_was_before(runs: list[Run], length: int) -> list[tuple[list[HistoryEntry], HistoryEntry]]:
    return [
        (list(run.steps[max(0, place - length) : place]), run.steps[place])
        for run in runs
        for place in range(run.first_target, len(run.steps))
    ]


@pytest.mark.parametrize("steps", [2, 7, 8, 13, 40, 70])
def test_each_target_is_learned_once_from_what_its_example_held(steps: int) -> None:
    length = 6
    examples = walks(shoppers=4, steps=steps)
    runs = runs_of(examples, length)
    assert all(len(run.steps) <= length + 1 and 1 <= run.first_target < len(run.steps) for run in runs)
    held = {(example.shopper_id, example.target.time_ms): list(example.history) for example in examples if example.history}
    learned = targets_with_what_was_before(runs, length)
    assert len(learned) == len(held)
    by_step = {example.target: example.shopper_id for example in examples}
    for before, target in learned:
        history = held.pop((by_step[target], target.time_ms))
        assert history[-len(before) :] == before
        assert len(before) >= min(len(history), length // 2)
    assert held == {}


def test_a_shopper_with_few_steps_is_one_run() -> None:
    [run] = runs_of(walks(shoppers=1, steps=7), 6)
    assert run.first_target == 1
    assert len(run.steps) == 7


def test_what_came_late_and_lines_of_one_order_are_not_learned_from_each_other() -> None:
    a, b, c, late = step(1), step(2), step(3), step(0, "late")
    examples = [
        Example("ada", 1, [], a),
        # Two lines of one order: the history of both is what was before the order.
        Example("ada", 2, [a], b),
        Example("ada", 2, [a], c),
        # An event that came late stands between in the history that could be read afterwards.
        Example("ada", 9, [late, a, b, c], step(9)),
    ]
    assert runs_of(examples, 6) == [Run([a, b], 1), Run([a, c], 1), Run([late, a, b, c, step(9)], 4)]


def test_a_history_out_of_its_time_to_live_begins_anew() -> None:
    examples = [Example("ada", 1, [], step(1)), Example("ada", 2, [step(1)], step(2)), Example("ada", 9, [], step(9))]
    assert runs_of([*examples, Example("ada", 10, [step(9)], step(10))], 6) == [
        Run([step(1), step(2)], 1),
        Run([step(9), step(10)], 1),
    ]


def test_rows_are_given_in_order_and_offsets_are_the_newest_of_each_source() -> None:
    examples = walks(shoppers=3, steps=4)
    assert sorted(rows_of(examples).values()) == list(range(1, len(rows_of(examples)) + 1))
    assert reached_offsets(examples) == {"clicks/0": 203, "clicks/1": 103}
