"""What a round of fine-tuning makes smaller: the sampled softmax over the rows that a batch touches.

Next click and next purchase are two objectives of one softmax: a step counts the more in the mean, the more what was done is worth.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from headrace.online_model.history_ring import KeptHistories
from headrace.online_model.last_vectors import vectors_after
from headrace.online_model.sampled_softmax import losses_of, weighted_loss
from headrace.online_model.step_batch import UNKNOWN, Numbers, StepBatch, as_batch
from headrace.online_model.transformer import NextItemTransformer

# A step to the same item again is never asked for, but tells how items are looked at: leaving such steps out, or counting them in full,
# was worse on one of two streams each (docs/model.md).
SAME_ITEM_WEIGHT = 0.25


class TouchedRows:
    """The rows of the item table that a batch and its negatives touch, (rows,), each once, with their vectors as one leaf tensor."""

    def __init__(self, model: NextItemTransformer, batch: Tensor, negatives: Tensor) -> None:
        self.rows, places = torch.unique(torch.cat([batch.flatten(), negatives]), return_inverse=True)
        self.batch = places[: batch.numel()].view(batch.shape)
        self.negatives = places[batch.numel() :]
        self.vectors = model.items.weight.detach()[self.rows]

    def units(self) -> Tensor:
        """Return the vectors at length 1, that of the unknown item as 0."""
        units: Tensor = functional.normalize(self.vectors, dim=1) * (self.rows != UNKNOWN).unsqueeze(1)
        return units

    def compared(self, units: Tensor, targets: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what `losses_of` and `weighted_loss` are told behind the vectors, for `targets`, (targets,), places among the rows.

        `units` are those of `units`, and `log_q` is (capacity,).
        """
        shares = log_q[self.rows]
        right, wrong = functional.embedding(targets, units), functional.embedding(self.negatives, units)
        return right, wrong, targets, self.negatives, shares[targets], shares[self.negatives]

    def vectors_after(self, model: NextItemTransformer, units: Tensor, numbers: Numbers, lengths: Numbers) -> Tensor:
        """Return the vector after the first `lengths` steps of each history of the batch, (batch, width), without gradients.

        `numbers`, (batch, longest, 5), are those that the batch was taken from, or their first columns.
        """
        placed = np.concatenate([self.batch.numpy()[:, : numbers.shape[1], None], numbers[:, :, 1:]], axis=2)
        return vectors_after(model, units, placed, lengths)


def training_loss(
    model: NextItemTransformer, histories: KeptHistories, negatives: Tensor, log_q: Tensor, kind_weights: Tensor
) -> tuple[Tensor, TouchedRows]:
    """Return the mean loss of all steps that have one before them, and the rows whose `.vectors.grad` it leads to.

    A step counts by the weight of its kind, and a quarter of that where it is of the same item as the step before. `kind_weights` is
    (kinds,), `log_q` is (capacity,).
    """
    steps = as_batch(histories.numbers, histories.lengths)
    touched = TouchedRows(model, steps.rows, negatives)
    touched.vectors.requires_grad_(True)
    units = touched.units()
    targets = steps.rows[:, 1:]
    known = targets != UNKNOWN
    # Looked up as in an embedding: the gradient of plain indexing is several times as slow.
    places = known.flatten().nonzero()[:, 0]
    vectors = model.follow(functional.embedding(touched.batch[:, :-1], units), _shortened(steps)).flatten(0, 1).index_select(0, places)
    weights = kind_weights[steps.kinds[:, 1:][known]] * torch.where(_news(steps)[known], 1.0, SAME_ITEM_WEIGHT)
    compared = touched.compared(units, touched.batch[:, 1:][known], log_q)
    return weighted_loss(vectors, *compared, weights / weights.sum()), touched


@torch.no_grad()
def last_news_losses(model: NextItemTransformer, histories: KeptHistories, negatives: Tensor, log_q: Tensor) -> Tensor:
    """Return the loss of each history's last step that differs from the step before it, (histories,); each must have one."""
    steps = as_batch(histories.numbers, histories.lengths)
    touched = TouchedRows(model, steps.rows, negatives)
    units = touched.units()
    news = _news(steps)
    last = news.shape[1] - 1 - news.flip(1).int().argmax(dim=1)
    every = torch.arange(len(news))
    # What follows the last column is not known.
    vectors = touched.vectors_after(model, units, histories.numbers[:, :-1], (last + 1).numpy())
    return losses_of(vectors, *touched.compared(units, touched.batch[every, last + 1], log_q))


def _news(steps: StepBatch) -> Tensor:
    """Return which steps but the first are of another item than the one before, (batch, length - 1)."""
    return (steps.rows[:, 1:] != UNKNOWN) & (steps.rows[:, 1:] != steps.rows[:, :-1])


def _shortened(steps: StepBatch) -> StepBatch:
    """Return the steps but the last column; what follows it is not known."""
    rows, kinds, gaps, prices, categories = (numbers[:, :-1] for numbers in steps[:5])
    return StepBatch(rows, kinds, gaps, prices, categories, steps.lengths - 1)
