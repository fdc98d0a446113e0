"""What a tuner knows of the rows of its item table besides their weights: how often and how lately each item was seen."""

from collections.abc import Container, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.step_batch import UNKNOWN, Numbers

# Rows that were there before count as seen this often, so that what they have learned is not pulled away.
SEEN_BEFORE = 50.0


class ItemLedger:
    """By row of the item table, `seen` counts events. The last `recent` events are what negatives are drawn from."""

    def __init__(self, rows: int, recent: int, expire_after: int) -> None:
        self.seen = np.full(rows, SEEN_BEFORE)
        self.recent = np.zeros(0, np.int64)
        self._most_recent = recent
        self._expire_after = expire_after
        self._events = 0
        self._last_seen = np.zeros(rows, np.int64)

    def add(self, count: int, reused: Sequence[int]) -> None:
        """Open `count` rows, and let `reused` ones begin anew."""
        self.seen[reused] = 0.0
        self.seen = np.concatenate([self.seen, np.zeros(count)])
        self._last_seen = np.concatenate([self._last_seen, np.full(count, self._events)])

    def notice(self, rows: Numbers) -> None:
        """Take in events by the rows of their items, in their order."""
        self.recent = np.concatenate([self.recent, rows])[-self._most_recent :]
        np.add.at(self.seen, rows, 1.0)
        self._events += len(rows)
        self._last_seen[rows] = self._events

    def expired(self, wanted: int, items: Sequence[str], named: Container[str]) -> list[int]:
        """Return up to `wanted` rows of items that were not seen for long and are not `named` now, those unseen longest first."""
        if wanted <= 0:
            return []
        rows = np.argsort(self._last_seen, kind="stable")
        rows = rows[(rows != UNKNOWN) & (self._last_seen[rows] < self._events - self._expire_after)]
        return list(islice((row for row in rows.tolist() if items[row] not in named), wanted))

    def take_back(self, rows: int, reused: Sequence[int]) -> None:
        """Keep the first `rows`; `reused` ones are again those of items that are gone, and may be given away again."""
        self.seen, self._last_seen = self.seen[:rows], self._last_seen[:rows]
        self._last_seen[reused] = -self._expire_after

    def forget_recent(self, first: int, others: Numbers) -> None:
        """Draw no more from rows of `first` or more, and from `others`."""
        self.recent = self.recent[(self.recent < first) & ~np.isin(self.recent, others)]

    def draw(self, random: np.random.Generator, count: int) -> Tensor:
        """Return the rows of `count` of the recent events; none where there are none."""
        return torch.from_numpy(random.choice(self.recent, count if len(self.recent) else 0))

    def log_q(self, capacity: int) -> Tensor:
        """Return, for each row of a table, the log of the share at which it is drawn; every row has at least one share."""
        counts = np.bincount(self.recent, minlength=capacity) + 1.0
        return torch.from_numpy(np.log(counts / counts.sum())).float()
