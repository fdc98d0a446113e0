"""What waits to be learned: bounded, and told apart by what made the learner take it up."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.schemas import HistoryEntry
from headrace.schemas.model_updates import Trigger


@dataclass(frozen=True)
class Example:
    """One event, as the learner needs it. `receipt` is whatever its source wants back once it is done with.

    `traceparent` is that of a followed event (`tracing.py`), and None for all others. `surface` is where on the shop's pages it came from,
    as its attribution says.
    """

    shopper_id: str
    steps: tuple[HistoryEntry, ...]
    time_ms: int
    published_ms: int
    source: str
    offset: int
    receipt: object = None
    traceparent: str | None = None
    surface: str | None = None


class ExampleBuffer:
    """Examples between the event loop, which adds them, and the training thread, which takes them up.

    A round begins when `count` examples wait, or the oldest has waited for `age_s`, and takes all that wait: what stayed behind would
    be learned late, and that after it later. After `hurry()` the next rounds begin with `count` / 8. When `limit` examples wait the
    oldest is left out: the newest events say more about the shop.
    `release` is called, from either thread, with examples that need not be delivered again.
    """

    def __init__(
        self,
        release: Callable[[Sequence[Example]], None],
        *,
        count: int = 192,
        age_s: float = 1.0,
        limit: int = 1024,
    ) -> None:
        self.left_out = 0
        self.release = release
        self._count = count
        self._age_s = age_s
        self._limit = limit
        self._waiting: deque[tuple[float, Example]] = deque()
        self._hurried_rounds = 0
        self._changed = threading.Condition()

    def add(self, example: Example) -> None:
        """Add an example, leaving out the oldest where there is no room."""
        dropped = None
        with self._changed:
            if len(self._waiting) >= self._limit:
                dropped = self._waiting.popleft()[1]
                self.left_out += 1
            self._waiting.append((time.monotonic(), example))
            if len(self._waiting) >= self._needed():
                self._changed.notify()
        if dropped is not None:
            self.release([dropped])

    @property
    def waiting(self) -> int:
        """How many examples wait."""
        return len(self._waiting)

    def oldest_ms(self) -> int | None:
        """Return when the oldest waiting example was published, in milliseconds since 1970; None where none waits."""
        with self._changed:
            return self._waiting[0][1].published_ms if self._waiting else None

    def newest_ms(self) -> int | None:
        """Return when the newest waiting example was published, in milliseconds since 1970; None where none waits."""
        with self._changed:
            return self._waiting[-1][1].published_ms if self._waiting else None

    def hurry(self, rounds: int) -> None:
        """Let the next `rounds` rounds begin sooner, since the shop has changed."""
        with self._changed:
            self._hurried_rounds = rounds
            self._changed.notify()

    def take(self, timeout_s: float) -> tuple[Trigger, Sequence[Example]]:
        """Return what made a round begin and its examples, oldest first; no examples where nothing did within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                now = time.monotonic()
                trigger = self._trigger(now)
                if trigger is not None:
                    self._hurried_rounds = max(0, self._hurried_rounds - 1)
                    examples = [example for _, example in self._waiting]
                    self._waiting.clear()
                    return trigger, examples
                ripe = self._waiting[0][0] + self._age_s if self._waiting else deadline
                if now >= deadline:
                    return "time", []
                self._changed.wait(max(0.0, min(ripe, deadline) - now))

    def _needed(self) -> int:
        return max(1, self._count // 8) if self._hurried_rounds else self._count

    def _trigger(self, now: float) -> Trigger | None:
        if len(self._waiting) >= self._needed():
            return "drift" if self._hurried_rounds else "count"
        if self._waiting and now - self._waiting[0][0] >= self._age_s:
            return "time"
        return None
