"""Incremental fine-tuning: a few optimizer steps on the newest events and a replay of older ones, judged before it is kept.

The dense part learns by Adam, the item table by its lazy form, which touches only the rows of a batch (`tuning_loss` has the
loss). Before that, new items start beside the items around them and the targets of new steps are pulled to theirs
(`instant_rules`), so that one event is enough for an item to be found.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.gate import Candidate, Gate, GatePlan, Verdict
from headrace.online_model.held_back import HeldBack
from headrace.online_model.history_ring import HistoryRing, KeptHistories, Mask, joined
from headrace.online_model.instant_rules import contexts_of_new, contexts_of_steps, pull_to_context, start_by_context
from headrace.online_model.item_ledger import ItemLedger
from headrace.online_model.lazy_adam import Adam, LazyAdam
from headrace.online_model.step_batch import UNKNOWN, Numbers, encode_numbers
from headrace.online_model.surges import ItemSurges, SurgePlan
from headrace.online_model.trusted_set import TrustedSet
from headrace.online_model.tuning_loss import last_news_losses, training_loss
from headrace.online_model.weights import ITEM_TABLE, ModelCopy, delta_payload, dense_names
from headrace.schemas import HistoryEntry

DRIFT_SCALE, DRIFT_ROUNDS = 2.0, 8
MOST_DOUBTED = 8


@dataclass(frozen=True)
class TuningPlan:
    """How a round learns: `steps` optimizer steps on batches of `batch` histories, of which the share `replay_share` is replayed.

    A step whose target is put into the cart or bought weighs `cart_weight` or `purchase_weight` times a view. In one round at most
    `per_shopper` histories of one shopper are learned from, and the rate at which one comes is even over its steps. A round stops
    after the step in which `round_limit_s` passes. Where the item table is full, rows of items that were not seen for `expire_after`
    events go to new ones before it grows. `start_share` and `pull` are how far a new item starts, and a target is pulled,
    towards the items around it; 0 switches these off.
    """

    steps: int = 3
    batch: int = 128
    replay_share: float = 0.5
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
    gate: GatePlan = field(default_factory=GatePlan)
    surges: SurgePlan = field(default_factory=SurgePlan)


@dataclass(frozen=True)
class Round:
    """What a round did: the verdict, the touched rows of the item table, the ids of new items, and the losses before learning.

    `places` are those of the losses' histories among the ones given; `held_back` tells which of these were kept for the gate; `steps` is
    the number of optimizer steps made; `surging` are the items that began to be left out.
    """

    verdict: Verdict
    touched: Tensor
    new_items: list[str]
    losses: list[float]
    held_back: list[bool] = field(default_factory=list)
    steps: int = 0
    places: list[int] = field(default_factory=list)
    surging: tuple[str, ...] = ()


class FineTuner:
    """Trains a candidate beside the live weights. `live` is what was published last; a round that fails returns to it.

    `rate_scale` multiplies the learning rates: 1, but more after `quicken`, from where it falls back within some rounds; for as long
    `replay_share` may be another than the plan's.
    """

    def __init__(
        self,
        live: ModelCopy,
        plan: TuningPlan | None = None,
        seed: int = 1,
        clock: Callable[[], float] = time.monotonic,
        trusted: TrustedSet | None = None,
    ) -> None:
        self.live = live
        self.plan = plan or TuningPlan()
        self.rate_scale = 1.0
        self.replay_share = self.plan.replay_share
        self._falls_by = 0.0
        self._clock = clock
        self._random = np.random.default_rng(seed)
        # torch draws new rows and what dropout leaves out from one generator of the process; this is its state for us alone.
        self._torch_state = torch.Generator().manual_seed(seed).get_state()
        self._length = live.model.shape.length + 1
        self._replay = HistoryRing(self.plan.replay, self._length)
        self._held_back = HeldBack(self.plan.held_back, self._length)
        self.gate = Gate(live, self._held_back, trusted, self.plan.gate)
        self._surges = ItemSurges(self.plan.surges)
        # What was learned last joins the replay once it has passed the gate; how many of the held-back histories are trusted ones.
        self._learned: KeptHistories | None = None
        # Batches whose labels were doubted, until it is proved that the shop has changed, or that it has not.
        self._doubted: list[KeptHistories] = []
        self._set_apart = 0
        self._verdict: Verdict | None = None
        # The rows in which the candidate was put back to the anchor, after the live weights were found to be worse.
        self._returning: Tensor | None = None
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
        self.rate_scale = max(1.0, self.rate_scale - self._falls_by)
        if self.rate_scale == 1.0:
            self.replay_share = self.plan.replay_share
        return learned

    def quicken(self, scale: float = DRIFT_SCALE, rounds: int = DRIFT_ROUNDS, replay_share: float | None = None) -> None:
        """Learn at `scale` times the rate, falling back within `rounds`, and replay another share meanwhile: the shop has changed.

        A scale of 1 ends it.
        """
        self.rate_scale = scale
        self._falls_by = (scale - 1.0) / rounds
        self.replay_share = self.plan.replay_share if replay_share is None else replay_share

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
        self.gate.accepted(self.live, touched, self._reused)
        if self._returning is not None:
            self.gate.returned(self.live)
        if self._learned is not None:
            self._replay.add(self._learned)
            for doubted in self._doubted if self._verdict is not None and "change_evidence" in self._verdict.metrics else ():
                self._replay.add(doubted)
            self._doubted = []
        self._reused, self._payload, self._learned, self._returning = [], None, None, None

    def reject(self) -> None:
        """Drop the candidate and start again from the live weights.

        The optimizer keeps its moments: with fresh ones the first steps would be as long as the rates allow, and the next
        candidate likely no better. What was learned from is not replayed, unless its labels were doubted and it is proved that the shop
        has changed; items that were about to be shown too often are left out of the next rounds. Where the live weights have become
        worse than the gate's anchor, the next candidate starts from that.
        """
        if self._is_finite():
            self._candidate.copy_from(self.live)
        else:
            self._start()
        # Rows of items that came with the candidate are gone; histories that name them are of no more use.
        size = len(self.live.items)
        self._forget_rows(size, self._reused)
        self._ledger.take_back(size, self._reused)
        if self._learned is not None and self._verdict is not None and self._verdict.check == "labels":
            kept = self._learned.without_rows(size, np.array(self._reused, np.int64))
            self._doubted = [*self._doubted, kept][-MOST_DOUBTED:]
        self._reused, self._payload, self._learned = [], None, None
        self.gate.refused()
        if self._verdict is not None:
            self._surges.suspend(self._verdict.items)
            if self._verdict.check == "chain" or self._returning is not None:
                self._returning = self.gate.anchor.put_into(self._candidate)

    def _run(self, histories: Sequence[Sequence[HistoryEntry]], steps: int, shoppers: Numbers, fresh: Sequence[int] | None) -> Round:
        self._payload = None
        surging = self._notice_surges(histories, shoppers, fresh)
        if self._surges.suspended:
            histories, fresh = _without(histories, fresh, self._surges.suspended)
        put_back = self._put_back(surging)
        new_items, new_rows = self._add_new_items(histories)
        numbers, lengths = encode_numbers(histories, self._candidate.rows, self._length)
        # An empty history is encoded as one unknown step, of which there is nothing to learn.
        told = np.ones(len(lengths), np.int64) if fresh is None else np.asarray(fresh, np.int64)
        self._notice(numbers[:, :, 0], lengths, told)
        news = ((numbers[:, 1:, 0] != numbers[:, :-1, 0]) & (numbers[:, 1:, 0] != UNKNOWN)).any(axis=1)
        usable, told = KeptHistories(numbers, lengths, shoppers).only(news), told[news]
        if not len(usable):
            self._verdict = Verdict(False, "no history has two steps that differ", check="nothing")
            return Round(self._verdict, torch.from_numpy(new_rows), new_items, [], surging=surging)
        negatives, log_q = self._draw_negatives(), self._ledger.log_q(self._candidate.model.capacity)
        aside = self._random.random(len(usable)) < self.plan.held_back_share
        learned, kept = self._part(usable, aside)
        losses = np.empty(len(usable))
        for part, places in ((learned, ~aside), (kept, aside)):
            if len(part):
                losses[places] = last_news_losses(self._candidate.model, part, negatives, log_q).double().numpy()
        pulled = self._apply_instant_rules(usable, learned, told[~aside], new_rows)
        touched, made = self._learn(learned, steps, log_q)
        self._learned = learned
        self._hold_back(kept)
        returned = [] if self._returning is None else [self._returning]
        touched = torch.unique(torch.cat([*touched, pulled, torch.from_numpy(new_rows), put_back, *returned]))
        self._verdict = self._judge(
            Candidate(
                weights=self._candidate,
                live=self.live,
                touched=touched,
                reused=self._reused,
                negatives=negatives,
                log_q=log_q,
                learned_losses=losses[~aside],
                aside=kept,
                aside_losses=losses[aside],
                effort=max(1, made) * min(DRIFT_SCALE, self.rate_scale),
                returning=self._returning is not None,
            )
        )
        return Round(self._verdict, touched, new_items, losses.tolist(), aside.tolist(), made, np.flatnonzero(news).tolist(), surging)

    def _judge(self, candidate: Candidate) -> Verdict:
        return self.gate.judge(candidate)

    def _part(self, usable: KeptHistories, aside: Mask) -> tuple[KeptHistories, KeptHistories]:
        """Return what is learned and what is held back."""
        return usable.only(~aside), usable.only(aside)

    def _hold_back(self, kept: KeptHistories) -> None:
        """Keep histories for the gate, and replay those that are too old for it, but for the ones that it may have for good."""
        if self.gate.trusted.is_open:
            self.gate.trusted.offer(kept, self._random)
            self._set_apart += len(kept)
        oldest = self._held_back.add(kept)
        apart = min(self._set_apart, len(oldest))
        self._set_apart -= apart
        self._replay.add(oldest.only(np.arange(apart, len(oldest))))

    def _notice_surges(
        self, histories: Sequence[Sequence[HistoryEntry]], shoppers: Numbers, fresh: Sequence[int] | None
    ) -> tuple[str, ...]:
        """Return the items that begin to surge with these histories."""
        touched: dict[int, set[str]] = {}
        for place, (history, shopper) in enumerate(zip(histories, shoppers.tolist(), strict=True)):
            new = 1 if fresh is None else fresh[place]
            touched.setdefault(shopper, set()).update(entry.item_id for entry in history[len(history) - min(new, len(history)) :])
        return tuple(self._surges.notice(list(touched.values())))

    def _put_back(self, items: Sequence[str]) -> Tensor:
        """Give items the rows that they had at the gate's anchor; return the rows that were changed."""
        anchor = self.gate.anchor
        rows = torch.tensor([row for item in items if anchor.has(row := self._candidate.rows.get(item, UNKNOWN))], dtype=torch.int64)
        self._candidate.model.items.weight.detach()[rows] = anchor.model.items.weight.detach()[rows]
        return rows

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._candidate.model.parameters())

    def _start(self) -> None:
        self._candidate = ModelCopy(self.live.model.shape)
        self._candidate.copy_from(self.live)
        parameters = self._candidate.parameters
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
        share = self.plan.batch - round(self.plan.batch * self.replay_share) if len(self._replay) else self.plan.batch
        fresh = new.only(self._random.permutation(len(new))[:share])
        batch = joined([fresh, self._replay.draw(self._random, self.plan.batch - len(fresh))])
        kept = np.ones(len(batch), bool)
        for place, shopper in enumerate(batch.shoppers.tolist()):
            drawn[shopper] += 1
            kept[place] = drawn[shopper] <= allowed
        return batch.only(kept)


def _without(
    histories: Sequence[Sequence[HistoryEntry]], fresh: Sequence[int] | None, items: Set[str]
) -> tuple[list[list[HistoryEntry]], list[int]]:
    """Return the histories without their steps to these items, and how many of the last steps are new."""
    told = [1] * len(histories) if fresh is None else list(fresh)
    for place, history in enumerate(histories):
        told[place] -= sum(entry.item_id in items for entry in history[max(0, len(history) - told[place]) :])
    return [[entry for entry in history if entry.item_id not in items] for history in histories], [max(0, new) for new in told]
