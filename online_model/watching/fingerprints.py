"""Which drift it is: what lastingly surprised shoppers do while it lasts, so that one that comes again is known.

A drift's fingerprint is how the surprising steps divide among 4,096 buckets of steps from item to item, as square roots (the cosine of
two is then their Bhattacharyya coefficient; Bhattacharyya, 1943). Shoppers whom the model foresees as ever leave no trace in it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.watching.packing import packed, unpacked

Floats = NDArray[np.float64]

BUCKETS = 4096
KEPT_BLOCKS = 1024
BEFORE_BLOCKS = 512
LEAST_STEPS = 100
ALIKE, BEYOND_BEFORE, BEYOND_BY = 0.2, 1.15, 0.05
KNOWN_DRIFTS = 64


class StepProfile:
    """The buckets of the surprising steps of the newest blocks of `size` events."""

    def __init__(self, size: int) -> None:
        self.blocks = 0
        self._size = size
        self._kept: deque[list[int]] = deque(maxlen=KEPT_BLOCKS)
        self._waiting: list[int] = []
        self._events = 0

    def add(self, steps: Sequence[str], surprising: NDArray[np.bool_]) -> None:
        """Take in the steps of events, and which of them are surprising."""
        begin = 0
        while begin < len(steps):
            end = min(len(steps), begin + self._size - self._events)
            self._waiting += [crc32(steps[place].encode(errors="replace")) % BUCKETS for place in _places(surprising, begin, end)]
            self._events += end - begin
            if self._events == self._size:
                self._kept.append(self._waiting)
                self._waiting, self._events = [], 0
                self.blocks += 1
            begin = end

    def around(self, since: int) -> tuple[Floats, Floats] | None:
        """Return the profiles before and after the block `since`, (4096,) each of length 1; None where too little lies on either side."""
        place = since - (self.blocks - len(self._kept))
        if place <= 0:
            return None
        before, after = self._profile(max(0, place - BEFORE_BLOCKS), place), self._profile(place, len(self._kept))
        return None if before is None or after is None else (before, after)

    def saved(self) -> dict[str, Any]:
        """Return what is remembered, as JSON can hold it."""
        lengths = np.array([len(block) for block in self._kept], np.int64)
        codes = np.array([code for block in self._kept for code in block], np.int64)
        return {"blocks": self.blocks, "lengths": packed(lengths), "codes": packed(codes), "waiting": self._waiting, "events": self._events}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self.blocks, self._events = int(saved["blocks"]), int(saved["events"])
        codes = iter(unpacked(saved["codes"]).tolist())
        self._kept = deque((list(islice(codes, length)) for length in unpacked(saved["lengths"]).tolist()), maxlen=KEPT_BLOCKS)
        self._waiting = list(saved["waiting"])

    def _profile(self, begin: int, end: int) -> Floats | None:
        codes = [code for block in islice(self._kept, begin, end) for code in block]
        if len(codes) < LEAST_STEPS:
            return None
        counts = np.bincount(codes, minlength=BUCKETS)
        profile: Floats = np.sqrt(counts / len(codes))
        return profile


class KnownDrifts:
    """Fingerprints of earlier episodes."""

    def __init__(self) -> None:
        self._profiles: dict[str, Floats] = {}

    def learn(self, episode_id: str, profile: Floats) -> None:
        """Remember an episode's fingerprint; of more than 64 the oldest is forgotten."""
        self._profiles[episode_id] = profile
        if len(self._profiles) > KNOWN_DRIFTS:
            del self._profiles[next(iter(self._profiles))]

    def like(self, before: Floats, after: Floats, besides: str) -> str | None:
        """Return the earlier episode whose fingerprint is most like the profile after a change, where it is alike at all.

        It must also be more so than the profile before the change, or the shop would be said to return to where it stands.
        """
        likeness = {name: float(after @ other) for name, other in self._profiles.items() if name != besides}
        best = max(likeness, key=likeness.__getitem__, default=None)
        if best is None:
            return None
        as_before = float(before @ self._profiles[best])
        if likeness[best] < max(ALIKE, BEYOND_BEFORE * as_before, as_before + BEYOND_BY):
            return None
        return best

    def saved(self) -> dict[str, Any]:
        """Return what is remembered, as JSON can hold it."""
        return {name: packed(profile) for name, profile in self._profiles.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self._profiles = {name: unpacked(profile) for name, profile in saved.items()}


def _places(surprising: NDArray[np.bool_], begin: int, end: int) -> list[int]:
    return (np.flatnonzero(surprising[begin:end]) + begin).tolist()
