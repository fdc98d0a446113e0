"""Waiting, in an event loop, for what the broker says of each event of a batch."""

import asyncio
import threading
from typing import Literal

from msgspec import Struct

Status = Literal["acknowledged", "refused", "buffer_full", "failed", "unacknowledged"]


class Outcome(Struct, frozen=True):
    """What became of one event.

    `refused` is an invalid event, `field` its wrong field. `buffer_full` and `failed` were not taken in. `unacknowledged`
    may still arrive: published again it may count twice.
    """

    event_id: str
    status: Status
    reason: str | None = None
    field: str | None = None


class Settlement:
    """Collects one outcome for each event id; the loop is woken once, when the last is known. Safe from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, event_ids: list[str]) -> None:
        self._loop = loop
        self._event_ids = event_ids
        self._outcomes: list[Outcome | None] = [None] * len(event_ids)
        self._open = len(event_ids)
        self._lock = threading.Lock()
        self._settled = asyncio.Event()
        if not event_ids:
            self._settled.set()

    def settle(self, place: int, status: Status, reason: str | None = None, field: str | None = None) -> None:
        """Write down what became of the event at `place`."""
        with self._lock:
            self._outcomes[place] = Outcome(self._event_ids[place], status, reason, field)
            self._open -= 1
            done = self._open == 0
        if done and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settled.set)

    async def outcomes(self, timeout_s: float) -> list[Outcome]:
        """Return all outcomes, in the order of the event ids; those unknown after `timeout_s` are `unacknowledged`."""
        try:
            await asyncio.wait_for(self._settled.wait(), timeout_s)
        except TimeoutError:
            reason = f"no answer from the broker within {timeout_s:g} s"
        with self._lock:
            return [
                outcome or Outcome(event_id, "unacknowledged", reason)
                for event_id, outcome in zip(self._event_ids, self._outcomes, strict=True)
            ]
