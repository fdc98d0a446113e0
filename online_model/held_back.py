"""The newest events that are kept from learning to judge by, and what the live weights make of each."""

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.history_ring import HistoryRing, KeptHistories
from headrace.online_model.step_batch import Numbers


class HeldBack(HistoryRing):
    """A ring of histories; `live_losses` (capacity,) has the loss of each by the live weights, NaN where it is not known yet."""

    def __init__(self, capacity: int, length: int) -> None:
        super().__init__(capacity, length)
        self.live_losses: NDArray[np.float64] = np.full(capacity, np.nan)

    def add(self, histories: KeptHistories) -> KeptHistories:
        """Keep these; return the oldest, which make room for them."""
        self.live_losses[(self._next + np.arange(min(len(histories), self._capacity))) % self._capacity] = np.nan
        return super().add(histories)

    def forget_rows(self, first: int, others: Numbers) -> None:
        """Drop the histories that name an item row of `first` or more, or one of `others`."""
        places = self.newest_places(self._size)
        kept, losses = self._at(places), self.live_losses[places]
        stays = kept.names_only(first, others)
        self._size = self._next = 0
        self.add(kept.only(stays))
        self.live_losses[: self._size] = losses[stays]

    def forget_losses(self) -> None:
        """Let all losses be taken anew."""
        self.live_losses[:] = np.nan

    def newest(self, count: int) -> KeptHistories:
        """Return the last `count` that were added, or all where there are fewer, the oldest of them first."""
        return self._at(self.newest_places(count))

    def newest_places(self, count: int) -> Numbers:
        """Return where they lie."""
        kept = min(count, self._size)
        places: Numbers = (self._next - kept + np.arange(kept)) % self._capacity
        return places
