"""Which drift it is: what shoppers turned to and from when it came, so that one that comes again is known.

A drift's fingerprint is the change of the items' shares, in 256 buckets of items, as square roots (in which all shares are equally
sure; Bartlett, 1936). Two drifts are the same where their fingerprints point the same way.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.watching.packing import packed, unpacked

Floats = NDArray[np.float64]

BUCKETS = 256
KEPT_BLOCKS = 2048
BEFORE_BLOCKS = 1024
LEAST_AFTER = 48
ALIKE = 0.5
KNOWN_DRIFTS = 64
_NAMES_KEPT = 200_000


class ItemProfile:
    """Counts of items in buckets over the newest blocks of `size` events."""

    def __init__(self, size: int) -> None:
        self.blocks = 0
        self._size = size
        self._sums = np.zeros((KEPT_BLOCKS + 1, BUCKETS), np.int64)
        self._buckets: dict[str, int] = {}
        self._waiting = np.empty(0, np.int64)

    def add(self, items: Sequence[str]) -> None:
        """Take in the items of events."""
        if len(self._buckets) > _NAMES_KEPT:
            self._buckets.clear()
        known = self._buckets
        for item in set(items).difference(known):
            known[item] = crc32(item.encode(errors="replace")) % BUCKETS
        self._waiting = np.concatenate([self._waiting, np.array([known[item] for item in items], np.int64)])
        while len(self._waiting) >= self._size:
            counted = np.bincount(self._waiting[: self._size], minlength=BUCKETS)
            self._waiting = self._waiting[self._size :]
            self._sums[(self.blocks + 1) % (KEPT_BLOCKS + 1)] = self._sums[self.blocks % (KEPT_BLOCKS + 1)] + counted
            self.blocks += 1

    def change(self, since: int) -> Floats | None:
        """Return the change of the shares' square roots at the block `since`, (256,); None where too little lies on either side."""
        before = max(since - BEFORE_BLOCKS, self.blocks - KEPT_BLOCKS, 0)
        if self.blocks - since < LEAST_AFTER or since - before < LEAST_AFTER:
            return None
        sums = [self._sums[block % (KEPT_BLOCKS + 1)] for block in (before, since, self.blocks)]
        old, new = (sums[1] - sums[0]) + 0.5, (sums[2] - sums[1]) + 0.5
        change: Floats = np.sqrt(new / new.sum()) - np.sqrt(old / old.sum())
        return change

    def saved(self) -> dict[str, Any]:
        """Return what is remembered, as JSON can hold it."""
        return {"blocks": self.blocks, "sums": packed(self._sums), "waiting": self._waiting.tolist()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self.blocks = int(saved["blocks"])
        self._sums = unpacked(saved["sums"])
        self._waiting = np.array(saved["waiting"], np.int64)


class KnownDrifts:
    """Fingerprints of earlier episodes."""

    def __init__(self) -> None:
        self._changes: dict[str, Floats] = {}

    def learn(self, episode_id: str, change: Floats) -> None:
        """Remember an episode's fingerprint; of more than 64 the oldest is forgotten."""
        self._changes[episode_id] = change
        if len(self._changes) > KNOWN_DRIFTS:
            del self._changes[next(iter(self._changes))]

    def like(self, change: Floats) -> str | None:
        """Return the earlier episode whose fingerprint is most alike, where it is alike at all."""
        likeness = {name: cosine(change, other) for name, other in self._changes.items()}
        best = max(likeness, key=likeness.__getitem__, default=None)
        return best if best is not None and likeness[best] >= ALIKE else None

    def saved(self) -> dict[str, Any]:
        """Return what is remembered, as JSON can hold it."""
        return {name: packed(change) for name, change in self._changes.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self._changes = {name: unpacked(change) for name, change in saved.items()}


def cosine(one: Floats, other: Floats) -> float:
    """Return the cosine of two changes."""
    return float(one @ other / max(1e-12, np.linalg.norm(one) * np.linalg.norm(other)))
