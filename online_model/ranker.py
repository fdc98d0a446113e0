"""What answers: instant memories beside the Transformer, mixed by weights that are learned online.

The ranker learns from user rows, each of which counts its shopper's steps; so a row that comes again, or that skips some, adds
each step once. It may be read from one thread while another teaches it.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import cast

from headrace.online_model.memory import Covisitation, OwnHistory, Popularity, Scores, SessionNeighbours
from headrace.online_model.mixture import PARTS, Mixture
from headrace.online_model.scorer import Batch, Scorer
from headrace.schemas import HistoryEntry, UserRow
from headrace.schemas.recommendations import Part

SESSION_GAP_MS = 30 * 60 * 1000
CONTEXTS = 12
CANDIDATES = 200
TRANSFORMER_BEST = 50
SHOPPERS_KEPT = 2_000_000

History = Sequence[HistoryEntry]


@dataclass(frozen=True)
class RankedItem:
    """An item, its probability, and the part of the mixture that gave most of it. `shares` is what each part gave."""

    item_id: str
    score: float
    part: Part
    shares: Mapping[str, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class RankedBatch:
    """A ranking for each history, all by the weights that `version` and `sha256` name.

    `transformer` holds the Transformer's own best items for each history, the most probable first, by the same weights.
    """

    rankings: list[list[RankedItem]]
    version: int
    sha256: str
    transformer: list[dict[str, float]]


@dataclass(frozen=True)
class Foreseen:
    """The place, from 0, that an item had in the ranking made before it came; None beyond the candidates."""

    live: int | None
    popularity: int | None


class Ranker:
    """Ranks the next item for shoppers; learns at each step of each shopper."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._lock = threading.Lock()
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._covisitation = Covisitation()
        self._neighbours = SessionNeighbours()
        self._own = OwnHistory()
        self._popularity = Popularity()
        self._mixture = Mixture(CONTEXTS)
        self._steps: dict[str, int] = {}

    def learn(self, row: UserRow) -> int:
        """Teach the memories the steps of the row that they have not seen; return how many there were."""
        with self._lock:
            return self._learn(row)

    def rank(self, histories: Sequence[History], k: int) -> RankedBatch:
        """Return the `k` items most likely to come next for each history (oldest step first), the last item left out."""
        asked = [self._ask(history) for history in histories]
        batch = self._score(histories, asked, best=max(k, TRANSFORMER_BEST))
        rankings = [
            self._ranking(history, parts | {"transformer": scored.best | scored.candidates}, k)
            for history, parts, scored in zip(histories, asked, batch.scores, strict=True)
        ]
        return RankedBatch(rankings, batch.version, batch.sha256, [scored.best for scored in batch.scores])

    def test_then_learn(self, rows: Sequence[UserRow]) -> list[Foreseen]:
        """Rank as it stood before the newest step of each row, compare with that step, teach the mixture; return the places.

        Steps that repeat the item before them are passed over. The memories are taught by `learn` alone, afterwards.
        """
        fair = [row.history for row in rows if self._is_news(row)]
        asked = [self._ask(history[:-1]) for history in fair]
        batch = self._score([history[:-1] for history in fair], asked, [history[-1].item_id for history in fair])
        places = []
        for history, parts, scored in zip(fair, asked, batch.scores, strict=True):
            before, target = history[:-1], history[-1].item_id
            known = parts | {"transformer": scored.best | scored.candidates}
            mixed = self._mixed(before, known)
            with self._lock:
                self._mixture.learn(_context(before), [known[part].get(target, 0.0) for part in PARTS])
            last = before[-1].item_id
            places.append(Foreseen(_place(mixed, target, last), _place(known["popularity"], target, last)))
        return places

    def _is_news(self, row: UserRow) -> bool:
        if len(row.history) < 2 or row.history[-1].item_id == row.history[-2].item_id:
            return False
        return row.steps > self._steps.get(row.shopper_id, 0)

    def _learn(self, row: UserRow) -> int:
        seen = self._steps.get(row.shopper_id, 0)
        fresh = min(row.steps - seen, len(row.history))
        if fresh <= 0:
            return 0
        # Back to the end of the line: who is forgotten first is who was away longest.
        self._steps.pop(row.shopper_id, None)
        self._steps[row.shopper_id] = row.steps
        if len(self._steps) > SHOPPERS_KEPT:
            del self._steps[next(iter(self._steps))]
        for place in range(len(row.history) - fresh, len(row.history)):
            before, target = row.history[:place], self._number(row.history[place].item_id)
            session = self._numbered(_session(before, row.history[place].time_ms))
            if session:
                self._covisitation.learn(session, target)
            if before:
                self._own.learn(self._numbered(before), target)
            # A session is known by its shopper and its first step.
            first = row.history[place - len(session)].time_ms
            self._neighbours.learn(hash((row.shopper_id, first)), target)
            self._popularity.learn(target)
        return fresh

    def _ask(self, history: History) -> dict[str, dict[str, float]]:
        """Return what each memory says, by item id."""
        with self._lock:
            numbers = [self._numbers[entry.item_id] for entry in history if entry.item_id in self._numbers]
            session = [self._numbers[entry.item_id] for entry in _session(history) if entry.item_id in self._numbers]
            said: dict[str, Scores] = {
                "covisitation": self._covisitation.scores(session),
                "neighbours": self._neighbours.scores(session),
                "own_history": self._own.scores(numbers),
                "popularity": self._popularity.scores(),
            }
            return {part: {self._names[number]: score for number, score in scores.items()} for part, scores in said.items()}

    def _score(
        self,
        histories: Sequence[History],
        asked: Sequence[dict[str, dict[str, float]]],
        wanted: Sequence[str] = (),
        best: int = TRANSFORMER_BEST,
    ) -> Batch:
        """Return the Transformer's probabilities of each history's candidates, of the `wanted` items and of its own `best`."""
        candidates = []
        for place, (history, parts) in enumerate(zip(histories, asked, strict=True)):
            foremost = nlargest(CANDIDATES, self._mixed(history, parts).items(), key=lambda pair: pair[1])
            candidates.append([*(item for item, _ in foremost), *wanted[place : place + 1]])
        return self.scorer.score([[(entry.item_id, entry.kind) for entry in history] for history in histories], candidates, best)

    def _mixed(self, history: History, parts: dict[str, dict[str, float]]) -> dict[str, float]:
        mixed: dict[str, float] = {}
        for part, weight in self._mixture.weights(_context(history)).items():
            for item, score in parts.get(part, {}).items():
                mixed[item] = mixed.get(item, 0.0) + weight * score
        return mixed

    def _ranking(self, history: History, parts: dict[str, dict[str, float]], k: int) -> list[RankedItem]:
        mixed = self._mixed(history, parts)
        if history:
            mixed.pop(history[-1].item_id, None)
        weights = self._mixture.weights(_context(history))
        ranking = []
        for item, score in nlargest(k, mixed.items(), key=lambda pair: pair[1]):
            shares = {part: weights[part] * scores.get(item, 0.0) for part, scores in parts.items()}
            ranking.append(RankedItem(item, score, cast(Part, max(shares, key=shares.__getitem__)), shares))
        return ranking

    def _number(self, item_id: str) -> int:
        number = self._numbers.get(item_id)
        if number is None:
            number = self._numbers[item_id] = len(self._names)
            self._names.append(item_id)
        return number

    def _numbered(self, history: History) -> list[int]:
        return [self._number(entry.item_id) for entry in history]


def _session(history: History, now_ms: int | None = None) -> History:
    """Return the newest steps that no pause of 30 minutes divides; none if the pause before `now_ms` is that long."""
    if not history or (now_ms is not None and now_ms - history[-1].time_ms > SESSION_GAP_MS):
        return []
    start = len(history) - 1
    while start > 0 and history[start].time_ms - history[start - 1].time_ms <= SESSION_GAP_MS:
        start -= 1
    return history[start:]


def _context(history: History) -> int:
    """Number the situation: how long the session is (0 to 5 and more), and whether the shopper has a past before it."""
    session = _session(history)
    return min(len(session), 5) + (6 if len(history) > len(session) else 0)


def _place(scores: dict[str, float], target: str, last: str) -> int | None:
    score = scores.get(target, 0.0)
    if score <= 0.0:
        return None
    return sum(1 for item, other in scores.items() if other > score and item != last)
