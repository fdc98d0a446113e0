"""Which segments a change comes from: each one's level before and after, weighed by how many events it has."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.watching.signals import Batch
from headrace.schemas.drift_alerts import DriftCause

KEPT_EVENTS = 32_768
MOST_SEGMENTS = 5
LEAST_SHARE = 0.1
LEAST_EVENTS = 30


class SegmentLevels:
    """The newest events' values beside their segments' names. It begins empty after a restart."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)
        self._batches: list[Batch] = []
        self._events = 0

    def add(self, batch: Batch) -> None:
        """Take in a batch; those that tell of no segment are passed over."""
        if not any(key in batch.segments for key in self._keys):
            return
        self._batches.append(batch)
        self._events += len(batch)
        while self._events - len(self._batches[0]) > KEPT_EVENTS:
            self._events -= len(self._batches.pop(0))

    def causes(self, signal: str, since_ms: int) -> list[DriftCause]:
        """Return the segments whose levels of a signal moved most since an instant, as their part of the whole movement, largest first."""
        told = [batch for batch in self._batches if signal in batch.values]
        if not told:
            return []
        values = np.concatenate([batch.values[signal] for batch in told])
        times = np.concatenate([batch.times_ms for batch in told])
        after = times >= since_ms
        there = ~np.isnan(values)
        causes = []
        for key in self._keys:
            # Numbers for names, which may be long, and as many as there are events.
            numbers: dict[str, int] = {}
            named = np.array(
                [numbers.setdefault(name, len(numbers)) for batch in told for name in batch.segments.get(key, [""] * len(batch))], np.int64
            )
            causes += self._of_key(signal, key, list(numbers), named[there], values[there], after[there])
        causes.sort(key=lambda cause: -cause.share)
        return causes[:MOST_SEGMENTS]

    def _of_key(
        self,
        signal: str,
        key: str,
        names: Sequence[str],
        named: NDArray[np.int64],
        values: NDArray[np.float64],
        after: NDArray[np.bool_],
    ) -> list[DriftCause]:
        found = []
        for number in np.flatnonzero(np.bincount(named) >= 2 * LEAST_EVENTS).tolist():
            own = named == number
            old, new = values[own & ~after], values[own & after]
            if names[number] and len(old) >= LEAST_EVENTS and len(new) >= LEAST_EVENTS:
                found.append((names[number], float(old.mean()), float(new.mean()), len(new)))
        total = sum(abs(new - old) * count for _, old, new, count in found)
        if not total:
            return []
        return [
            DriftCause(signal=signal, share=share, level_before=old, level_after=new, segment={key: name})
            for name, old, new, count in found
            if (share := abs(new - old) * count / total) >= LEAST_SHARE
        ]
