"""Bad updates, made on purpose: a tuner that spoils a round of its own as it is told, and what a plainer gate would have said."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.gate import Candidate, Verdict
from headrace.online_model.history_ring import KeptHistories, Mask
from headrace.online_model.resumable_tuner import ResumableTuner
from headrace.online_model.tuning_loss import last_news_losses
from headrace.online_model.weight_checks import is_finite

Random = np.random.Generator
# Spoils a candidate's weights in place and returns the rows that it has changed.
Spoil = Callable[[Candidate, Random], Tensor]

ZEROED_SHARE, ZEROED_POPULAR = 0.3, 100
RATE_SCALE = 1000.0
PLAIN_STANDARD_ERRORS = 1.645


class PlantedTuner(ResumableTuner):
    """Learns as usual until `plant` tells it what to do with its next round.

    `plain_passes` says afterwards whether a plain gate, a paired one-sided test at 5% on the held-back events, would have let the
    round's candidate through.
    """

    plain_passes = True
    _spoil: Spoil | None = None
    _mixes_labels = False
    _dice: Random = np.random.default_rng(0)

    def plant(self, kind: str, dice: Random) -> None:
        """Spoil the next round: in one of the two ways of a kind, by lot."""
        self._dice = dice
        self._spoil = _SPOILS.get(kind)
        self._mixes_labels = kind == "shuffled_labels"
        if kind == "learning_rate_x1000":
            self.rate_scale = RATE_SCALE

    def _part(self, usable: KeptHistories, aside: Mask) -> tuple[KeptHistories, KeptHistories]:
        learned, kept = super()._part(usable, aside)
        if self._mixes_labels:
            mix_targets(learned, self._dice)
        return learned, kept

    def _judge(self, candidate: Candidate) -> Verdict:
        if self._spoil is not None:
            changed = self._spoil(candidate, self._dice)
            candidate = replace(candidate, touched=torch.unique(torch.cat([candidate.touched, changed])))
        self.plain_passes = self._plain(candidate)
        return super()._judge(candidate)

    def _plain(self, candidate: Candidate) -> bool:
        if not is_finite(candidate.weights.model, candidate.touched):
            return False
        size = len(candidate.live.items)
        events = self._held_back.all().without_rows(size, np.array(candidate.reused, np.int64))
        if len(events) < 2:
            return True
        common = candidate.negatives[candidate.negatives < size]
        losses = [last_news_losses(copy.model, events, common, candidate.log_q).double() for copy in (candidate.weights, candidate.live)]
        difference = losses[0] - losses[1]
        return bool(float(difference.mean()) <= PLAIN_STANDARD_ERRORS * float(difference.std()) / math.sqrt(len(difference)))


def mix_targets(histories: KeptHistories, dice: Random) -> None:
    """Exchange the last items, those that are to be foreseen, among histories, in place."""
    last = np.arange(len(histories)), histories.lengths - 1
    histories.numbers[*last, 0] = dice.permutation(histories.numbers[*last, 0])


def _not_finite(candidate: Candidate, dice: Random) -> Tensor:
    value = float(dice.choice([math.nan, math.inf, -math.inf]))
    if dice.random() < 0.5:
        row = int(dice.choice(candidate.touched[candidate.touched > 0].numpy()))
        candidate.weights.model.items.weight.detach()[row, int(dice.integers(candidate.weights.model.shape.width))] = value
        return torch.tensor([row])
    with torch.no_grad():
        candidate.weights.model.positions[0, 0] = value
    return torch.zeros(0, dtype=torch.int64)


def _zeroed(candidate: Candidate, dice: Random) -> Tensor:
    items = len(candidate.live.items)
    if dice.random() < 0.5:
        rows = torch.from_numpy(1 + dice.permutation(items - 1)[: int(ZEROED_SHARE * items)])
    else:
        rows = _popular(candidate)[:ZEROED_POPULAR]
    candidate.weights.put_rows(rows, torch.zeros(len(rows), candidate.weights.model.shape.width))
    return rows


def _wrong_vocabulary(candidate: Candidate, dice: Random) -> Tensor:
    """Exchange the rows of all items, or of the 100 most popular, among each other; or the ids, while the rows stay."""
    every = torch.arange(1, len(candidate.live.items))
    drawn = dice.random()
    if drawn < 1 / 3:
        ids = candidate.weights.items[1 : len(candidate.live.items)]
        candidate.weights.items[1 : len(candidate.live.items)] = [ids[place] for place in dice.permutation(len(ids)).tolist()]
        return every
    rows = every if drawn < 2 / 3 else _popular(candidate)[:ZEROED_POPULAR]
    other = rows[torch.from_numpy(dice.permutation(len(rows)))]
    candidate.weights.put_rows(rows, candidate.weights.model.items.weight.detach()[other])
    return rows


def _popular(candidate: Candidate) -> Tensor:
    """Return the rows that are drawn most often, which are those of the most popular items."""
    return candidate.log_q[: len(candidate.live.items)].argsort(descending=True)


_SPOILS: dict[str, Spoil] = {"nan": _not_finite, "zeroed_rows": _zeroed, "wrong_vocabulary": _wrong_vocabulary}
