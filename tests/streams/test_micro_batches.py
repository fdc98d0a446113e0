"""Questions of many threads: who is answered together, and that nobody gets, or suffers for, what another asked."""

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from headrace.streams.micro_batches import MicroBatches


class Squares:
    """Squares numbers and refuses those below zero; keeps each batch until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[int]] = []
        self.threads: list[threading.Thread] = []
        self.most_at_work = 0
        self._at_work = 0
        self._lock = threading.Lock()

    def answer(self, batch: Sequence[int]) -> list[int]:
        with self._lock:
            self.batches.append(list(batch))
            self.threads.append(threading.current_thread())
            self._at_work += 1
            self.most_at_work = max(self.most_at_work, self._at_work)
        assert self.go.wait(20.0)
        with self._lock:
            self._at_work -= 1
        if min(batch) < 0:
            raise ValueError(f"{min(batch)} is below zero")
        return [number * number for number in batch]


@pytest.fixture
def squares() -> Iterator[Squares]:
    squares = Squares()
    yield squares
    squares.go.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.001)


def until_so_many_wait(batches: MicroBatches[int, int], count: int) -> None:
    until(lambda: batches.waiting == count)


def ask_behind(
    first: int, others: Sequence[int], squares: Squares, batches: MicroBatches[int, int], pool: ThreadPoolExecutor
) -> list[Future[int]]:
    """Ask the others one after the other while the first is at work; then let all go."""
    coming = [pool.submit(batches.ask, first)]
    until(lambda: len(squares.batches) == 1)
    for place, number in enumerate(others, start=1):
        coming.append(pool.submit(batches.ask, number))
        until_so_many_wait(batches, place)
    squares.go.set()
    return coming


def test_who_meets_nobody_is_answered_at_once_by_its_own_thread(squares: Squares) -> None:
    squares.go.set()
    batches = MicroBatches(squares.answer, at_once=1, most=8)
    assert [batches.ask(number) for number in (3, 4)] == [9, 16]
    assert squares.batches == [[3], [4]]
    assert set(squares.threads) == {threading.current_thread()}


def test_what_comes_while_a_batch_is_answered_is_the_next_one_in_its_order(squares: Squares, pool: ThreadPoolExecutor) -> None:
    coming = ask_behind(1, range(2, 9), squares, MicroBatches(squares.answer, at_once=1, most=4), pool)
    assert [one.result(20.0) for one in coming] == [number * number for number in range(1, 9)]
    assert squares.batches == [[1], [2, 3, 4, 5], [6, 7, 8]]


def test_who_cannot_be_answered_is_told_why_and_spoils_no_other(squares: Squares, pool: ThreadPoolExecutor) -> None:
    coming = ask_behind(1, [2, -3, 4, -5], squares, MicroBatches(squares.answer, at_once=1, most=8), pool)
    assert [coming[place].result(20.0) for place in (0, 1, 3)] == [1, 4, 16]
    for place, number in ((2, -3), (4, -5)):
        with pytest.raises(ValueError, match=f"^{number} is below zero$"):
            coming[place].result(20.0)


@pytest.mark.parametrize("at_once", [1, 3])
def test_of_many_who_ask_each_gets_its_own_answer_and_no_more_batches_are_at_work_than_may(
    at_once: int, squares: Squares, pool: ThreadPoolExecutor
) -> None:
    squares.go.set()
    batches = MicroBatches(squares.answer, at_once=at_once, most=5)
    draw = random.Random(at_once)
    numbers = [draw.randrange(-20, 10_000) for _ in range(3000)]

    def asked(number: int) -> int | str:
        try:
            return batches.ask(number)
        except ValueError as error:
            return str(error)

    expected = [number * number if number >= 0 else f"{number} is below zero" for number in numbers]
    assert list(pool.map(asked, numbers)) == expected
    assert squares.most_at_work <= at_once
    assert max(map(len, squares.batches)) <= 5
    assert batches.waiting == 0
    # Whoever led has made room for others, however it ended.
    assert batches.ask(3) == 9


def test_nothing_of_a_question_is_left_for_the_garbage_collector() -> None:
    class Named:
        pass

    batches = MicroBatches(lambda batch: [1] * len(batch), at_once=1, most=8)
    question = Named()
    left = weakref.ref(question)
    gc.disable()
    try:
        batches.ask(question)
        del question
        assert left() is None
    finally:
        gc.enable()
