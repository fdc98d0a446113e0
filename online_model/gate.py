"""The gate: whether candidate weights may go out. A pure judgement over losses on events that were held back from training."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WORSE_BY_STANDARD_ERRORS = 1.645
WORSE_WHEN_FEW = 5.0
ENOUGH_EVENTS, FEWEST_EVENTS = 64, 8


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate passes, and why or why not, in words."""

    passed: bool
    reason: str
    candidate_loss: float | None = None
    live_loss: float | None = None


def judge(candidate_losses: Tensor, live_losses: Tensor, finite: bool) -> Verdict:
    """Compare a candidate with the live weights on the same held-back events, pair by pair; both losses are (events,).

    It fails when its numbers are not finite, or when its mean loss is higher by more than 1.645 standard errors of the paired
    differences (a one-sided test at 5%). With fewer than 64 held-back events, as at the start of a shop, when each round moves the
    weights far, only a rise of 5 standard errors fails; with fewer than 8 nothing can be said, and a finite candidate passes.
    """
    if not finite or not bool(torch.isfinite(candidate_losses).all()):
        return Verdict(False, "weights or losses are not finite numbers")
    if len(candidate_losses) < FEWEST_EVENTS:
        return Verdict(True, f"only {len(candidate_losses)} events are held back, too few to compare")
    difference = (candidate_losses - live_losses).double()
    mean = float(difference.mean())
    error = float(difference.std()) / math.sqrt(len(difference))
    candidate, live = float(candidate_losses.mean()), float(live_losses.mean())
    limit = WORSE_BY_STANDARD_ERRORS if len(difference) >= ENOUGH_EVENTS else WORSE_WHEN_FEW
    if mean > limit * error:
        return Verdict(
            False, f"the loss rises by {mean:.4f} (standard error {error:.4f}) on {len(difference)} held-back events", candidate, live
        )
    return Verdict(True, f"the loss changes by {mean:+.4f} on {len(difference)} held-back events", candidate, live)
