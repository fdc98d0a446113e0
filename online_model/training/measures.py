"""How good a model is on examples that it has not learned: cross-entropy, HR@20 and NDCG@20 over the whole catalogue."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headrace.online_model.training.distributed import ALONE, Group, summed
from headrace.online_model.training.examples import Example
from headrace.online_model.transformer import UNKNOWN, StepBatch, encode, last_vectors
from headrace.online_model.weights import ModelCopy

BEST = 20
EVALUATED_TOGETHER = 256


class Questions(NamedTuple):
    """Histories (examples, length), and for each the rows of what followed and of its last item, (examples,); 0 is unknown."""

    histories: StepBatch
    targets: Tensor
    last: Tensor
    repeats: Tensor


class Measures(NamedTuple):
    """`hr` and `ndcg` over the `scored` examples; `loss`, in nats, over those of them whose target is in the catalogue."""

    loss: float | None
    hr: float | None
    ndcg: float | None
    scored: int


def questions_of(examples: Sequence[Example], copy: ModelCopy) -> Questions:
    """Return the examples that have a history, as the copy's network reads them."""
    asked = [example for example in examples if example.history]
    rows = copy.rows
    return Questions(
        encode([example.history for example in asked], rows, copy.model.shape.length),
        torch.tensor([rows.get(example.target.item_id, UNKNOWN) for example in asked], dtype=torch.long),
        torch.tensor([rows.get(example.history[-1].item_id, UNKNOWN) for example in asked], dtype=torch.long),
        torch.tensor([example.target.item_id == example.history[-1].item_id for example in asked], dtype=torch.bool),
    )


@torch.no_grad()
def measure(copy: ModelCopy, questions: Questions, group: Group = ALONE) -> Measures:
    """Ask the model, the work shared by the group.

    A history's last item is left out of its ranking, and a target that is this very item is not scored. A target that is not in
    the catalogue counts as missed. Of equal logits, and of such as are no numbers, the target's is taken for the lowest.
    """
    model, device = copy.model, copy.device
    was_training = model.training
    model.eval()
    catalogue = model.unit_items(torch.arange(1, len(copy.items), device=device)).T
    sums = torch.zeros(5, dtype=torch.float64)
    for places in torch.arange(group.rank, len(questions.targets), group.size).split(EVALUATED_TOGETHER):
        histories = StepBatch(*(numbers[places].to(device) for numbers in questions.histories))
        targets, last = questions.targets[places].to(device), questions.last[places].to(device)
        logits = last_vectors(model, histories) @ catalogue
        known = targets != UNKNOWN
        reached = logits.gather(1, (targets - 1).clamp_min(0)[:, None])
        scored = ~questions.repeats[places].to(device)
        losses = (logits.logsumexp(dim=1) - reached[:, 0])[known & scored]
        logits[torch.arange(len(last), device=device)[last != UNKNOWN], last[last != UNKNOWN] - 1] = -torch.inf
        before = (~(logits < reached)).sum(dim=1).double() - 1
        hits = (before < BEST) & known & scored
        gains = 1 / torch.log2(before[hits] + 2)
        counts = (known & scored).sum(), hits.sum(), scored.sum()
        sums += torch.stack([losses.sum().double(), gains.sum(), *(count.double() for count in counts)]).cpu()
    model.train(was_training)
    lost, gained, with_target, hit, scored_count = summed(sums.to(device), group).tolist()
    if not scored_count:
        return Measures(None, None, None, 0)
    return Measures(lost / with_target if with_target else None, hit / scored_count, gained / scored_count, int(scored_count))
