"""What the gate is asked and what it answers, and the limits that a candidate must keep to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headrace.online_model.history_ring import KeptHistories
from headrace.online_model.weights import ModelCopy

Losses = NDArray[np.float64]


@dataclass(frozen=True)
class GatePlan:
    """What a candidate must keep to. A round is one call of `Gate.judge`.

    `loss_alarm_rate` is the chance that a candidate no worse than the live weights is refused for its losses on held-back events, of
    which the newest `events` are compared against `negatives` drawn items. `trusted_alarm_rate` is the same for the trusted set, where
    a rise of up to `trusted_rise` is let through, since the shop moves on from it. `chain_alarm_rate` is the chance that a chain of
    honest versions, however long, is ever called worse than its anchor, which is at least `anchor_rounds` rounds old before another
    takes its place. Differences of losses are clipped to plus or minus `reach`, those since the anchor to `chain_reach`.

    No item may stand in more than `growth` times as many of the `panel` lists as by the live weights and a share `allowed` of the lists
    more, or than by the anchor and `allowed_since_anchor`; to these shares comes twice that of an average item. Dense weights and rows
    may move at most `moved_times` as far, for the steps that were made, as in the median of the last rounds; at most a share `odd_rows`
    of the touched rows may turn or shrink; answers may take at most `slower_times` as long. A batch is not believed where its losses
    before learning lie `labels_errors` standard errors above those of the last rounds, unless what was held back from it and from such
    batches right before it proves that the shop itself has changed, which it does wrongly with a chance of `change_alarm_rate`.

    In the first `settle` rounds, in which all is new, only what is not finite, out of place or far worse is refused.
    """

    loss_alarm_rate: float = 0.005
    trusted_alarm_rate: float = 0.001
    trusted_rise: float = 0.1
    reach: float = 1.0
    chain_reach: float = 2.0
    chain_alarm_rate: float = 0.01
    anchor_rounds: int = 32
    events: int = 128
    negatives: int = 512
    panel: int = 64
    growth: float = 1.5
    allowed: float = 0.15
    allowed_since_anchor: float = 0.2
    moved_times: float = 4.0
    odd_rows: float = 0.01
    slower_times: float = 3.0
    labels_errors: float = 3.5
    change_alarm_rate: float = 0.01
    settle: int = 16


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate passes, and why or why not, in words.

    `check` names what refused it, `items` the ids of the items at fault, or of those whose rows were put back so that it passes,
    `metrics` what was measured.
    """

    passed: bool
    reason: str
    candidate_loss: float | None = None
    live_loss: float | None = None
    check: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """Weights to be judged, and what they were made from.

    `touched` are the rows of the item table that have changed, (rows,), `reused` those that stand for other items now. `negatives`
    (drawn,) and `log_q` (capacity,) are what losses are taken against. `learned_losses` are those of what was learned, before it was, and
    `aside_losses` those of `aside`, which was held back from the same batch. `effort` is how far it may have come: the steps that were
    made, times how much longer than usual each was meant to be. `returning` says that it comes from the anchor.
    """

    weights: ModelCopy
    live: ModelCopy
    touched: Tensor
    reused: Sequence[int]
    negatives: Tensor
    log_q: Tensor
    learned_losses: Losses
    aside: KeptHistories
    aside_losses: Losses
    effort: float = 1.0
    returning: bool = False


@dataclass(frozen=True)
class Refusal:
    """The check that refused a candidate, why, and the items at fault where there are such."""

    check: str
    reason: str
    items: tuple[str, ...] = ()
