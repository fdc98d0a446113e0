"""Memories that learn at each event: co-visitation, session neighbours, return to one's own history, popularity.

Each has `learn(history, target, ...)`, called once an event has been predicted, and `scores(history)`, a distribution over
items as {item: probability}. Items are small integers; a history lists the session's items, oldest first.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from itertools import islice

Scores = dict[int, float]


class Covisitation:
    """Decayed counts of which item follows which within a session.

    A step to `target` adds 1, `gap_decay`, `gap_decay`^2, ... to the counts of the `reach` items before it; all counts halve
    every `half_life` events. A row keeps its `width` strongest followers.
    """

    def __init__(self, *, reach: int = 8, gap_decay: float = 0.75, half_life: int = 200_000, width: int = 150) -> None:
        self._reach = reach
        self._gap_weights = [gap_decay**gap for gap in range(reach)]
        self._half_life = half_life
        self._width = width
        self._rows: dict[int, dict[int, float]] = {}
        self._origins: dict[int, int] = {}
        self._clock = 0

    def learn(self, history: Sequence[int], target: int) -> None:
        """Take in that `target` followed `history`."""
        self._clock += 1
        for item, weight in zip(reversed(history), self._gap_weights, strict=False):
            if item != target:
                self._add(item, target, weight)
                self._add(target, item, 0.3 * weight)

    def scores(self, history: Sequence[int]) -> Scores:
        """Return how often each item followed the recent ones of `history`, the newest counting most."""
        total: Scores = {}
        for item, weight in zip(reversed(history), self._gap_weights, strict=False):
            row = self._rows.get(item)
            if row:
                scale = weight / (sum(row.values()) + 2.0 * self._growth(item))
                for other, count in row.items():
                    total[other] = total.get(other, 0.0) + scale * count
        return normalised(total)

    def _growth(self, item: int) -> float:
        return float(2.0 ** ((self._clock - self._origins[item]) / self._half_life))

    def _add(self, item: int, follower: int, weight: float) -> None:
        row = self._rows.get(item)
        if row is None:
            row = self._rows[item] = {}
            self._origins[item] = self._clock
        # New counts grow instead of old ones shrinking, which touches one number and not the whole row.
        row[follower] = row.get(follower, 0.0) + weight * self._growth(item)
        if len(row) > 2 * self._width or self._clock - self._origins[item] > 50 * self._half_life:
            self._prune(item, row)

    def _prune(self, item: int, row: dict[int, float]) -> None:
        growth = self._growth(item)
        self._rows[item] = {other: count / growth for other, count in nlargest(self._width, row.items(), key=lambda pair: pair[1])}
        self._origins[item] = self._clock


class SessionNeighbours:
    """Session-based nearest neighbours (V-SkNN; Ludewig and Jannach, UMUAI 2018), its index updated at each event.

    The newest `sessions_per_item` sessions with each item are remembered. A query weighs its last `reach` items linearly by
    recency, takes the `neighbours` most similar sessions, and lets each vote for its items.
    """

    def __init__(
        self, *, reach: int = 8, sessions_per_item: int = 100, neighbours: int = 60, session_length: int = 30, sessions: int = 400_000
    ) -> None:
        self._reach = reach
        self._per_item = sessions_per_item
        self._neighbours = neighbours
        self._length = session_length
        self._limit = sessions
        self._sessions: dict[int, list[int]] = {}
        self._with_item: dict[int, deque[int]] = {}

    def learn(self, session: int, target: int) -> None:
        """Take in that the session numbered `session` came to `target`."""
        items = self._sessions.get(session)
        if items is None:
            items = self._sessions[session] = []
            if len(self._sessions) > self._limit:
                del self._sessions[next(iter(self._sessions))]
        if target not in items:
            index = self._with_item.get(target)
            if index is None:
                index = self._with_item[target] = deque(maxlen=self._per_item)
            index.append(session)
        items.append(target)
        if len(items) > self._length:
            del items[0]

    def scores(self, history: Sequence[int], session: int = -1) -> Scores:
        """Return the votes of the sessions that are most like `history`; `session` itself has no vote."""
        similarity: dict[int, float] = {}
        recent = list(islice(_distinct(reversed(history)), self._reach))
        for rank, item in enumerate(recent):
            weight = 1.0 - rank / self._reach
            for other in self._with_item.get(item, ()):
                similarity[other] = similarity.get(other, 0.0) + weight
        similarity.pop(session, None)
        total: Scores = {}
        nearest = (
            similarity.items()
            if len(similarity) <= self._neighbours
            else nlargest(self._neighbours, similarity.items(), key=lambda pair: pair[1])
        )
        position = {item: rank for rank, item in enumerate(recent)}
        for other, likeness in nearest:
            items = self._sessions.get(other)
            if items is None:
                continue
            newest_shared = min((position[item] for item in items if item in position), default=self._reach)
            vote = likeness * (1.0 - newest_shared / (self._reach + 1))
            for item in items:
                total[item] = total.get(item, 0.0) + vote
        return normalised(total)


class OwnHistory:
    """Return to one's own items: how often a step goes back to the n-th last distinct item, learned as decayed counts.

    The last item itself (n = 0) is left out: it is what the shopper looks at now.
    """

    def __init__(self, *, reach: int = 20, half_life: int = 20_000) -> None:
        self._counts = [1.0 / (rank + 1) for rank in range(reach)]
        self._keep = 0.5 ** (1 / half_life)

    def learn(self, history: Sequence[int], target: int) -> None:
        """Take in that `target` followed `history`."""
        for rank, item in enumerate(islice(_distinct(reversed(history)), 1, len(self._counts) + 1)):
            if item == target:
                self._counts = [count * self._keep for count in self._counts]
                self._counts[rank] += 1.0
                return

    def scores(self, history: Sequence[int]) -> Scores:
        """Return the share of returns that went to the place where each own item now stands."""
        return normalised(dict(zip(islice(_distinct(reversed(history)), 1, None), self._counts, strict=False)))


class Popularity:
    """Decayed counts of all events, halved every `half_life` events; the last resort for a shopper of whom nothing is known."""

    def __init__(self, *, half_life: int = 20_000, width: int = 100) -> None:
        self._half_life = half_life
        self._width = width
        self._counts: dict[int, float] = {}
        self._clock = 0
        self._top: Scores = {}

    def learn(self, target: int) -> None:
        """Take in an event."""
        self._clock += 1
        self._counts[target] = self._counts.get(target, 0.0) + 2.0 ** (self._clock / self._half_life)
        if self._clock > 50 * self._half_life:
            shrink = 2.0 ** (-self._clock / self._half_life)
            self._counts = {item: count * shrink for item, count in self._counts.items() if count * shrink > 1e-3}
            self._clock = 0
        # Early on the list is renewed at 1, 2, 4, 8, ... events, or the first item would be all that a new shop has to offer.
        if self._clock % 256 == 0 or self._clock & (self._clock - 1) == 0:
            self._top = normalised(dict(nlargest(self._width, self._counts.items(), key=lambda pair: pair[1])))

    def scores(self) -> Scores:
        """Return the most popular items, as of at most 256 events ago."""
        return self._top


def normalised(scores: Mapping[int, float]) -> Scores:
    """Return the scores divided by their sum."""
    total = sum(scores.values())
    return {item: score / total for item, score in scores.items()} if total > 0 else {}


def _distinct(items: Iterable[int]) -> Iterable[int]:
    return dict.fromkeys(items)
