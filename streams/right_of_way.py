"""Right of way in one process: who works in the background lets those go first whom somebody waits for.

Threads take turns at the interpreter, and each turn is a hand-over from thread to thread: a swap that meets a question makes it several
times as long, and the other way round. The kernel's priorities do not help, since it knows nothing of the interpreter's lock. So the
background looks by itself, between two steps of its work, whether anybody is being answered.
"""

import threading
from types import TracebackType


class RightOfWay:
    """Used by `with` it has the right of way; any number may have it at the same time, in any threads."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._going = 0
        self._is_free = threading.Event()
        self._is_free.set()

    def __enter__(self) -> None:
        with self._lock:
            self._going += 1
            self._is_free.clear()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._going -= 1
            if not self._going:
                self._is_free.set()

    def give(self) -> None:
        """Wait until nobody has the right of way, but no longer than `patience_s`: under full load the background goes on all the same."""
        self._is_free.wait(self._patience_s)
