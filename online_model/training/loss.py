"""The loss of a batch of runs, as one module, so that DistributedDataParallel sees one forward pass."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.online_model.sampled_softmax import weighted_loss
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
        units, wanted = touched.units(), batch.weights > 0
        vectors = self.model.follow(functional.embedding(touched.batch[:, :-1], units), batch.steps)[wanted]
        compared = touched.compared(units, touched.batch[:, 1:][wanted], log_q)
        return weighted_loss(vectors, *compared, batch.weights[wanted]), touched
