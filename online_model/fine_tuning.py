"""Incremental fine-tuning: a few optimizer steps on the newest events and a replay of older ones, judged before it is kept.

Sampled softmax with log-q correction (Bengio and Senécal, 2008; Yi et al., RecSys 2019): negatives are drawn from the recent
stream, and each logit is lowered by the log of how often its item is drawn. The dense part learns by Adam, the item table by its
lazy form, which touches only the rows of a batch.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from headrace.online_model.gate import Verdict, judge
from headrace.online_model.lazy_adam import Adam, LazyAdam
from headrace.online_model.scorer import KIND_ROWS
from headrace.online_model.transformer import UNKNOWN, pad
from headrace.online_model.weights import ITEM_TABLE, ModelCopy, delta_payload, dense_names
from headrace.schemas import Step

NEVER = -1e9


@dataclass(frozen=True)
class TuningPlan:
    """How a round learns: `steps` optimizer steps on batches of `batch` histories, half new and half replayed."""

    steps: int = 2
    batch: int = 128
    negatives: int = 1024
    dense_rate: float = 3e-3
    item_rate: float = 2e-2
    replay: int = 20_000
    recent: int = 20_000
    held_back: int = 256
    held_back_share: float = 0.1


@dataclass(frozen=True)
class Round:
    """What a round did: the verdict, the touched rows of the item table, the ids of new items, and the losses before learning."""

    verdict: Verdict
    touched: Tensor
    new_items: list[str]
    losses: list[float]
    held_back: list[bool] = field(default_factory=list)


class FineTuner:
    """Trains a candidate beside the live weights. `live` is what was published last; a round that fails returns to it."""

    def __init__(self, live: ModelCopy, plan: TuningPlan | None = None, seed: int = 1) -> None:
        self.live = live
        self.plan = plan or TuningPlan()
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._replay: deque[list[tuple[int, int]]] = deque(maxlen=self.plan.replay)
        self._recent: deque[int] = deque(maxlen=self.plan.recent)
        self._held_back: deque[list[tuple[int, int]]] = deque(maxlen=self.plan.held_back)
        self._counts = torch.zeros(0)
        self._start()

    def run(self, histories: Sequence[Sequence[Step]], steps: int | None = None) -> Round:
        """Learn from histories of (item id, kind), oldest first, whose last step is new, and judge the result.

        The losses returned are those of each history's last step before anything was learned from it. A tenth of the
        histories is held back for the gate and not learned from. `steps` takes the place of the plan's.
        """
        new_items = self._add_new_items(histories)
        encoded = [[(self._candidate.rows[item], KIND_ROWS[kind]) for item, kind in history] for history in histories]
        encoded = [history[-self._length() - 1 :] for history in encoded if len(history) > 1]
        for history in histories:
            self._notice(self._candidate.rows[history[-1][0]])
        if not encoded:
            return Round(Verdict(False, "no history has two steps"), torch.zeros(0, dtype=torch.long), new_items, [])
        negatives = self._draw_negatives()
        losses = last_step_losses(self._candidate, encoded, negatives, self._log_q())
        kept_aside = [self._random.random() < self.plan.held_back_share for _ in encoded]
        self._held_back.extend(history for history, aside in zip(encoded, kept_aside, strict=True) if aside)
        learned = [history for history, aside in zip(encoded, kept_aside, strict=True) if not aside]
        touched = self._learn(learned, steps or self.plan.steps) if learned else torch.zeros(0, dtype=torch.long)
        self._replay.extend(learned)
        first_new = len(self._candidate.items) - len(new_items)
        touched = torch.unique(torch.cat([touched, torch.arange(first_new, len(self._candidate.items))]))
        return Round(self._judge(negatives), touched, new_items, losses.tolist(), kept_aside)

    def payload(self, learned: Round) -> bytes:
        """Return the delta from the live weights to the candidate."""
        return delta_payload(self._candidate, learned.touched, learned.new_items)

    def accept(self, touched: Tensor, new_items: Sequence[str], version: int, sha256: str) -> None:
        """Make the candidate the live weights, under the name that it was published with."""
        self.live.add_items(new_items)
        _copy(self._candidate, self.live, touched)
        self.live.version, self.live.sha256 = version, sha256

    def reject(self) -> None:
        """Drop the candidate and start again from the live weights.

        The optimizer keeps its moments: with fresh ones the first steps would be as long as the rates allow, and the next
        candidate likely no better.
        """
        if self._is_finite():
            self._candidate.copy_from(self.live)
        else:
            self._start()
        # Rows of items that came with the candidate are gone; histories that name them are of no more use.
        size = len(self.live.items)
        for kept in (self._replay, self._held_back):
            usable = [history for history in kept if all(row < size for row, _ in history)]
            kept.clear()
            kept.extend(usable)
        self._recent = deque((row for row in self._recent if row < size), maxlen=self.plan.recent)
        rows = torch.tensor(self._recent, dtype=torch.long)
        self._counts = torch.bincount(rows, minlength=self._candidate.model.capacity).float()

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._candidate.model.parameters())

    def _start(self) -> None:
        self._candidate = ModelCopy(self.live.model.shape)
        self._candidate.copy_from(self.live)
        self._candidate.model.requires_grad_(True)
        self._make_optimizers()

    def _make_optimizers(self) -> None:
        parameters = dict(self._candidate.model.named_parameters())
        dense = [parameters[name] for name in dense_names(self._candidate.model)]
        self._dense_optimizer = Adam(dense, self.plan.dense_rate)
        self._item_optimizer = LazyAdam(parameters[ITEM_TABLE], self.plan.item_rate)

    def _length(self) -> int:
        return self._candidate.model.shape.length

    def _add_new_items(self, histories: Sequence[Sequence[Step]]) -> list[str]:
        known = self._candidate.rows
        new_items = list(dict.fromkeys(item for history in histories for item, _ in history if item not in known))
        capacity = self._candidate.model.capacity
        self._candidate.add_items(new_items)
        if self._candidate.model.capacity != capacity:
            self._candidate.model.requires_grad_(True)
            self._item_optimizer.follow(self._candidate.model.items.weight)
        return new_items

    def _notice(self, row: int) -> None:
        if len(self._recent) == self.plan.recent:
            self._counts[self._recent[0]] -= 1
        self._recent.append(row)
        if row >= len(self._counts):
            self._counts = functional.pad(self._counts, (0, self._candidate.model.capacity - len(self._counts)))
        self._counts[row] += 1

    def _log_q(self) -> Tensor:
        """Return, for each row of the table, the log of the share at which it is drawn as a negative."""
        counts = functional.pad(self._counts, (0, self._candidate.model.capacity - len(self._counts)))
        return ((counts + 1) / (counts.sum() + len(counts))).log()

    def _draw_negatives(self) -> Tensor:
        places = torch.randint(len(self._recent), (self.plan.negatives,), generator=self._generator)
        recent = torch.tensor(self._recent)
        return recent[places]

    def _learn(self, histories: Sequence[list[tuple[int, int]]], steps: int) -> Tensor:
        touched = []
        for _ in range(steps):
            new = self._random.sample(histories, min(len(histories), self.plan.batch // 2))
            old = self._random.choices(self._replay, k=self.plan.batch - len(new)) if self._replay else []
            rows, kinds, _ = pad([*new, *old], self._length() + 1)
            negatives = self._draw_negatives()
            loss = sampled_softmax_loss(self._candidate, rows, kinds, negatives, self._log_q())
            loss.mean().backward()
            self._dense_optimizer.step()
            self._item_optimizer.step()
            touched += [rows.flatten(), negatives]
        rows_touched: Tensor = torch.unique(torch.cat(touched))
        return rows_touched

    def _judge(self, negatives: Tensor) -> Verdict:
        size = len(self.live.items)
        events = [history for history in self._held_back if all(row < size for row, _ in history)]
        if not events or not self._is_finite():
            return judge(torch.zeros(0), torch.zeros(0), finite=self._is_finite())
        common = negatives[negatives < size]
        log_q = self._log_q()
        candidate = last_step_losses(self._candidate, events, common, log_q)
        return judge(candidate, last_step_losses(self.live, events, common, log_q), finite=True)


def sampled_softmax_loss(copy: ModelCopy, rows: Tensor, kinds: Tensor, negatives: Tensor, log_q: Tensor) -> Tensor:
    """Return the loss of every step that has a step before it, (steps,). `rows` and `kinds` are (batch, length)."""
    known = rows[:, 1:] != UNKNOWN
    vectors = copy.model(rows[:, :-1], kinds[:, :-1])[known]
    return _losses(copy, vectors, rows[:, 1:][known], negatives, log_q)


@torch.no_grad()
def last_step_losses(copy: ModelCopy, histories: Sequence[list[tuple[int, int]]], negatives: Tensor, log_q: Tensor) -> Tensor:
    """Return the loss of the last step of each history, (histories,), against the same negatives."""
    rows, kinds, lengths = pad(histories, copy.model.shape.length + 1)
    places = torch.arange(len(rows))
    vectors = copy.model(rows[:, :-1], kinds[:, :-1])[places, lengths - 2]
    return _losses(copy, vectors, rows[places, lengths - 1], negatives, log_q)


def _losses(copy: ModelCopy, vectors: Tensor, targets: Tensor, negatives: Tensor, log_q: Tensor) -> Tensor:
    embedded = copy.model.items(torch.cat([targets, negatives]))
    right = (vectors * embedded[: len(targets)]).sum(dim=1) - log_q[targets]
    wrong = vectors @ embedded[len(targets) :].T - log_q[negatives]
    wrong = wrong.masked_fill(negatives[None, :] == targets[:, None], NEVER)
    logits = torch.cat([right[:, None], wrong], dim=1)
    return functional.cross_entropy(logits, torch.zeros(len(targets), dtype=torch.long), reduction="none")


@torch.no_grad()
def _copy(source: ModelCopy, target: ModelCopy, touched: Tensor) -> None:
    from_parameters, to_parameters = dict(source.model.named_parameters()), dict(target.model.named_parameters())
    for name in dense_names(source.model):
        to_parameters[name].copy_(from_parameters[name])
    to_parameters[ITEM_TABLE].index_copy_(0, touched, from_parameters[ITEM_TABLE][touched])
