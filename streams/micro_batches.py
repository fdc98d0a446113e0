"""Answers what many threads ask together: what comes while a batch is answered is the next batch.

No question waits for others to come: one that meets nobody is answered at once, by its own thread. Under load batches grow by themselves,
to what is asked at the same time (Crankshaw et al., "Clipper", NSDI 2017, section 4.3, without its delay).
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class MicroBatches(Generic[Question, Answer]):
    """Lends the threads that ask to `answer`, which is given a batch and returns its answers in that order.

    At most `at_once` batches of at most `most` questions are answered at the same time, the questions that came first before the others.
    """

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer]], *, at_once: int, most: int) -> None:
        self._answer = answer
        self._at_once = at_once
        self._most = most
        self._lock = threading.Lock()
        # Nobody waits while fewer than `at_once` lead.
        self._waiting: deque[_Asked[Question, Answer]] = deque()
        self._leading = 0

    @property
    def waiting(self) -> int:
        """How many questions are in no batch yet."""
        return len(self._waiting)

    def ask(self, question: Question) -> Answer:
        """Return the answer. Raises what `answer` raises for this question alone."""
        asked = _Asked[Question, Answer](question)
        with self._lock:
            self._waiting.append(asked)
            if self._leading < self._at_once:
                self._leading += 1
                self._hand_on()
        asked.woken.wait()
        # A question that went on holding its batch would hold itself, and with it all answers until the next garbage collection.
        batch, asked.leads = asked.leads, ()
        if batch:
            self._lead(batch)
        if asked.error is not None:
            raise asked.error
        return asked.answers[0]

    def _lead(self, batch: "Sequence[_Asked[Question, Answer]]") -> None:
        try:
            self._answer_all(batch)
        finally:
            with self._lock:
                self._hand_on()
            for asked in batch:
                asked.woken.set()

    def _hand_on(self) -> None:
        """Let whoever waits longest lead the next batch; where nobody waits, one fewer leads."""
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        if batch:
            batch[0].leads = batch
            batch[0].woken.set()
        else:
            self._leading -= 1

    def _answer_all(self, batch: "Sequence[_Asked[Question, Answer]]") -> None:
        try:
            answers = self._answer([asked.question for asked in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            # One of them cannot be answered; the others must not suffer for it.
            for asked in batch:
                self._answer_all([asked])
            return
        for asked, answer in zip(batch, answers, strict=True):
            asked.answers.append(answer)


class _Asked(Generic[Question, Answer]):
    """A question, and what its thread is woken with: an answer or an error, or the batch that it is to answer."""

    __slots__ = ("answers", "error", "leads", "question", "woken")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.answers: list[Answer] = []
        self.error: Exception | None = None
        self.leads: Sequence[_Asked[Question, Answer]] = ()
        self.woken = threading.Event()
