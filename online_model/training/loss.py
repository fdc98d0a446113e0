"""The loss of a batch of runs, as one module, so that DistributedDataParallel sees one forward pass."""

import torch
from torch import Tensor, nn

from headrace.online_model.sampled_softmax import losses_of
from headrace.online_model.training.batches import LearningBatch
from headrace.online_model.transformer import NextItemTransformer
from headrace.online_model.tuning_loss import TouchedRows


class SoftmaxLoss(nn.Module):
    """Sampled softmax as in fine-tuning, over the steps that a batch wants learned.

    The item table takes no part in the gradient itself: the rows that were touched do, as a leaf of their own.
    """

    def __init__(self, model: NextItemTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: LearningBatch, negatives: Tensor, log_q: Tensor) -> tuple[Tensor, TouchedRows]:
        """Return the weighted sum of the losses, in nats, and the rows whose `.vectors.grad` it leads to."""
        touched = TouchedRows(self.model, torch.cat([batch.steps.rows, batch.targets[:, -1:]], dim=1), negatives)
        touched.vectors.requires_grad_(True)
        units, shares = touched.units(), log_q[touched.rows]
        wanted = batch.weights > 0
        vectors = self.model.follow(units[touched.batch[:, :-1]], batch.steps)[wanted]
        targets, negatives = touched.batch[:, 1:][wanted], touched.negatives
        losses = losses_of(vectors, units[targets], units[negatives], targets, negatives, shares[targets], shares[negatives])
        return (batch.weights[wanted] * losses).sum(), touched
