"""Full training of the Transformer: epochs of batches, evaluations by time-split validation, early stopping, checkpoints.

Every random choice is a function of the seed, the epoch and the step. So a run that goes on from a checkpoint takes the same steps
as one that was never interrupted.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from headrace.online_model.sampled_softmax import log_shares
from headrace.online_model.training.batches import LearningBatch, batch_of, batches_of_epoch, encode_runs
from headrace.online_model.training.checkpoints import CannotResume, Checkpoint, Position, newest_checkpoint, write_checkpoint
from headrace.online_model.training.distributed import ALONE, Group, spread, summed, summed_rows, wait_for_all
from headrace.online_model.training.early_stopping import EarlyStopping
from headrace.online_model.training.examples import Example, reached_offsets, rows_of, runs_of, split_by_time
from headrace.online_model.training.loss import SoftmaxLoss
from headrace.online_model.training.measures import measure, questions_of
from headrace.online_model.training.optimizers import DENSE, TABLE, Kept
from headrace.online_model.training.plan import Evaluation, TrainingPlan, losses_of
from headrace.online_model.training.schedules import schedule_of
from headrace.online_model.transformer import NextItemTransformer, TransformerShape
from headrace.online_model.weights import ITEM_TABLE, ModelCopy

# Told the steps done, the steps of all epochs, and what else is worth a word.
Progress = Callable[[int, int, str], object]
MODEL = "model."


class Diverged(ValueError):
    """The loss is no number any more, and there are no better weights to return to."""


@dataclass(frozen=True)
class Trained:
    """The weights of the best evaluation, the curve, and the number of that evaluation; None without any measured.

    `ended` is 'epochs', 'patience' or 'diverged'; `offsets` tell, by source partition, how far the stream was learned.
    """

    copy: ModelCopy
    curve: list[Evaluation]
    best: int | None
    ended: str
    offsets: dict[str, int]
    training: int
    validation: int


class FullTraining:
    """One run. `examples` are split by time; `device` is where the network lies, `group` who else works on the same run.

    Raises TooFewExamples.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        plan: TrainingPlan,
        shape: TransformerShape | None = None,
        *,
        device: torch.device | None = None,
        group: Group = ALONE,
    ) -> None:
        split = split_by_time(examples, plan.validation_share)
        self.plan, self._group = plan, group
        self._device = device or torch.device("cpu")
        torch.manual_seed(plan.seed)
        self.copy = ModelCopy(shape, self._device)
        self.copy.add_items(list(rows_of(split.training)))
        self.copy.model.requires_grad_(True).train()
        length = self.copy.model.shape.length
        weights = torch.tensor([1.0, plan.cart_weight, plan.purchase_weight])
        self._runs = encode_runs(runs_of(split.training, length), self.copy.rows, length, weights)
        self._targets = self._runs.steps.rows[self._runs.weights > 0]
        counts = torch.bincount(self._targets, minlength=self.copy.model.capacity).float()
        self._log_q = log_shares(counts).to(self._device)
        self._questions = questions_of(split.validation, self.copy)
        self._sizes = len(split.training), len(split.validation)
        self._offsets = reached_offsets(split.training)
        parameters = dict(self.copy.model.named_parameters())
        self._dense_optimizer = DENSE[plan.optimizer](parameter for name, parameter in parameters.items() if name != ITEM_TABLE)
        self._table_optimizer = TABLE[plan.table_optimizer](parameters[ITEM_TABLE])
        self._loss = spread(SoftmaxLoss(self.copy.model), MODEL + ITEM_TABLE, group)
        self._steps_an_epoch = len(self._batches(0))
        self._schedule = schedule_of(plan.schedule, self._steps_an_epoch * plan.epochs, plan.warm_up)
        self._stopping = EarlyStopping(plan.patience)
        self._epoch = self._batch = self._step = 0
        self._curve: list[Evaluation] = []
        self._best = self._weights()
        self._summed, self._weight = torch.zeros((), dtype=torch.float64, device=self._device), 0.0
        self._started_s = time.monotonic()

    def run(self, checkpoints: Path | None = None, progress: Progress = lambda done, total, told: None) -> Trained:
        """Train until the epochs are over or early stopping ends it, and return the weights of the best evaluation.

        A checkpoint is written into the folder `checkpoints` after each evaluation. Raises Diverged, OSError.
        """
        total = self._steps_an_epoch * self.plan.epochs
        if not self._curve:
            self._evaluate()
        while (ended := self._ended()) is None:
            batches = self._batches(self._epoch)
            self._learn(batches[self._batch])
            self._batch, self._step = self._batch + 1, self._step + 1
            if self._batch == len(batches):
                self._epoch, self._batch = self._epoch + 1, 0
            if self._batch == 0 or (self.plan.evaluate_every and self._step % self.plan.evaluate_every == 0):
                self._evaluate()
                if checkpoints is not None:
                    self._write(checkpoints)
            progress(self._step, total, self._curve[-1].line())
        if ended == "diverged" and self._stopping.best(losses_of(self._curve)) in (None, 0):
            raise Diverged(f"the loss is not a finite number after {self._step} steps; a lower rate or a longer warm-up may help")
        _load(self.copy.model, self._best)
        self.copy.model.requires_grad_(False).eval()
        self.copy.renew_units()
        best = self._stopping.best(losses_of(self._curve))
        return Trained(self.copy, self._curve, best, ended, self._offsets, *self._sizes)

    def resume(self, checkpoints: Path) -> None:
        """Go on from the newest checkpoint of the folder. Raises CannotResume where it is of another run, or there is none."""
        found = newest_checkpoint(checkpoints)
        position = found.position
        # How long it goes on and when it is evaluated may be told anew; with all else different it would not be the same run.
        asked = msgspec.structs.replace(self.plan, epochs=position.plan.epochs, patience=position.plan.patience)
        if position.plan != asked:
            raise CannotResume(f"{checkpoints}: its run has the plan {position.plan}, here is {self.plan}; give the same options")
        if position.data != self._data():
            raise CannotResume(f"{checkpoints}: its run had other examples or a network of another shape; give the same file and options")
        _load(self.copy.model, found.weights)
        self._best = dict(found.best)
        for prefix, optimizer in self._optimizers().items():
            optimizer.load({name.removeprefix(prefix): tensor for name, tensor in found.optimizers.items() if name.startswith(prefix)})
        self._epoch, self._batch, self._step, self._curve = position.epoch, position.batch, position.step, list(position.curve)
        self._started_s = time.monotonic() - (self._curve[-1].seconds if self._curve else 0.0)

    def _learn(self, picks: Tensor) -> None:
        weight = float(self._runs.weights[picks].sum())
        batch = self._share_of(picks)
        drawn = torch.Generator().manual_seed((self.plan.seed * 1_000_003 + self._step) * 2 + 1)
        negatives = self._targets[torch.randint(len(self._targets), (self.plan.negatives,), generator=drawn)].to(self._device)
        # What dropout leaves out differs between the processes of a group, and is the same after a checkpoint.
        torch.manual_seed((self.plan.seed * 1_000_003 + self._step) * self._group.size + self._group.rank)
        loss, touched = self._loss(batch, negatives, self._log_q)
        # DDP averages over the group: so the gradient is that of the mean over all targets of the batch.
        (loss * self._group.size / weight).backward()
        rows, gradient = summed_rows(touched.rows, touched.vectors.grad / self._group.size, self._group)
        factor = self._factor()
        self._dense_optimizer.step(self.plan.dense_rate_used * factor)
        self._table_optimizer.step(rows, gradient, self.plan.table_rate_used * factor)
        self._summed += loss.detach()
        self._weight += weight

    def _evaluate(self) -> None:
        found = measure(self.copy, self._questions, self._group)
        learned = float(summed(self._summed, self._group)) / self._weight if self._weight else None
        point = Evaluation(
            epoch=round(self._step / self._steps_an_epoch, 4),
            step=self._step,
            rate_factor=self._factor(),
            train_loss=learned,
            loss=found.loss,
            hr20=found.hr,
            ndcg20=found.ndcg,
            scored=found.scored,
            seconds=round(time.monotonic() - self._started_s, 3),
        )
        self._curve.append(point)
        self._summed.zero_()
        self._weight = 0.0
        # Without any validation the last weights are the ones to keep.
        if found.loss is None or self._stopping.improved(losses_of(self._curve)):
            self._best = self._weights()

    def _ended(self) -> str | None:
        last = self._curve[-1]
        if any(loss is not None and not -torch.inf < loss < torch.inf for loss in (last.loss, last.train_loss)):
            return "diverged"
        if self._epoch >= self.plan.epochs:
            return "epochs"
        return "patience" if last.loss is not None and self._stopping.is_over(losses_of(self._curve)) else None

    def _factor(self) -> float:
        return self._schedule.factor(self._step, losses_of(self._curve))

    def _share_of(self, picks: Tensor) -> LearningBatch:
        """Return what this process learns of a batch: nothing, but with the same shapes, where there are fewer runs than processes."""
        share = picks[self._group.rank :: self._group.size]
        batch = batch_of(self._runs, share if len(share) else picks[:1], self._device)
        return batch if len(share) else batch._replace(weights=torch.zeros_like(batch.weights))

    def _batches(self, epoch: int) -> list[Tensor]:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, batches_of_epoch(self._runs.steps.lengths, self.plan.batch, self.plan.seed, epoch)
        return self._order[1]

    _order: tuple[int, list[Tensor]] | None = None

    def _optimizers(self) -> dict[str, Kept]:
        return {"dense.": self._dense_optimizer, "table.": self._table_optimizer}

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self.copy.model.named_parameters()}

    def _write(self, checkpoints: Path) -> None:
        if self._group.leads:
            state = {prefix + name: slot for prefix, optimizer in self._optimizers().items() for name, slot in optimizer.state().items()}
            position = Position(
                plan=self.plan,
                data=self._data(),
                epoch=self._epoch,
                batch=self._batch,
                step=self._step,
                curve=self._curve,
                offsets=self._offsets,
            )
            write_checkpoint(checkpoints, Checkpoint(position, self._weights(), self._best, state))
        wait_for_all(self._group)

    def _data(self) -> str:
        """Return a name of what is learned from, and by which network."""
        told = hashlib.sha256(repr((self.copy.model.shape, self._sizes)).encode())
        told.update("\n".join(self.copy.items).encode())
        for numbers in (*self._runs.steps, self._runs.weights, self._questions.targets):
            told.update(numbers.numpy().tobytes())
        return told.hexdigest()


@torch.no_grad()
def _load(model: NextItemTransformer, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
