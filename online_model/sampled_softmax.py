"""A softmax over the right item and sampled wrong ones (Bengio and Senécal, 2008), each logit lowered by the log of how often its
item is drawn (Yi et al., RecSys 2019)."""

import torch
from torch import Tensor
from torch.nn import functional

from headrace.online_model.transformer import NextItemTransformer

NEVER = -1e9


def log_shares(counts: Tensor) -> Tensor:
    """Return the log of the share at which each row is drawn, (rows,), from how often each came; every row has at least one share."""
    return ((counts + 1) / (counts.sum() + len(counts))).log()


def softmax_losses(model: NextItemTransformer, vectors: Tensor, targets: Tensor, negatives: Tensor, log_q: Tensor) -> Tensor:
    """Return the loss of each target, (targets,), from the vectors of what came before it, (targets, width).

    `targets` and `negatives` are rows of the item table; a negative that is the target itself does not count. `log_q` is (capacity,).
    """
    units = model.unit_items(torch.cat([targets, negatives]))
    return losses_of(vectors, units[: len(targets)], units[len(targets) :], targets, negatives, log_q[targets], log_q[negatives])


def losses_of(
    vectors: Tensor, right: Tensor, wrong: Tensor, targets: Tensor, negatives: Tensor, right_log_q: Tensor, wrong_log_q: Tensor
) -> Tensor:
    """Return the loss of each target where the unit vectors of the right items, (targets, width), and the wrong ones are at hand.

    `targets` and `negatives` number the items in any way in which the same item has the same number.
    """
    logits = (vectors * right).sum(dim=1) - right_log_q
    others = torch.addmm(-wrong_log_q, vectors, wrong.T).masked_fill_(negatives[None, :] == targets[:, None], NEVER)
    return functional.softplus(others.logsumexp(dim=1) - logits)
