"""What a model must do to be evaluated on a stream."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from headrace.schemas import HistoryEntry

HISTORY_LENGTH = 50


class StreamModel(Protocol):
    """A model that answers at any moment and learns at each step."""

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        """Return the `k` items most likely next, best first, the history's last item left out; fewer where fewer are known."""
        ...

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        """Take in a step; `history` is what the shopper did before it (oldest first, the last 50 steps at most)."""
        ...


class StreamStep(NamedTuple):
    """A step of a shopper in a stream. `event` is the number of its event, from 0: an order with three lines makes three steps."""

    shopper_id: str
    entry: HistoryEntry
    event: int
