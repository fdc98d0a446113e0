"""What the gateway's own followers tell the dashboard between two looks."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.online_model.ranker import Foreseen
from headrace.schemas import UserRow

LIST_LENGTH = 20
MOST_BETWEEN_LOOKS = 200


@dataclass
class Taken:
    """Freshness of some rows in milliseconds, and how many steps were tested and foreseen."""

    freshness_ms: list[float] = field(default_factory=list)
    rows: int = 0
    tested: int = 0
    live_hits: int = 0
    popularity_hits: int = 0


class RowWatch:
    """Takes notes in the thread that reads the user rows, and hands them over once a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes = Taken()

    def see(self, written_ms: int, row: UserRow, tested: Sequence[Foreseen]) -> None:
        """Note a row that was written at `written_ms`, and what was foreseen of the steps that were tested."""
        with self._lock:
            notes = self._notes
            notes.rows += 1
            if row.cause is not None and len(notes.freshness_ms) < MOST_BETWEEN_LOOKS:
                notes.freshness_ms.append(max(0, written_ms - row.cause.published_ms))
            for place in tested:
                notes.tested += 1
                notes.live_hits += place.live is not None and place.live < LIST_LENGTH
                notes.popularity_hits += place.popularity is not None and place.popularity < LIST_LENGTH

    def take(self) -> Taken:
        """Return what was noted since the last call."""
        with self._lock:
            notes, self._notes = self._notes, Taken()
            return notes
