"""The gate: whether candidate weights may go out. It judges what it is given and remembers what it has let through; it trains nothing.

A candidate is held against the live weights, and these against an anchor, the live weights of some rounds ago, so that neither a leap
nor a slide gets by. `weight_checks` looks at the numbers themselves, `exposure` at the lists of a panel of shoppers; the losses on
events that were held back, and on a trusted set, are compared pair by pair by `betting`.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.online_model.betting import Wealth, is_alarm
from headrace.online_model.chain_anchor import ChainAnchor
from headrace.online_model.exposure import LISTED, Counts, Panel, grown
from headrace.online_model.gate_state import BadGateState, GateState, Since, dense, sparse
from headrace.online_model.held_back import HeldBack
from headrace.online_model.history_ring import KeptHistories, joined
from headrace.online_model.judgement import Candidate, GatePlan, Losses, Refusal, Verdict
from headrace.online_model.label_levels import LabelLevels
from headrace.online_model.trusted_set import TrustedSet
from headrace.online_model.tuning_loss import last_news_losses
from headrace.online_model.weight_checks import is_finite, moves_of, vocabulary_fault
from headrace.online_model.weights import ModelCopy

__all__ = ["Candidate", "Gate", "GatePlan", "Verdict"]

FEWEST_EVENTS, FEWEST_LISTS = 8, 32
# The anchor is asked about the newest events when there are so many, since a few cost almost as much.
ASKED_TOGETHER = 32
# Answers that take less than this are never called slow.
SLOW_S = 0.005
NO_ROWS = torch.zeros(0, dtype=torch.int64)
NOTHING = np.zeros(0, np.int64)


class Gate:
    """Judges the candidates of one chain. After each verdict `accepted` or `refused` tells it the outcome.

    It changes a candidate in one way: an item that would be shown far more often than before gets its live row back, and only where that
    does not help is the candidate refused. `clock` tells seconds of processor time, which do not pass while others have the processor.
    """

    def __init__(
        self,
        live: ModelCopy,
        held_back: HeldBack,
        trusted: TrustedSet | None = None,
        plan: GatePlan | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self.plan = plan or GatePlan()
        self.trusted = trusted or TrustedSet()
        self.anchor = ChainAnchor(live, rounds=self.plan.anchor_rounds, alarm_rate=self.plan.chain_alarm_rate, reach=self.plan.chain_reach)
        self._held_back = held_back
        self._length = live.model.shape.length + 1
        self._clock = clock
        self._rounds = 0
        self._moves: deque[tuple[float, float]] = deque(maxlen=32)
        self._labels = LabelLevels(self.plan.labels_errors, self.plan.change_alarm_rate)
        self._times_s: deque[float] = deque(maxlen=32)
        # How many events were held back since the anchor was last asked about them.
        self._unasked = 0
        self._negatives, self._log_q = NO_ROWS, torch.zeros(0)
        self._panel = Panel(live.model, held_back.newest(0), 1)
        self._live_counts: Counts = np.zeros(0, np.int64)
        self._anchor_counts: Counts = np.zeros(0, np.int64)
        self._tried = self.trusted.histories(live.rows, self._length)
        self._live_trusted: Losses | None = None
        self._new = _New()

    def judge(self, candidate: Candidate) -> Verdict:
        """Return whether the candidate passes; the first check that it fails tells why not."""
        started_s = self._clock()
        self._rounds += 1
        self._new = _New()
        metrics: dict[str, float] = {}
        checks = (
            self._check_numbers,
            self._check_vocabulary,
            self._check_moves,
            self._check_labels,
            self._check_losses,
            self._check_trusted,
            self._check_exposure,
            self._check_chain,
        )
        refusal = next((found for check in checks if (found := check(candidate, metrics)) is not None), None)
        metrics["gate_ms"] = 1000.0 * (self._clock() - started_s)
        metrics = {name: float(value) for name, value in metrics.items()}
        loss, live_loss = metrics.pop("loss", None), metrics.pop("live_loss", None)
        if refusal is not None:
            return Verdict(False, refusal.reason, loss, live_loss, refusal.check, metrics, refusal.items)
        if loss is None or live_loss is None:
            told = f"fewer than {FEWEST_EVENTS} events are held back, too few to compare"
            return Verdict(True, told, metrics=metrics, items=self._new.put_back)
        told = f"the loss changes by {loss - live_loss:+.4f} on {metrics['held_back']:.0f} held-back events"
        return Verdict(True, told, loss, live_loss, metrics=metrics, items=self._new.put_back)

    def accepted(self, live: ModelCopy, touched: Tensor, reused: list[int]) -> None:
        """Go on from a candidate that has become the live weights, rounded for its way as it may be."""
        self.anchor.accepted(touched, reused)
        if self._new.moves is not None:
            self._moves.append(self._new.moves)
        self._labels.keep()
        if self._new.places is not None:
            self._held_back.live_losses[self._new.places] = self._new.losses
        self._live_trusted = self._new.trusted
        if self._new.counts is not None:
            self._panel.keep()
            self._live_counts = self._new.counts
        if reused:
            # These rows stand for other items now.
            self.trusted.forget_rows(len(live.items), np.array(reused, np.int64))
            self._tried, self._live_trusted = self.trusted.histories(live.rows, self._length), None
            for counts in (self._live_counts, self._anchor_counts):
                counts[[row for row in reused if row < len(counts)]] = 0
            self._negatives = NO_ROWS
        if self._rounds == self.plan.settle or self.anchor.is_due():
            self._begin_window(live)

    def refused(self) -> None:
        """Go on from the live weights as they were."""
        self._labels.drop()

    def returned(self, live: ModelCopy) -> None:
        """Let the anchor begin anew where the live weights have been put back to it."""
        self._begin_window(live)

    def state(self) -> GateState:
        """Return what it remembers between two rounds."""
        log_q = self._log_q.numpy()
        return GateState(
            rounds=self._rounds,
            unasked=self._unasked,
            moves=list(self._moves),
            times_s=list(self._times_s),
            labels=self._labels.state(),
            held_back=self._held_back.newest(len(self._held_back)),
            live_losses=self._held_back.live_losses[self._held_back.newest_places(len(self._held_back))],
            trusted=self.trusted.state(self._length),
            tried=self._tried,
            live_trusted=self._live_trusted,
            negatives=self._negatives.numpy(),
            log_q=sparse(log_q, float(log_q.min(initial=0.0))),
            panel=self._panel.state(),
            live_counts=sparse(self._live_counts),
            anchor_counts=sparse(self._anchor_counts),
            anchor=self.anchor.state(),
        )

    def restore(self, state: GateState, live: ModelCopy, since: Since | None = None) -> None:
        """Go on from a state that was taken with these live weights, or with those before the updates in `since`.

        These updates were judged when they came; of what was held back from them nothing is known. Raises BadGateState where the state
        does not fit; then the gate may not be used.
        """
        try:
            self._restore(state, live, since)
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise BadGateState(f"it does not fit the live weights: {error}") from None
        if since is not None and since.updates:
            for touched, reused in since.updates:
                self.anchor.accepted(touched, reused)
            self._catch_up(live, torch.unique(torch.cat([rows for rows, _ in since.updates])), since.reused)
        if state.anchor is None:
            self._begin_window(live)

    def _restore(self, state: GateState, live: ModelCopy, since: Since | None) -> None:
        held, tried = state.held_back.numbers[:, :, 0], state.tried.numbers[:, :, 0]
        for rows in (held, tried, state.negatives, state.panel.near, state.panel.steps[:, :, 0]):
            if rows.size and not 0 <= rows.min() <= rows.max() < live.model.capacity:
                raise ValueError("it names rows that the item table does not have")
        self._rounds, self._unasked = state.rounds, state.unasked
        self._moves.extend(state.moves)
        self._times_s.extend(state.times_s)
        self._labels.restore(state.labels)
        self._held_back.add(state.held_back)
        kept = self._held_back.newest_places(len(state.held_back))
        self._held_back.live_losses[kept] = state.live_losses[len(state.live_losses) - len(kept) :]
        if state.trusted is not None and not self.trusted.is_given:
            self.trusted.restore(state.trusted)
            self._tried, self._live_trusted = state.tried, state.live_trusted
        self._negatives, self._log_q = torch.from_numpy(state.negatives), torch.from_numpy(dense(state.log_q))
        self._panel.restore(state.panel)
        self._live_counts, self._anchor_counts = (dense(counts).astype(np.int64) for counts in (state.live_counts, state.anchor_counts))
        if state.anchor is not None:
            self.anchor.restore(state.anchor, since.model if since is not None else None)

    def _catch_up(self, live: ModelCopy, touched: Tensor, reused: list[int]) -> None:
        """Take anew what was known of the live weights, after updates that were not seen coming."""
        gone = np.array(reused, np.int64)
        self._held_back.forget_rows(len(live.items), gone)
        self._held_back.forget_losses()
        self.trusted.forget_rows(len(live.items), gone)
        self._tried, self._live_trusted = self.trusted.histories(live.rows, self._length), None
        self._negatives = NO_ROWS
        if len(self._panel):
            self._live_counts = self._panel.counts(live.model, touched)
            self._panel.keep()
            for counts in (self._live_counts, self._anchor_counts):
                counts[[row for row in reused if row < len(counts)]] = 0

    def _begin_window(self, live: ModelCopy) -> None:
        """Let the live weights be the anchor, with a panel of the newest shoppers, and take all losses anew."""
        self.anchor.renew(live)
        self._negatives = NO_ROWS
        self._held_back.forget_losses()
        if self._rounds >= self.plan.settle:
            self.trusted.close()
            self._tried = self.trusted.histories(live.rows, self._length)
            self._panel = Panel(live.model, self._held_back.newest(self.plan.panel).without_rows(len(live.items), NOTHING), len(live.items))
            self._live_counts = self._anchor_counts = self._panel.counts(live.model, NO_ROWS)
        self._live_trusted = None

    def _check_numbers(self, candidate: Candidate, metrics: dict[str, float]) -> Refusal | None:
        if is_finite(candidate.weights.model, candidate.touched) and np.isfinite(candidate.learned_losses).all():
            return None
        return Refusal("finite", "weights or losses are not finite numbers")

    def _check_vocabulary(self, candidate: Candidate, metrics: dict[str, float]) -> Refusal | None:
        fault = vocabulary_fault(candidate.weights, candidate.live, candidate.reused)
        return None if fault is None else Refusal("vocabulary", f"the items do not fit those of the live weights: {fault}")

    def _check_moves(self, candidate: Candidate, metrics: dict[str, float]) -> Refusal | None:
        if candidate.returning:
            reference, items = self.anchor.model, self.anchor.items
        else:
            reference, items = candidate.live.model, len(candidate.live.items)
        moves = moves_of(candidate.weights.model, reference, candidate.touched, items, candidate.reused)
        metrics |= {"dense_moved": moves.dense, "rows_moved": moves.rows, "rows_turned": moves.turned, "rows_shrunk": moves.shrunk}
        odd = self.plan.odd_rows + 3.0 / max(1, moves.compared)
        if moves.turned > odd:
            return Refusal(
                "vocabulary", f"{moves.turned:.1%} of {moves.compared} item rows point elsewhere, as if they stood for other items"
            )
        if moves.shrunk > odd:
            return Refusal("norms", f"{moves.shrunk:.1%} of {moves.compared} item rows have lost most of their length")
        known = list(self._moves)
        for_effort = moves.dense / candidate.effort, moves.rows / candidate.effort
        if len(known) >= FEWEST_EVENTS and not candidate.returning:
            usual = median(dense for dense, _ in known), median(rows for _, rows in known)
            for what, moved, before in (("dense weights", for_effort[0], usual[0]), ("item rows", for_effort[1], usual[1])):
                if before > 0.0 and moved > self.plan.moved_times * before:
                    return Refusal("norms", f"{what} have moved {moved / before:.1f} times as far as in the last rounds")
        self._new.moves = None if candidate.returning else for_effort
        return None

    def _check_labels(self, candidate: Candidate, metrics: dict[str, float]) -> Refusal | None:
        fault = self._labels.fault(candidate.learned_losses, candidate.aside_losses, metrics)
        return None if fault is None or self._rounds <= self.plan.settle else Refusal("labels", fault)

    def _check_losses(self, candidate: Candidate, metrics: dict[str, float]) -> Refusal | None:
        self._renew_negatives(candidate)
        events, places = self._held_back.newest(self.plan.events), self._held_back.newest_places(self.plan.events)
        known = events.names_only(len(candidate.live.items), np.array(candidate.reused, np.int64))
        events, places = events.only(known), places[known]
        if len(places) < FEWEST_EVENTS:
            return None
        # Both at once, which costs less than one after the other.
        both = self._losses(candidate.weights, joined([events, self._tried]))
        losses, self._new.trusted = both[: len(places)], both[len(places) :]
        if not np.isfinite(losses).all():
            return Refusal("finite", "weights or losses are not finite numbers")
        live_losses = self._held_back.live_losses
        unknown = np.nonzero(np.isnan(live_losses[places]))[0]
        if len(unknown):
            live_losses[places[unknown]] = self._losses(candidate.live, events.only(unknown))
        before = live_losses[places]
        evidence = Wealth(0.0, self.plan.reach).observe(losses - before)
        self._new.places, self._new.losses = places, losses
        metrics |= {"held_back": len(places), "loss": losses.mean(), "live_loss": before.mean(), "loss_evidence": evidence}
        if candidate.returning or not is_alarm(evidence, self.plan.loss_alarm_rate):
            return None
        return Refusal("losses", f"the loss rises by {(losses - before).mean():.4f} on {len(places)} held-back events")

    def _check_trusted(self, candidate: Candidate, metrics: dict[str, float]) -> Refusal | None:
        if not len(self._tried):
            return None
        losses = self._new.trusted if self._new.trusted is not None else self._losses(candidate.weights, self._tried)
        if self._live_trusted is None:
            self._live_trusted = self._losses(candidate.live, self._tried)
        rise = losses - self._live_trusted
        evidence = Wealth(self.plan.trusted_rise, self.plan.reach).observe(rise)
        self._new.trusted = losses
        metrics |= {"trusted_change": rise.mean(), "trusted_loss": losses.mean()}
        if candidate.returning or not is_alarm(evidence, self.plan.trusted_alarm_rate):
            return None
        return Refusal("trusted", f"the loss rises by {rise.mean():.4f} on {len(losses)} trusted histories")

    def _check_exposure(self, candidate: Candidate, metrics: dict[str, float]) -> Refusal | None:
        if len(self._panel) < FEWEST_LISTS:
            return None
        started_s = self._clock()
        counts = self._panel.counts(candidate.weights.model, candidate.touched)
        took_s = self._clock() - started_s
        pushed = self._pushed(candidate, counts)
        metrics["items_put_back"] = float(len(pushed))
        if pushed and not candidate.returning:
            rows = torch.tensor(sorted(pushed))
            candidate.weights.put_rows(rows, candidate.live.model.items.weight.detach()[rows])
            self._new.put_back = tuple(candidate.weights.items[row] for row in pushed)
            counts = self._panel.counts(candidate.weights.model, candidate.touched)
            # The other weights may have a smaller part in it, which is theirs in honest rounds as well.
            pushed = self._pushed(candidate, counts, 2.0)
        self._new.counts = counts
        if pushed:
            items = tuple(candidate.weights.items[row] for row in pushed)
            told = f"{items[0]!r} goes to {counts[min(pushed)]} of {len(self._panel)} lists, though its row was put back"
            return Refusal("exposure", f"{told} ({len(items)} such items)", items)
        return self._check_time(candidate, took_s, metrics)

    def _pushed(self, candidate: Candidate, counts: Counts, times: float = 1.0) -> list[int]:
        """Return the rows of items that stand in too many more lists than by the live weights or the anchor, of those that both know."""
        # In a small shop an item stands in many lists on average, and moves between them as freely.
        average = 2.0 * LISTED / len(candidate.live.items)
        limits = [(self._anchor_counts, self.plan.allowed_since_anchor + average)]
        if not candidate.returning:
            limits.append((self._live_counts, self.plan.allowed + average))
        found = {row for before, allowed in limits for row in grown(counts, before, self.plan.growth, times * allowed * len(self._panel))}
        reused = set(candidate.reused)
        return sorted(row for row in found if self.anchor.has(row) and row not in reused)

    def _check_time(self, candidate: Candidate, took_s: float, metrics: dict[str, float]) -> Refusal | None:
        metrics["answer_ms"] = 1000.0 * took_s
        usual_s = median(self._times_s) if self._times_s else took_s
        if len(self._times_s) >= FEWEST_EVENTS and took_s > max(SLOW_S, self.plan.slower_times * usual_s):
            # It may have been a moment's matter: both are measured again, in turns, and the fastest of each counts.
            ours, theirs = math.inf, math.inf
            for _ in range(5):
                ours = min(ours, self._time_of(candidate.live, candidate.touched))
                theirs = min(theirs, self._time_of(candidate.weights, candidate.touched))
            if theirs > max(SLOW_S, self.plan.slower_times * ours):
                return Refusal("latency", f"answers take {1000 * theirs:.1f} ms, by the live weights {1000 * ours:.1f} ms")
        self._times_s.append(took_s)
        return None

    def _check_chain(self, candidate: Candidate, metrics: dict[str, float]) -> Refusal | None:
        self._unasked = min(self._unasked + len(candidate.aside), self.plan.events)
        if self._rounds <= self.plan.settle or self._unasked < ASKED_TOGETHER:
            return None
        events, places = self._held_back.newest(self._unasked), self._held_back.newest_places(self._unasked)
        self._unasked = 0
        known = self.anchor.knows(events) & ~np.isnan(self._held_back.live_losses[places])
        if known.any():
            before = self.anchor.losses(events.only(known), self._negatives, self._log_q)
            alarm = self.anchor.observe(self._held_back.live_losses[places[known]] - before)
            metrics |= {"chain_change": self.anchor.change, "chain_evidence": self.anchor.evidence}
            if alarm and not candidate.returning:
                return Refusal(
                    "chain", f"the live weights have become worse by {self.anchor.change:.4f} in {self.anchor.age_rounds} rounds"
                )
        return None

    def _renew_negatives(self, candidate: Candidate) -> None:
        """Choose what losses are taken against: the same for as long as it can be, so that those of the live weights are known."""
        if len(self._negatives) and len(self._log_q) == candidate.weights.model.capacity and not candidate.reused:
            return
        # Only what the anchor knows as well, so that its losses can be compared with those of the live weights.
        drawn = candidate.negatives[candidate.negatives < min(len(candidate.live.items), self.anchor.items)]
        drawn = drawn[~torch.isin(drawn, torch.tensor(list(candidate.reused), dtype=torch.int64))]
        self._negatives = drawn[: self.plan.negatives]
        self._log_q = candidate.log_q
        self._held_back.forget_losses()
        self._live_trusted = None

    def _losses(self, copy: ModelCopy, events: KeptHistories) -> Losses:
        found: Losses = last_news_losses(copy.model, events, self._negatives, self._log_q).double().numpy()
        return found

    def _time_of(self, copy: ModelCopy, touched: Tensor) -> float:
        started_s = self._clock()
        self._panel.counts(copy.model, touched)
        return self._clock() - started_s


@dataclass
class _New:
    """What was found of a candidate, to be kept where it is accepted."""

    moves: tuple[float, float] | None = None
    places: NDArray[np.int64] | None = None
    losses: Losses | None = None
    trusted: Losses | None = None
    counts: Counts | None = None
    put_back: tuple[str, ...] = ()
