"""An even rate for a replay: no waves, and no burst to catch up after a pause."""

import time
from collections.abc import Callable

MAX_CATCH_UP_S = 0.05
_AHEAD_S = 0.001


class Pace:
    """Spaces calls evenly at `rate` a second; `wait` returns when the next one is due.

    A caller that is late catches up on at most 50 ms: what was missed before that is let go, so that a paused replay or a
    full buffer is never followed by a flood. Sleeps shorter than 1 ms are saved up.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        if not rate > 0:
            raise ValueError(f"rate: more than 0 events a second was expected; the value is {rate}")
        self._step_s = 1 / rate
        self._clock = clock
        self._sleep = sleep
        self._due_s = clock()

    def wait(self) -> None:
        """Return when the next event is due."""
        now_s = self._clock()
        if self._due_s > now_s + _AHEAD_S:
            self._sleep(self._due_s - now_s)
        else:
            self._due_s = max(self._due_s, now_s - MAX_CATCH_UP_S)
        self._due_s += self._step_s
