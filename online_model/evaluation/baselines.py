"""What a shop would use instead, each learning at each event: popularity, co-visitation and session neighbours."""

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import nlargest
from itertools import islice

from headrace.online_model.evaluation.sessions import last_session, session_before
from headrace.schemas import HistoryEntry

Scores = dict[str, float]


class Popularity:
    """Decayed counts of all steps, halved every `half_life` of them."""

    def __init__(self, *, half_life: int = 20_000, width: int = 100) -> None:
        self._half_life = half_life
        self._width = width
        self._counts: Scores = {}
        self._clock = 0
        self._top: list[str] = []

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        """Return the most popular items, as of at most 256 steps ago and `width` at most."""
        return best(self._top, _last_item(history), k)

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        """Count the step's item."""
        self._clock += 1
        self._counts[step.item_id] = self._counts.get(step.item_id, 0.0) + 2.0 ** (self._clock / self._half_life)
        if self._clock > 50 * self._half_life:
            shrink = 2.0 ** (-self._clock / self._half_life)
            self._counts = {item: count * shrink for item, count in self._counts.items() if count * shrink > 1e-3}
            self._clock = 0
        # Early on the list is renewed at 1, 2, 4, 8, ... steps, or the first item would be all that a new shop has to offer.
        if self._clock % 256 == 0 or self._clock & (self._clock - 1) == 0:
            self._top = nlargest(self._width, self._counts, key=self._counts.__getitem__)


class Covisitation:
    """Decayed counts of which item follows which within a session.

    A step to an item adds 1, `gap_decay`, `gap_decay`^2, ... to the counts of the `reach` items before it, and 0.3 times that the
    other way round; all counts halve every `half_life` steps. A row keeps its `width` strongest followers.
    """

    def __init__(self, *, reach: int = 8, gap_decay: float = 0.75, half_life: int = 200_000, width: int = 150) -> None:
        self._gap_weights = [gap_decay**gap for gap in range(reach)]
        self._half_life = half_life
        self._width = width
        self._rows: dict[str, Scores] = {}
        self._origins: dict[str, int] = {}
        self._clock = 0

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        """Return what followed the session's recent items most often, the newest counting most."""
        total: Scores = {}
        for item, weight in zip(reversed(last_session(history)), self._gap_weights, strict=False):
            row = self._rows.get(item)
            if row:
                scale = weight / (sum(row.values()) + 2.0 * self._growth(item))
                for other, count in row.items():
                    total[other] = total.get(other, 0.0) + scale * count
        return best_scored(total, _last_item(history), k)

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        """Count the step's item as a follower of those before it."""
        self._clock += 1
        for item, weight in zip(reversed(session_before(history, step)), self._gap_weights, strict=False):
            if item != step.item_id:
                self._add(item, step.item_id, weight)
                self._add(step.item_id, item, 0.3 * weight)

    def _growth(self, item: str) -> float:
        return float(2.0 ** ((self._clock - self._origins[item]) / self._half_life))

    def _add(self, item: str, follower: str, weight: float) -> None:
        row = self._rows.get(item)
        if row is None:
            row = self._rows[item] = {}
            self._origins[item] = self._clock
        # New counts grow instead of old ones shrinking, which touches one number and not the whole row.
        row[follower] = row.get(follower, 0.0) + weight * self._growth(item)
        if len(row) > 2 * self._width or self._clock - self._origins[item] > 50 * self._half_life:
            self._prune(item, row)

    def _prune(self, item: str, row: Scores) -> None:
        growth = self._growth(item)
        self._rows[item] = {other: count / growth for other, count in nlargest(self._width, row.items(), key=lambda pair: pair[1])}
        self._origins[item] = self._clock


class SessionNeighbours:
    """Session-based nearest neighbours (V-SkNN; Ludewig and Jannach, UMUAI 28, 2018), its index updated at each step.

    The newest `sessions_per_item` sessions with each item are remembered. A query weighs the session's last `reach` distinct items
    linearly by recency, takes the `neighbours` most similar sessions, and lets each vote for its distinct items.
    """

    def __init__(
        self, *, reach: int = 8, sessions_per_item: int = 500, neighbours: int = 100, session_length: int = 30, sessions: int = 400_000
    ) -> None:
        self._reach = reach
        self._per_item = sessions_per_item
        self._neighbours = neighbours
        self._length = session_length
        self._limit = sessions
        self._sessions: dict[int, list[str]] = {}
        self._with_item: dict[str, deque[int]] = {}
        self._current: dict[str, int] = {}
        self._begun = 0

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        """Return what the sessions most like the shopper's last one vote for, that one itself among them, which makes returns likely."""
        similarity: dict[int, float] = {}
        recent = list(islice(_distinct(reversed(last_session(history))), self._reach))
        for place, item in enumerate(recent):
            weight = 1.0 - place / self._reach
            for other in self._with_item.get(item, ()):
                similarity[other] = similarity.get(other, 0.0) + weight
        places = {item: place for place, item in enumerate(recent)}
        total: Scores = {}
        for other, likeness in nlargest(self._neighbours, similarity.items(), key=lambda pair: pair[1]):
            items = dict.fromkeys(self._sessions.get(other, ()))
            newest_shared = min((places[item] for item in items if item in places), default=self._reach)
            vote = likeness * (1.0 - newest_shared / (self._reach + 1))
            for item in items:
                total[item] = total.get(item, 0.0) + vote
        return best_scored(total, _last_item(history), k)

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        """Add the step's item to the shopper's session, or to a new one."""
        number = self._current.get(shopper_id)
        if number is None or not session_before(history, step):
            number = self._current[shopper_id] = self._begun
            self._begun += 1
        items = self._sessions.get(number)
        if items is None:
            items = self._sessions[number] = []
            if len(self._sessions) > self._limit:
                del self._sessions[next(iter(self._sessions))]
        if step.item_id not in items:
            index = self._with_item.get(step.item_id)
            if index is None:
                index = self._with_item[step.item_id] = deque(maxlen=self._per_item)
            index.append(number)
        items.append(step.item_id)
        if len(items) > self._length:
            del items[0]


def best_scored(scores: Scores, left_out: str | None, k: int) -> list[str]:
    """Return the `k` items with the highest scores, one left out; of equal ones the first scored comes first."""
    return best(nlargest(k + 1, scores, key=scores.__getitem__), left_out, k)


def best(ranked: Iterable[str], left_out: str | None, k: int) -> list[str]:
    """Return the first `k` of ranked items, one left out."""
    return list(islice((item for item in ranked if item != left_out), k))


def _last_item(history: Sequence[HistoryEntry]) -> str | None:
    return history[-1].item_id if history else None


def _distinct(items: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(items)
