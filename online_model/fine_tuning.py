"""Incremental fine-tuning: a few optimizer steps on the newest events and a replay of older ones, judged before it is kept.

The dense part learns by Adam, the item table by its lazy form, which touches only the rows of a batch (`tuning_loss` has the
loss). Before that, new items start beside the items around them and the targets of new steps are pulled to theirs
(`instant_rules`), so that one event is enough for an item to be found.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.gate import Verdict, judge
from headrace.online_model.history_ring import HistoryRing, KeptHistories, joined
from headrace.online_model.instant_rules import contexts_of_new, contexts_of_steps, pull_to_context, start_by_context
from headrace.online_model.item_ledger import ItemLedger
from headrace.online_model.lazy_adam import Adam, LazyAdam
from headrace.online_model.step_batch import UNKNOWN, Numbers, encode_numbers
from headrace.online_model.tuning_loss import last_news_losses, training_loss
from headrace.online_model.weights import ITEM_TABLE, ModelCopy, delta_payload, dense_names
from headrace.schemas import HistoryEntry

DRIFT_SCALE, DRIFT_ROUNDS = 2.0, 8


@dataclass(frozen=True)
class TuningPlan:
    """How a round learns: `steps` optimizer steps on batches of `batch` histories, half new and half replayed.

    A step whose target is put into the cart or bought weighs `cart_weight` or `purchase_weight` times a view. In one round at most
    `per_shopper` histories of one shopper are learned from, and the rate at which one comes is even over its steps. A round stops
    after the step in which `round_limit_s` passes. Where the item table is full, rows of items that were not seen for `expire_after`
    events go to new ones before it grows. `start_share` and `pull` are how far a new item starts, and a target is pulled,
    towards the items around it; 0 switches these off.
    """

    steps: int = 4
    batch: int = 128
    negatives: int = 2048
    dense_rate: float = 3e-3
    item_rate: float = 1e-2
    replay: int = 20_000
    recent: int = 20_000
    held_back: int = 256
    held_back_share: float = 0.1
    start_share: float = 0.9
    pull: float = 0.5
    cart_weight: float = 1.5
    purchase_weight: float = 2.0
    per_shopper: int = 8
    round_limit_s: float = math.inf
    expire_after: int = 2_000_000


@dataclass(frozen=True)
class Round:
    """What a round did: the verdict, the touched rows of the item table, the ids of new items, and the losses before learning.

    `held_back` tells which of the losses' histories were kept for the gate; `steps` is the number of optimizer steps made.
    """

    verdict: Verdict
    touched: Tensor
    new_items: list[str]
    losses: list[float]
    held_back: list[bool] = field(default_factory=list)
    steps: int = 0


class FineTuner:
    """Trains a candidate beside the live weights. `live` is what was published last; a round that fails returns to it.

    `rate_scale` multiplies the learning rates: 1, but 2 after `quicken`, from where it falls back within 8 rounds.
    """

    def __init__(self, live: ModelCopy, plan: TuningPlan | None = None, seed: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.live = live
        self.plan = plan or TuningPlan()
        self.rate_scale = 1.0
        self._clock = clock
        self._random = np.random.default_rng(seed)
        # torch draws new rows and what dropout leaves out from one generator of the process; this is its state for us alone.
        self._torch_state = torch.Generator().manual_seed(seed).get_state()
        self._length = live.model.shape.length + 1
        self._replay = HistoryRing(self.plan.replay, self._length)
        self._held_back = HistoryRing(self.plan.held_back, self._length)
        self._ledger = ItemLedger(len(live.items), self.plan.recent, self.plan.expire_after)
        # The rows that the first new items of the candidate have taken from items that are gone.
        self._reused: list[int] = []
        self._payload: bytes | None = None
        self._nameless = 0
        self._kind_weights = torch.tensor([1.0, self.plan.cart_weight, self.plan.purchase_weight])
        self._start()

    def run(
        self,
        histories: Sequence[Sequence[HistoryEntry]],
        steps: int | None = None,
        *,
        shoppers: Sequence[str] | None = None,
        fresh: Sequence[int] | None = None,
    ) -> Round:
        """Learn from histories, oldest step first, of which the last `fresh` steps are new (1 unless told), and judge the result.

        `shoppers` are whose they are; unless told, each is another's. The losses returned are those of each history's last step that
        differs from the one before, before anything was learned from it; histories without one have none. A share of the histories
        is held back for the gate and learned from once they are too old for it. `steps` takes the place of the plan's.
        """
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._torch_state)
            learned = self._run(histories, steps or self.plan.steps, self._numbered(shoppers, len(histories)), fresh)
            self._torch_state = torch.get_rng_state()
        self.rate_scale = max(1.0, self.rate_scale - (DRIFT_SCALE - 1.0) / DRIFT_ROUNDS)
        return learned

    def quicken(self) -> None:
        """Learn at twice the rate for now, since the shop has changed."""
        self.rate_scale = DRIFT_SCALE

    def payload(self, learned: Round) -> bytes:
        """Return the delta from the live weights to the candidate, rounded to half precision."""
        self._payload = delta_payload(self._candidate, learned.touched, learned.new_items, self._reused, base=self.live)
        return self._payload

    def accept(self, touched: Tensor, new_items: Sequence[str], version: int, sha256: str) -> None:
        """Make the live weights what the candidate's delta makes of them, under the name that it was published with.

        The candidate goes on from its own, unrounded weights: what the delta has lost comes with a later one.
        """
        payload = self._payload or delta_payload(self._candidate, touched, new_items, self._reused, base=self.live)
        self.live.take_own(payload, new_items, version, sha256)
        self._reused, self._payload = [], None

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
        self._forget_rows(size, self._reused)
        self._ledger.take_back(size, self._reused)
        self._reused, self._payload = [], None

    def _run(self, histories: Sequence[Sequence[HistoryEntry]], steps: int, shoppers: Numbers, fresh: Sequence[int] | None) -> Round:
        self._payload = None
        new_items, new_rows = self._add_new_items(histories)
        numbers, lengths = encode_numbers(histories, self._candidate.rows, self._length)
        # An empty history is encoded as one unknown step, of which there is nothing to learn.
        told = np.ones(len(lengths), np.int64) if fresh is None else np.asarray(fresh, np.int64)
        self._notice(numbers[:, :, 0], lengths, told)
        news = ((numbers[:, 1:, 0] != numbers[:, :-1, 0]) & (numbers[:, 1:, 0] != UNKNOWN)).any(axis=1)
        usable, told = KeptHistories(numbers, lengths, shoppers).only(news), told[news]
        if not len(usable):
            return Round(Verdict(False, "no history has two steps that differ"), torch.from_numpy(new_rows), new_items, [])
        negatives, log_q = self._draw_negatives(), self._ledger.log_q(self._candidate.model.capacity)
        losses = last_news_losses(self._candidate.model, usable, negatives, log_q)
        aside = self._random.random(len(usable)) < self.plan.held_back_share
        learned = usable.only(~aside)
        pulled = self._apply_instant_rules(usable, learned, told[~aside], new_rows)
        touched, made = self._learn(learned, steps, log_q)
        self._replay.add(joined([learned, self._held_back.add(usable.only(aside))]))
        touched = torch.unique(torch.cat([*touched, pulled, torch.from_numpy(new_rows)]))
        return Round(self._judge(negatives, log_q), touched, new_items, losses.tolist(), aside.tolist(), made)

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._candidate.model.parameters())

    def _start(self) -> None:
        self._candidate = ModelCopy(self.live.model.shape)
        self._candidate.copy_from(self.live)
        parameters = dict(self._candidate.model.named_parameters())
        dense = [parameters[name].requires_grad_(True) for name in dense_names(self._candidate.model)]
        self._dense_optimizer = Adam(dense, self.plan.dense_rate)
        self._item_optimizer = LazyAdam(parameters[ITEM_TABLE], self.plan.item_rate)

    def _numbered(self, shoppers: Sequence[str] | None, count: int) -> Numbers:
        """Return a number for each history, the same for the same shopper."""
        if shoppers is None:
            self._nameless += count
            return np.arange(-self._nameless, count - self._nameless)
        # Not `hash`, which differs from process to process; positive, to be apart from the nameless.
        digests = b"".join(blake2b(shopper.encode(errors="replace"), digest_size=8).digest() for shopper in shoppers)
        return np.frombuffer(digests, np.int64) & 0x7FFFFFFFFFFFFFFF

    def _add_new_items(self, histories: Sequence[Sequence[HistoryEntry]]) -> tuple[list[str], Numbers]:
        """Give rows to the items that have none; return their ids and rows."""
        named = dict.fromkeys(entry.item_id for history in histories for entry in history)
        new_items = [item for item in named if item not in self._candidate.rows]
        first, capacity = len(self._candidate.items), self._candidate.model.capacity
        self._reused = self._ledger.expired(first + len(new_items) - capacity, self._candidate.items, named)
        self._candidate.add_items(new_items, self._reused)
        if self._candidate.model.capacity != capacity:
            self._candidate.model.items.weight.requires_grad_(False)
            self._item_optimizer.follow(self._candidate.model.items.weight)
        if self._reused:
            table, rows = self._candidate.model.items.weight, torch.tensor(self._reused)
            table[rows] = torch.randn(len(rows), table.shape[1]) * table.shape[1] ** -0.5
            self._item_optimizer.forget(rows)
            self._forget_rows(first, self._reused)
        added = len(self._candidate.items) - first
        self._ledger.add(added, self._reused)
        return new_items, np.array([*self._reused, *range(first, first + added)], np.int64)

    def _forget_rows(self, first: int, others: Sequence[int]) -> None:
        """Forget what was kept of item rows of `first` or more, and of `others`: they stand for other items now."""
        gone = np.array(others, np.int64)
        self._replay.forget_rows(first, gone)
        self._held_back.forget_rows(first, gone)
        self._ledger.forget_recent(first, gone)

    def _notice(self, rows: Numbers, lengths: Numbers, fresh: Numbers) -> None:
        """Count the new steps among those that negatives are drawn from."""
        places = np.arange(rows.shape[1])
        self._ledger.notice(rows[(places >= (lengths - fresh)[:, None]) & (places < lengths[:, None]) & (rows != UNKNOWN)])

    def _draw_negatives(self) -> Tensor:
        return self._ledger.draw(self._random, self.plan.negatives)

    def _apply_instant_rules(self, usable: KeptHistories, learned: KeptHistories, fresh: Numbers, new_rows: Numbers) -> Tensor:
        """Let new items start, and targets that are not held back be pulled, by what is around them; return the rows moved."""
        table = self._candidate.model.items.weight
        start_by_context(table, contexts_of_new(usable.numbers[:, :, 0], new_rows), self.plan.start_share)
        pulled = contexts_of_steps(learned.numbers[:, :, 0], learned.lengths, fresh)
        strength = torch.from_numpy(self.plan.pull / (1.0 + self._ledger.seen[pulled.items])).to(table.dtype)
        pull_to_context(table, pulled, strength)
        return torch.from_numpy(pulled.items)

    def _learn(self, new: KeptHistories, steps: int, log_q: Tensor) -> tuple[list[Tensor], int]:
        """Make the optimizer's steps; return the rows touched and the number of steps made before the time was up."""
        deadline_s = self._clock() + self.plan.round_limit_s
        drawn: Counter[int] = Counter()
        touched: list[Tensor] = []
        made = 0
        self._candidate.model.train()
        for step in range(steps):
            batch = self._draw_batch(new, drawn, -(-self.plan.per_shopper * (step + 1) // steps))
            if len(batch):
                loss, rows = training_loss(self._candidate.model, batch, self._draw_negatives(), log_q, self._kind_weights)
                loss.backward()
                self._dense_optimizer.step(self.rate_scale)
                if rows.vectors.grad is not None:
                    self._item_optimizer.step(rows.rows, rows.vectors.grad, self.rate_scale)
                touched.append(rows.rows)
            made = step + 1
            if self._clock() >= deadline_s:
                break
        self._candidate.model.eval()
        return touched, made

    def _draw_batch(self, new: KeptHistories, drawn: Counter[int], allowed: int) -> KeptHistories:
        """Draw new histories and older ones, and leave out those of shoppers of whom `allowed` have been drawn in this round."""
        share = self.plan.batch // 2 if len(self._replay) else self.plan.batch
        fresh = new.only(self._random.permutation(len(new))[:share])
        batch = joined([fresh, self._replay.draw(self._random, self.plan.batch - len(fresh))])
        kept = np.ones(len(batch), bool)
        for place, shopper in enumerate(batch.shoppers.tolist()):
            drawn[shopper] += 1
            kept[place] = drawn[shopper] <= allowed
        return batch.only(kept)

    def _judge(self, negatives: Tensor, log_q: Tensor) -> Verdict:
        if not self._is_finite():
            return judge(torch.zeros(0), torch.zeros(0), finite=False)
        size = len(self.live.items)
        gone = np.array(self._reused, np.int64)
        events = self._held_back.all().without_rows(size, gone)
        common = negatives[(negatives < size) & ~torch.isin(negatives, torch.from_numpy(gone))]
        if not len(events):
            return judge(torch.zeros(0), torch.zeros(0), finite=True)
        candidate = last_news_losses(self._candidate.model, events, common, log_q)
        return judge(candidate, last_news_losses(self.live.model, events, common, log_q), finite=True)
