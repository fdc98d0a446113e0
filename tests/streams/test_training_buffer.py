"""When a training round begins, and what it gets."""

import threading
import time
from collections.abc import Sequence

from headrace.schemas import HistoryEntry
from headrace.streams.training_buffer import Example, ExampleBuffer


def example(number: int) -> Example:
    return Example("ada", (HistoryEntry("lamp", "view", number),), number, number, "clicks/0", number)


def buffer(**settings: float) -> tuple[ExampleBuffer, list[Example]]:
    released: list[Example] = []

    def release(examples: Sequence[Example]) -> None:
        released.extend(examples)

    return ExampleBuffer(release, **settings), released  # type: ignore[arg-type]


def test_a_round_begins_when_enough_examples_wait() -> None:
    waiting, _ = buffer(count=3, age_s=60)
    waiting.add(example(1))
    waiting.add(example(2))
    assert waiting.take(0.01) == ("time", [])
    waiting.add(example(3))
    trigger, examples = waiting.take(0.01)
    assert trigger == "count"
    assert [one.offset for one in examples] == [1, 2, 3]


def test_a_lone_example_is_taken_up_once_it_is_old_enough() -> None:
    waiting, _ = buffer(count=100, age_s=0.05)
    waiting.add(example(1))
    trigger, examples = waiting.take(5.0)
    assert trigger == "time"
    assert len(examples) == 1


def test_after_a_hurry_rounds_begin_at_an_eighth_and_say_so_until_they_are_used_up() -> None:
    waiting, _ = buffer(count=16, age_s=60)
    waiting.hurry(1)
    waiting.add(example(1))
    waiting.add(example(2))
    assert waiting.take(0.01)[0] == "drift"
    waiting.add(example(3))
    waiting.add(example(4))
    assert waiting.take(0.01) == ("time", [])


def test_the_oldest_is_left_out_released_and_counted_where_there_is_no_room() -> None:
    waiting, released = buffer(count=2, age_s=60, limit=2)
    for number in range(5):
        waiting.add(example(number))
    assert waiting.left_out == 3
    assert [one.offset for one in released] == [0, 1, 2]
    assert [one.offset for one in waiting.take(0.01)[1]] == [3, 4]


def test_a_round_takes_all_that_wait() -> None:
    waiting, _ = buffer(count=2, age_s=60)
    assert waiting.newest_ms() is waiting.oldest_ms() is None
    for number in range(6):
        waiting.add(example(number))
    assert (waiting.oldest_ms(), waiting.newest_ms(), waiting.waiting) == (0, 5, 6)
    assert [one.offset for one in waiting.take(0.01)[1]] == [0, 1, 2, 3, 4, 5]
    assert waiting.waiting == 0


def test_who_waits_is_woken_by_the_example_that_completes_a_round() -> None:
    waiting, _ = buffer(count=2, age_s=60)
    waiting.add(example(1))
    threading.Timer(0.1, lambda: waiting.add(example(2))).start()
    started_s = time.monotonic()
    assert len(waiting.take(20.0)[1]) == 2
    assert time.monotonic() - started_s < 10
