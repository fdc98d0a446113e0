"""The whole model in one process: what the learner, the recommender and the gateway do together, on one stream, with no Kafka between.

It is what `headrace evaluate` measures, made of the very parts that serve: `ranker` and `fine_tuning`.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from headrace.online_model.examined import Examined
from headrace.online_model.fine_tuning import FineTuner, TuningPlan
from headrace.online_model.ranker import TRANSFORMER_BEST, Ranker
from headrace.online_model.scorer import Scored, score_with
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry

EVENTS_PER_ROUND = 512
ENCODED_AT_ONCE = 64
WAITING_SHOPPERS = 512

History = Sequence[HistoryEntry]


class NextItemModel:
    """Ranks the next item at any moment, and learns at each step: memories, mixture and network at once, the Transformer in rounds.

    `left_out` names parts to do without (`ranker.Ranker`).
    """

    def __init__(
        self,
        seed: int = 1,
        plan: TuningPlan | None = None,
        shape: TransformerShape | None = None,
        left_out: Collection[str] = (),
    ) -> None:
        self._has_transformer = "transformer" not in left_out
        self._tuner = FineTuner(ModelCopy(shape), plan, seed)
        self._ranker = Ranker(_Lent(self._tuner), seed=seed, left_out=left_out)
        self._waiting: OrderedDict[str, History] = OrderedDict()
        # By shopper: the history as of now, and how many of its last steps are new in this round.
        self._round: dict[str, tuple[History, int]] = {}
        self._in_round = 0
        self._scored: dict[str, tuple[History, Scored]] = {}
        self._asked: tuple[str, History, Examined] | None = None

    def rank(self, shopper_id: str, history: History, k: int) -> list[str]:
        """Return the `k` items most likely next, best first, the history's last item left out."""
        asked = self._examine(shopper_id, history)
        rows, _ = self._ranker.best(asked, k)
        return [self._ranker.ids.names[number] for number in asked.candidates[rows].tolist()]

    def learn(self, shopper_id: str, history: History, step: HistoryEntry) -> None:
        """Take in a step; `history` is what the shopper did before it (oldest first, the last 50 steps at most)."""
        asked = None
        if history and history[-1].item_id != step.item_id:
            asked = self._examine(shopper_id, history)
            self._ranker.learn_choice(asked, step.item_id)
        self._ranker.remember(shopper_id, history[-1:], step, asked)
        self._asked = None
        if not self._has_transformer:
            return
        now = [*history, step]
        self._scored.pop(shopper_id, None)
        self._wait(shopper_id, now)
        self._round[shopper_id] = (now, self._round[shopper_id][1] + 1 if shopper_id in self._round else 1)
        self._in_round += 1
        if self._in_round >= EVENTS_PER_ROUND:
            self._fine_tune()

    def chance(self, shopper_id: str, history: History, item_id: str) -> float:
        """Return the probability of an item to come next; 0 where it is no candidate."""
        asked = self._examine(shopper_id, history)
        row = asked.row(self._ranker.ids.numbers.get(item_id, -1))
        if row is None:
            return 0.0
        rows, chances = self._ranker.best(asked, len(asked.candidates))
        return float(chances[rows == row][0])

    def react(self, rate_scale: float, replay_share: float, keep: float) -> None:
        """Learn faster for a while, and let the memories forget, as the learner and those that rank do on drift."""
        self._tuner.quicken(rate_scale, replay_share=replay_share)
        self._ranker.forget(keep)

    def cut(self, keep: float) -> None:
        """Let the memories forget, and look no more at what was before now."""
        self._ranker.forget(keep, cut=True)

    def withdraw(self) -> None:
        """Take the reaction back, as far as it can be."""
        self._tuner.quicken(1.0)
        self._ranker.recall()

    def _examine(self, shopper_id: str, history: History) -> Examined:
        """Examine the question, or return what was found when it was asked a moment ago."""
        if self._asked is not None and self._asked[0] == shopper_id and self._asked[1] is history:
            return self._asked[2]
        asked = self._ranker.examine(self._tuner.live, shopper_id, history, self._score(shopper_id, history))
        self._asked = (shopper_id, history, asked)
        return asked

    def _score(self, shopper_id: str, history: History) -> Scored:
        """Return what the Transformer says; shoppers who wait are encoded together, since the weights stay the same between rounds."""
        known = self._scored.pop(shopper_id, None)
        if known is not None and history and known[0][-1] == history[-1]:
            return known[1]
        self._waiting.pop(shopper_id, None)
        others = [self._waiting.popitem() for _ in range(min(len(self._waiting), ENCODED_AT_ONCE - 1))]
        batch = [(shopper_id, history), *others]
        histories = [asked for _, asked in batch]
        scores = score_with(self._tuner.live, histories, best=TRANSFORMER_BEST, normalised=False)
        self._scored |= {name: (asked, scored) for (name, asked), scored in zip(batch[1:], scores[1:], strict=True)}
        return scores[0]

    def _wait(self, shopper_id: str, history: History) -> None:
        self._waiting[shopper_id] = history
        self._waiting.move_to_end(shopper_id)
        if len(self._waiting) > WAITING_SHOPPERS:
            self._waiting.popitem(last=False)

    def _fine_tune(self) -> None:
        """Run a round as the learner does: judged on held-back events, taken over if it is not worse."""
        histories, fresh = zip(*self._round.values(), strict=True)
        learned = self._tuner.run(histories, shoppers=list(self._round), fresh=fresh)
        if learned.verdict.passed:
            live = self._tuner.live
            self._tuner.accept(learned.touched, learned.new_items, live.version + 1, live.sha256)
        else:
            self._tuner.reject()
        self._round, self._in_round = {}, 0
        # What was said by the former weights holds no longer.
        for shopper_id, (history, _) in self._scored.items():
            self._wait(shopper_id, history)
        self._scored.clear()


class _Lent:
    """Lends the tuner's live weights, which change only between questions here."""

    def __init__(self, tuner: FineTuner) -> None:
        self._tuner = tuner

    @contextmanager
    def live(self) -> Iterator[ModelCopy]:
        """Lend them."""
        yield self._tuner.live
