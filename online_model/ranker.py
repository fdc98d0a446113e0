"""What answers: instant memories beside the Transformer, mixed and ranked by weights that are learned online.

A question goes three steps. The memories gather candidates and what they know of them, and the Transformer adds its own best items
(`memory`, `scorer`). A mixture of the parts gives each candidate a chance (`mixture`). A small network corrects it by all
that is known of the candidate and the situation (`ranking_network`).

The ranker learns from user rows, each of which counts its shopper's steps; so a row that comes again, or that skips some, adds each
step once. It may be read from one thread while another teaches it.

Several lines of weights may answer side by side (`lanes`): memories, mixture and network are the same for all of them, and only the
Transformer differs.
"""

import copy as copying
import threading
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.choosing import choose
from headrace.online_model.evidence import CONTEXTS, LOG_MIX, NETWORK, PARTS, Column, silence
from headrace.online_model.examined import TOLD, Examined, examined, warm_up
from headrace.online_model.explaining import reasons_of
from headrace.online_model.item_numbers import ItemNumbers, TableRows
from headrace.online_model.memory import Memory
from headrace.online_model.mixture import Mixture
from headrace.online_model.ranking_network import RankingNetwork
from headrace.online_model.ranking_weights import ranking_payload, take_up
from headrace.online_model.scorer import Scored, nearness, score_with
from headrace.online_model.scorer import warm_up as warm_up_scoring
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry, UserRow
from headrace.schemas.recommendations import Part, Reason

SESSION_GAP_MS = 30 * 60 * 1000
TRANSFORMER_BEST = 50
SHOPPERS_KEPT = 2_000_000
POPULARITY = PARTS.index("popularity")

History = Sequence[HistoryEntry]


class Weights(Protocol):
    """Whatever lends the Transformer's weights: `scorer.Scorer`, or one that never swaps."""

    def live(self) -> AbstractContextManager[ModelCopy]:
        """Lend the live copy; it does not change while it is lent."""
        ...


class RankedItem(NamedTuple):
    """An item, its probability, and the part of the mixture that spoke loudest for it.

    `shares` is how the probability divides among the parts, in the order of `examined.TOLD`; `reasons` are the steps of the history
    that speak most for the item.
    """

    item_id: str
    score: float
    part: Part
    shares: Sequence[float] = ()
    reasons: Sequence[Reason] = ()


@dataclass(frozen=True)
class RankedBatch:
    """A ranking for each history, all by the weights that `version` and `sha256` name.

    `transformer` holds the Transformer's own best items for each history, the most probable first, by the same weights; nothing where
    they were not asked for.
    """

    rankings: list[list[RankedItem]]
    version: int
    sha256: str
    transformer: list[dict[str, float]]


@dataclass(frozen=True)
class Foreseen:
    """The place, from 0, that an item had in the ranking made before it came; None where it was no candidate."""

    live: int | None
    popularity: int | None


class Ranker:
    """Ranks the next item for shoppers; learns at each step of each shopper.

    `left_out` names parts of the mixture, or "network", to do without, so that it can be measured what each is worth.
    """

    def __init__(self, scorer: Weights, *, capacity: int = 1 << 20, seed: int = 1, left_out: Collection[str] = ()) -> None:
        unknown = set(left_out) - {*PARTS, NETWORK}
        if unknown:
            raise ValueError(f"left_out: some of {', '.join((*PARTS, NETWORK))} were expected, not {', '.join(sorted(unknown))}")
        warm_up()
        warm_up_scoring()
        self.scorer = scorer
        self.memory = Memory(capacity)
        self.mixture = Mixture(PARTS, CONTEXTS)
        self.network = RankingNetwork(seed=seed)
        self.ids = ItemNumbers()
        self._tables: dict[Weights, TableRows] = {}
        self._silent = [part for part in PARTS if part in left_out]
        self._has_network = NETWORK not in left_out
        self._lock = threading.Lock()
        self._questions = 0
        self._steps: dict[str, int] = {}

    def learn(self, row: UserRow) -> int:
        """Teach the memories the steps of the row that they have not seen; return how many there were."""
        with self._lock:
            return self._learn(row)

    def rank(
        self,
        histories: Sequence[History],
        k: int,
        shoppers: Sequence[str | None] | None = None,
        *,
        weights: Weights | None = None,
        with_transformer: bool = False,
    ) -> RankedBatch:
        """Return the `k` items most likely to come next for each history (oldest step first), the last item left out.

        With `shoppers` named, their own visits do not count as those of others, and what they did before the history counts too.
        `weights` take the place of the ranker's own. `with_transformer` asks for its own best items too.
        """
        named = shoppers or [None] * len(histories)
        weights = weights or self.scorer
        with weights.live() as copy:
            scores = score_with(copy, histories, best=max(k, TRANSFORMER_BEST), normalised=with_transformer)
            rankings = []
            for shopper, history, scored in zip(named, histories, scores, strict=True):
                with self._lock:
                    asked = self.examine(copy, shopper, history, scored, weights)
                    rankings.append(self._ranking(copy, weights, asked, history, k))
            own = [_best_of(copy, scored) if with_transformer else {} for scored in scores]
            return RankedBatch(rankings, copy.version, copy.sha256, own)

    def test_then_learn(self, rows: Sequence[UserRow], *, weights: Weights | None = None) -> list[Foreseen]:
        """Rank as it stood before the newest step of each row, compare with that step, teach mixture and network; return the places.

        Steps that repeat the item before them are passed over. The memories are taught by `learn` alone, afterwards. `weights` take the
        place of the ranker's own.
        """
        weights = weights or self.scorer
        fair = [row for row in rows if self._is_news(row)]
        histories = [row.history[:-1] for row in fair]
        places = []
        with weights.live() as copy:
            scores = score_with(copy, histories, best=TRANSFORMER_BEST, normalised=False)
            for row, history, scored in zip(fair, histories, scores, strict=True):
                with self._lock:
                    asked = self.examine(copy, row.shopper_id, history, scored, weights)
                    places.append(self._foreseen(asked, self.ids.numbers.get(row.history[-1].item_id, -1)))
                    self.learn_choice(asked, row.history[-1].item_id)
        return places

    def ranking_learned(self) -> tuple[bytes, int]:
        """Return what mixture and network have learned, as `take_up` takes it, and from how many of their questions."""
        with self._lock:
            return ranking_payload(self.mixture, self.network), self._questions

    def take_up(self, payload: bytes) -> None:
        """Put what another ranker's mixture and network have learned in place of what these have. Raises BadUpdate."""
        with self._lock:
            take_up(self.mixture, self.network, payload)

    def forget(self, keep: float, *, cut: bool = False) -> None:
        """Let what the memories hold count `keep` times as much beside what comes; see `Memory.forget`."""
        with self._lock:
            self.memory.forget(keep, cut=cut)

    def recall(self) -> None:
        """Let the memories look again at what they were told to cut off."""
        with self._lock:
            self.memory.recall()

    def knows(self, item_id: str) -> bool:
        """Whether the item was ever seen in a step, or has a row in the Transformer's table that was used."""
        return item_id in self.ids.numbers

    def examine(self, copy: ModelCopy, shopper: str | None, history: History, scored: Scored, weights: Weights | None = None) -> Examined:
        """Gather the candidates for a history and all that is known of them. The lock must be held where threads share the ranker.

        `scored` is what the copy says of the same history; `weights` have lent the copy, the ranker's own where not given.
        """
        numbers = self.ids.known(history)
        # A shopper without a name has no visit of their own among those that are remembered.
        question = self.memory.question(shopper if shopper is not None else _NOBODY, numbers)
        table = self._table(weights or self.scorer)
        table.follow(copy)
        best = table.of_rows(scored.best_rows)
        if len(best):
            self.memory.hold(int(best.max()))
        with self.memory.ask(question) as asking:
            if len(best):
                asking.add(best)
            logits, to_last = nearness(copy, table.rows_of(asking.candidates, len(copy.items)), scored)
            asking.evidence[:, Column.LOGIT] = logits
            asking.evidence[:, Column.TO_LAST] = to_last
            for part in self._silent:
                silence(asking.evidence, part)
            last = self.ids.numbers.get(history[-1].item_id, -1) if history else -1
            return examined(asking, self.mixture, last)

    def best(self, asked: Examined, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows of the `k` best candidates, best first, and the probability of each."""
        if not len(asked.candidates):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        wanted = min(k, len(asked.candidates))
        rows, chances = np.empty(wanted, np.int64), np.empty(wanted, np.float32)
        choose(self._scores(asked), rows, chances)
        return rows, chances

    def learn_choice(self, asked: Examined, item_id: str) -> None:
        """Teach mixture and network that of what was asked this item came; nothing where it was no candidate."""
        row = asked.row(self.ids.numbers.get(item_id, -1))
        if row is not None:
            self._questions += 1
            self.mixture.learn(asked.context, asked.parts[row])
            if self._has_network:
                self.network.learn(asked.features, row)

    def remember(self, shopper: str, before: History, entry: HistoryEntry, asked: Examined | None = None) -> None:
        """Take one step into the memories. `before` is the history up to it, of which only the last step is looked at."""
        is_new_visit = not before or entry.time_ms - before[-1].time_ms > SESSION_GAP_MS
        number = self.ids.number(entry.item_id)
        self.memory.learn(shopper, number, is_new_visit=is_new_visit, question=asked.question if asked else None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranker":
        """Return a copy that learns apart from this one. A lock cannot be copied; the copy has one of its own."""
        twin = object.__new__(Ranker)
        memo[id(self)] = twin
        for name, value in self.__dict__.items():
            setattr(twin, name, threading.Lock() if name == "_lock" else copying.deepcopy(value, memo))
        return twin

    def _scores(self, asked: Examined) -> NDArray[np.float32]:
        if self._has_network:
            return self.network.scores(asked.features)
        mixed: NDArray[np.float32] = asked.features[:, LOG_MIX]
        return mixed

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
            self.remember(row.shopper_id, row.history[max(0, place - 1) : place], row.history[place])
        return fresh

    def _foreseen(self, asked: Examined, number: int) -> Foreseen:
        row = asked.row(number)
        if row is None:
            return Foreseen(None, None)
        scores, popular = self._scores(asked), asked.parts[:, POPULARITY]
        return Foreseen(int((scores > scores[row]).sum()), int((popular > popular[row]).sum()) if popular[row] > 0 else None)

    def _table(self, weights: Weights) -> TableRows:
        table = self._tables.get(weights)
        if table is None:
            table = self._tables[weights] = TableRows(self.ids)
        return table

    def _ranking(self, copy: ModelCopy, weights: Weights, asked: Examined, history: History, k: int) -> list[RankedItem]:
        order, chances = self.best(asked, k)
        why = reasons_of(self.memory, self._table(weights), copy, asked, history, order)
        shares = asked.shares(order)
        loudest = shares.argmax(axis=1).tolist()
        of_chances = (shares * chances[:, None]).tolist()
        items = asked.candidates[order].tolist()
        names = self.ids.names
        return [
            RankedItem(names[item], chance, TOLD[part], each, reasons)
            for item, chance, part, each, reasons in zip(items, chances.tolist(), loudest, of_chances, why, strict=True)
        ]


def _best_of(copy: ModelCopy, scored: Scored) -> dict[str, float]:
    chances = np.exp(scored.best_logits - scored.normaliser).tolist()
    return {copy.items[row]: chance for row, chance in zip(scored.best_rows.tolist(), chances, strict=True)}


# No shopper has this name.
_NOBODY = object()
