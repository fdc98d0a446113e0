"""What answers: instant memories beside the Transformer, mixed by weights that are learned online.

The ranker learns from user rows, each of which counts its shopper's steps; so a row that comes again, or that skips some, adds
each step once. It may be read from one thread while another teaches it.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeVar, cast

import numpy as np

from headrace.online_model.memory import Covisitation, OwnHistory, Popularity, Scores, SessionNeighbours
from headrace.online_model.mixture import PARTS, Mixture
from headrace.online_model.scorer import Scored, Scorer, score_with
from headrace.schemas import HistoryEntry, UserRow
from headrace.schemas.recommendations import Part

SESSION_GAP_MS = 30 * 60 * 1000
CONTEXTS = 12
CANDIDATES = 60
TRANSFORMER_BEST = 30
SHOPPERS_KEPT = 2_000_000

History = Sequence[HistoryEntry]
K = TypeVar("K")


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


@dataclass(frozen=True)
class _Asked:
    """What the memories say of one history: by part and item number, their weights, their mixture, and its best items by id."""

    parts: dict[str, Scores]
    weights: Mapping[str, float]
    mixed: Scores
    candidates: dict[str, float]


@dataclass(frozen=True)
class _Said:
    """What the Transformer says of one history: probabilities of its best items, and of the candidates that it knows."""

    best: dict[str, float]
    candidates: dict[str, float]


@dataclass(frozen=True)
class _Batch:
    """What it says of a batch, all by the weights that `version` and `sha256` name."""

    scores: list[_Said]
    version: int
    sha256: str


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
        batch = self._score(histories, [list(one.candidates) for one in asked], best=max(k, TRANSFORMER_BEST))
        rankings = [
            self._ranking(history, one, scored.best | scored.candidates, k)
            for history, one, scored in zip(histories, asked, batch.scores, strict=True)
        ]
        return RankedBatch(rankings, batch.version, batch.sha256, [scored.best for scored in batch.scores])

    def test_then_learn(self, rows: Sequence[UserRow]) -> list[Foreseen]:
        """Rank as it stood before the newest step of each row, compare with that step, teach the mixture; return the places.

        Steps that repeat the item before them are passed over. The memories are taught by `learn` alone, afterwards.
        """
        fair = [row.history for row in rows if self._is_news(row)]
        asked = [self._ask(history[:-1]) for history in fair]
        candidates = [[*one.candidates, history[-1].item_id] for history, one in zip(fair, asked, strict=True)]
        batch = self._score([history[:-1] for history in fair], candidates)
        places = []
        for history, one, scored in zip(fair, asked, batch.scores, strict=True):
            before, target = history[:-1], history[-1].item_id
            transformer = scored.best | scored.candidates
            mixed = self._mixed(one, transformer)
            number = self._numbers.get(target, -1)
            likelihoods = {part: scores.get(number, 0.0) for part, scores in one.parts.items()}
            likelihoods["transformer"] = transformer.get(target, 0.0)
            with self._lock:
                self._mixture.learn(_context(before), [likelihoods[part] for part in PARTS])
            last = before[-1].item_id
            popularity = one.parts["popularity"]
            places.append(Foreseen(_place(mixed, target, last), _place(popularity, number, self._numbers.get(last, -1))))
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

    def _ask(self, history: History) -> _Asked:
        with self._lock:
            numbers = [self._numbers[entry.item_id] for entry in history if entry.item_id in self._numbers]
            session = [self._numbers[entry.item_id] for entry in _session(history) if entry.item_id in self._numbers]
            parts: dict[str, Scores] = {
                "covisitation": self._covisitation.scores(session),
                "neighbours": self._neighbours.scores(session),
                "own_history": self._own.scores(numbers),
                "popularity": self._popularity.scores(),
            }
            weights = self._mixture.weights(_context(history))
        mixed: Scores = {}
        for part, scores in parts.items():
            weight = weights[part]
            for number, score in scores.items():
                mixed[number] = mixed.get(number, 0.0) + weight * score
        return _Asked(parts, weights, mixed, {self._names[number]: score for number, score in _best(mixed, CANDIDATES)})

    def _score(self, histories: Sequence[History], candidates: Sequence[Sequence[str]], best: int = TRANSFORMER_BEST) -> _Batch:
        """Return the Transformer's probabilities of each history's candidates and of its own best items."""
        with self.scorer.live() as copy:
            rows = [np.array([copy.rows.get(item, 0) for item in wanted], np.int64) for wanted in candidates]
            scores = score_with(copy, histories, rows, best)
            said = [_said(copy.items, wanted, scored) for wanted, scored in zip(candidates, scores, strict=True)]
            return _Batch(said, copy.version, copy.sha256)

    def _mixed(self, asked: _Asked, transformer: Mapping[str, float]) -> dict[str, float]:
        """Add the Transformer's probabilities to the candidates of the memories, and its own best items to them."""
        weight = asked.weights["transformer"]
        mixed = dict(asked.candidates)
        for item, score in transformer.items():
            known = mixed.get(item)
            if known is None:
                known = asked.mixed.get(self._numbers.get(item, -1), 0.0)
            mixed[item] = known + weight * score
        return mixed

    def _ranking(self, history: History, asked: _Asked, transformer: Mapping[str, float], k: int) -> list[RankedItem]:
        mixed = self._mixed(asked, transformer)
        if history:
            mixed.pop(history[-1].item_id, None)
        ranking = []
        for item, score in _best(mixed, k):
            shares = self._shares(item, asked, transformer)
            ranking.append(RankedItem(item, score, cast(Part, max(shares, key=shares.__getitem__)), shares))
        return ranking

    def _shares(self, item: str, asked: _Asked, transformer: Mapping[str, float]) -> dict[str, float]:
        """Return what each part gives to the item's score."""
        number = self._numbers.get(item, -1)
        shares = {part: asked.weights[part] * scores.get(number, 0.0) for part, scores in asked.parts.items()}
        shares["transformer"] = asked.weights["transformer"] * transformer.get(item, 0.0)
        return shares

    def _number(self, item_id: str) -> int:
        number = self._numbers.get(item_id)
        if number is None:
            number = self._numbers[item_id] = len(self._names)
            self._names.append(item_id)
        return number

    def _numbered(self, history: History) -> list[int]:
        return [self._number(entry.item_id) for entry in history]


def _said(items: Sequence[str], candidates: Sequence[str], scored: Scored) -> _Said:
    best = np.exp(scored.best_logits - scored.normaliser).tolist()
    wanted = np.exp(scored.logits - scored.normaliser)
    known = ~np.isnan(wanted)
    return _Said(
        {items[row]: probability for row, probability in zip(scored.best_rows.tolist(), best, strict=True)},
        {item: float(wanted[place]) for place, item in enumerate(candidates) if known[place]},
    )


def _best(scores: Mapping[K, float], count: int) -> list[tuple[K, float]]:
    """Return the `count` highest scores, best first. For some hundred of them a whole sort takes half the time of a heap."""
    return sorted(scores.items(), key=itemgetter(1), reverse=True)[:count]


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


def _place(scores: Mapping[K, float], target: K, last: K) -> int | None:
    score = scores.get(target, 0.0)
    if score <= 0.0:
        return None
    return sum(1 for item, other in scores.items() if other > score and item != last)
