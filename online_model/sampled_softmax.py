"""A softmax over the right item and sampled wrong ones (Bengio and Senécal, 2008), each logit lowered by the log of how often its
item is drawn (Yi et al., RecSys 2019)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

NEVER = -1e9
# Logits that are kept at once while learning, 1 MiB: what leaves the processor's cache before it is used again takes twice the time.
LOGITS_TOGETHER = 1 << 18


def log_shares(counts: Tensor) -> Tensor:
    """Return the log of the share at which each row is drawn, (rows,), from how often each came; every row has at least one share."""
    return ((counts + 1) / (counts.sum() + len(counts))).log()


def losses_of(
    vectors: Tensor, right: Tensor, wrong: Tensor, targets: Tensor, negatives: Tensor, right_log_q: Tensor, wrong_log_q: Tensor
) -> Tensor:
    """Return the loss of each target where the unit vectors of the right items, (targets, width), and the wrong ones are at hand.

    `targets` and `negatives` number the items in any way in which the same item has the same number.
    """
    logits = (vectors * right).sum(dim=1) - right_log_q
    others = torch.addmm(-wrong_log_q, vectors, wrong.T).masked_fill_(negatives[None, :] == targets[:, None], NEVER)
    return functional.softplus(others.logsumexp(dim=1) - logits)


def weighted_loss(
    vectors: Tensor,
    right: Tensor,
    wrong: Tensor,
    targets: Tensor,
    negatives: Tensor,
    right_log_q: Tensor,
    wrong_log_q: Tensor,
    weights: Tensor,
) -> Tensor:
    """Return the sum of `weights`, (targets,), times `losses_of`, to learn from: gradients go to `vectors`, `right` and `wrong`.

    They are worked out along with the loss, some targets at a time, so that no matrix of (targets, negatives) is ever whole.
    """
    with torch.no_grad():
        count, together = len(targets), len(targets)
        if vectors.device.type == "cpu":
            together = max(1, LOGITS_TOGETHER // max(1, len(negatives)))
        to_vectors, to_wrong = torch.empty_like(vectors), torch.zeros_like(wrong)
        # How much more each right item should have been expected, times its weight.
        missed = torch.empty_like(right_log_q)
        loss = vectors.new_zeros(())
        own, doubles = _same(targets, negatives)
        bounds = range(0, count, together)
        ends = torch.searchsorted(own, torch.tensor([*bounds, count], device=own.device)).tolist()
        room = vectors.new_empty(min(count, together), len(negatives))
        for number, first in enumerate(bounds):
            part = slice(first, min(count, first + together))
            asked, pairs = vectors[part], slice(ends[number], ends[number + 1])
            logits = torch.addmm(-wrong_log_q, asked, wrong.T, out=room[: len(asked)])
            logits[own[pairs] - first, doubles[pairs]] = NEVER
            logit = (asked * right[part]).sum(dim=1) - right_log_q[part]
            highest = torch.maximum(logits.amax(dim=1), logit) if len(negatives) else logit
            chances = logits.sub_(highest[:, None]).exp_()
            chance = (logit - highest).exp_()
            total = chances.sum(dim=1).add_(chance)
            loss += weights[part] @ (total.log() + highest - logit)
            missed[part] = (chance / total - 1.0) * weights[part]
            chances.mul_((weights[part] / total)[:, None])
            torch.mm(chances, wrong, out=to_vectors[part])
            to_wrong.addmm_(chances.T, asked)
        to_vectors.addcmul_(missed[:, None], right)
    handed: Tensor = _Handed.apply(loss, to_vectors, missed[:, None] * vectors.detach(), to_wrong, vectors, right, wrong)
    return handed


class _Handed(torch.autograd.Function):
    """A loss whose gradients are known: passes them on to what it was worked out from."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, to_vectors: Tensor, to_right: Tensor, to_wrong: Tensor, *learned: Tensor) -> Tensor:
        ctx.save_for_backward(to_vectors, to_right, to_wrong)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *scale: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *(gradient * scale[0] for gradient in ctx.saved_tensors)


def _same(targets: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return all pairs of a target, ascending, and a negative that are the same item, by their places."""
    order = negatives.argsort()
    ordered = negatives[order]
    first = torch.searchsorted(ordered, targets)
    counts = torch.searchsorted(ordered, targets, right=True) - first
    own = torch.repeat_interleave(counts)
    number = torch.arange(len(own), device=own.device) - (counts.cumsum(dim=0) - counts)[own]
    return own, order[first[own] + number]
