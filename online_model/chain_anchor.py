"""The weights of some rounds ago, which the live ones must not fall below: what no single round shows, many rounds together do."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.online_model.betting import Wealth, is_alarm
from headrace.online_model.gate_state import MOST_ANCHOR_ROWS, AnchorState
from headrace.online_model.history_ring import KeptHistories, Mask
from headrace.online_model.step_batch import UNKNOWN, Numbers
from headrace.online_model.transformer import NextItemTransformer
from headrace.online_model.tuning_loss import last_news_losses
from headrace.online_model.weights import ITEM_TABLE, ModelCopy, dense_names


class ChainAnchor:
    """A copy of the live weights, and the evidence since then that the live ones have become worse than it.

    Each newly held-back event counts once, before anything was learned of it. An anchor is replaced by the live weights where these
    have been no worse on average over `rounds` rounds; else it stays, and the evidence adds up until it is replaced or gives alarm.
    The chance that any anchor of a chain ever gives alarm while the live weights are no worse is at most `alarm_rate`: the anchor of
    number k has 6 / (pi k)^2 of it.
    """

    def __init__(self, live: ModelCopy, *, rounds: int, alarm_rate: float, reach: float) -> None:
        self.model = deepcopy(live.model)
        self.items = len(live.items)
        self._rounds = rounds
        self._alarm_rate = alarm_rate
        self._reach = reach
        self._number = 0
        self._moved: list[Tensor] = []
        self._gone: set[int] = set()
        self._restart()

    @property
    def evidence(self) -> float:
        """The log of the wealth won by betting that the live weights are worse."""
        return self._wealth.log_best

    @property
    def change(self) -> float:
        """The mean change of the loss since the anchor, clipped."""
        return self._wealth.mean

    @property
    def age_rounds(self) -> int:
        """How many rounds were accepted since."""
        return self._age

    def has(self, row: int) -> bool:
        """Whether a row of the live weights stands for the same item as here."""
        return UNKNOWN < row < self.items and row not in self._gone

    def knows(self, histories: KeptHistories) -> Mask:
        """Return which histories name only items that the anchor has, (histories,)."""
        return histories.names_only(self.items, np.fromiter(self._gone, np.int64, len(self._gone)))

    def losses(self, histories: KeptHistories, negatives: Tensor, log_q: Tensor) -> NDArray[np.float64]:
        """Return the losses of histories that it knows, against items that it knows."""
        found: NDArray[np.float64] = last_news_losses(self.model, histories, negatives, log_q).double().numpy()
        return found

    def observe(self, changes: NDArray[np.float64]) -> bool:
        """Take in by how much the live weights' losses are higher on new events, (events,); return whether that gives alarm."""
        return is_alarm(self._wealth.observe(changes), self._alarm_rate * 6.0 / (np.pi * self._number) ** 2)

    def accepted(self, touched: Tensor, reused: Sequence[int]) -> None:
        """Note which rows of the live weights have changed, and which of them stand for other items now."""
        self._moved.append(touched)
        self._gone.update(reused)
        self._age += 1

    def is_due(self) -> bool:
        """Whether the live weights may take the anchor's place."""
        return self._age >= self._rounds and self._wealth.mean <= 0.0

    @torch.no_grad()
    def renew(self, live: ModelCopy) -> None:
        """Become equal to the live weights."""
        theirs = live.parameters
        rows = self.moved()
        self.model.grow(live.model.capacity)
        self.items = len(live.items)
        ours = dict(self.model.named_parameters())
        for name in dense_names(self.model):
            ours[name].copy_(theirs[name])
        ours[ITEM_TABLE].index_copy_(0, rows, theirs[ITEM_TABLE].detach()[rows])
        self._moved, self._gone = [], set()
        self._restart()

    def moved(self) -> Tensor:
        """Return the rows of the live weights that have changed since."""
        return torch.unique(torch.cat(self._moved)) if self._moved else torch.zeros(0, dtype=torch.int64)

    def put_into(self, copy: ModelCopy) -> Tensor:
        """Give a copy of the live weights those of the anchor, where both stand for the same items; return the rows that were changed."""
        theirs, ours = dict(self.model.named_parameters()), copy.parameters
        rows = self.moved()
        gone: Numbers = np.fromiter(self._gone, np.int64, len(self._gone))
        rows = rows[(rows < self.items) & ~torch.isin(rows, torch.from_numpy(gone))]
        with torch.no_grad():
            for name in dense_names(copy.model):
                ours[name].copy_(theirs[name])
            copy.put_rows(rows, theirs[ITEM_TABLE].detach()[rows])
        return rows

    def state(self) -> AnchorState | None:
        """Return what differs from the live weights, and the evidence; None where too many rows do."""
        moved = self.moved()
        if len(moved) > MOST_ANCHOR_ROWS:
            return None
        own = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        values = own[ITEM_TABLE][moved[moved < self.items]].numpy()
        dense = {name: own[name].numpy() for name in dense_names(self.model)}
        return AnchorState(self._number, self._age, self.items, dense, moved.numpy(), values, sorted(self._gone), self._wealth.state())

    @torch.no_grad()
    def restore(self, state: AnchorState, live: NextItemTransformer | None = None) -> None:
        """Become what a state of an anchor says.

        `live` has the live weights of the moment when it was taken, and is used up; None where these are what this anchor was made of.
        Raises KeyError, RuntimeError or ValueError where the state does not fit the model.
        """
        self.model = live if live is not None else self.model
        ours = dict(self.model.named_parameters())
        for name in dense_names(self.model):
            ours[name].copy_(torch.from_numpy(state.dense[name]))
        moved = torch.from_numpy(state.moved)
        ours[ITEM_TABLE].index_copy_(0, moved[moved < state.items], torch.from_numpy(state.values))
        self.items = state.items
        self._number, self._age = state.number, state.age
        self._moved, self._gone = [moved], set(state.gone)
        self._wealth.restore(state.wealth)

    def _restart(self) -> None:
        self._number += 1
        self._age = 0
        self._wealth = Wealth(0.0, self._reach)
