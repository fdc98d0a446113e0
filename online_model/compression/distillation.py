"""A student of half the width that learns from the data and from its teacher (Hinton et al., "Distilling the knowledge", 2015).

It starts from the teacher's unit vectors in the directions in which they vary most. For each step it is told the item that came
(`sampled_softmax`) and the teacher's chances among the items of a sample: those drawn as negatives, and the teacher's own best for some of
the steps, which are the ones that are easy to mix up. Its temperature is higher, since in fewer directions vectors lie closer together.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from headrace.online_model.lazy_adam import Adam, LazyAdam
from headrace.online_model.sampled_softmax import log_shares, losses_of
from headrace.online_model.scorer import search
from headrace.online_model.training.batches import EncodedRuns, LearningBatch, batch_of, batches_of_epoch, encode_runs
from headrace.online_model.training.examples import Example, TooFewExamples, runs_of
from headrace.online_model.transformer import UNKNOWN, TransformerShape
from headrace.online_model.tuning_loss import TouchedRows
from headrace.online_model.weights import ITEM_TABLE, ModelCopy, dense_names

# Told the steps done, of how many, and what else is worth a word.
Progress = Callable[[int, int, str], object]
KIND_WEIGHTS = (1.0, 1.5, 2.0)


@dataclass(frozen=True)
class DistillationPlan:
    """How a student learns: `steps` optimizer steps on batches of `batch` runs, with `negatives` items drawn for each.

    For `taught_best` steps of a batch the teacher's `best` items join the sample. Rates fall along half a cosine to `last_rate` of what
    they were. The student's temperature is the teacher's times `sharper`. `teacher_weight` is what the teacher counts beside the data.
    """

    steps: int = 6000
    batch: int = 128
    negatives: int = 1024
    taught_best: int = 64
    best: int = 16
    dense_rate: float = 3e-3
    item_rate: float = 3e-2
    last_rate: float = 0.02
    sharper: float = 1.4
    teacher_weight: float = 1.0
    seed: int = 1


def student_shape(teacher: TransformerShape, sharper: float) -> TransformerShape:
    """Return the shape of a student: half as wide, with heads that still divide the width; dropout is not needed beside a teacher."""
    width = max(2, teacher.width // 2)
    heads = math.gcd(teacher.heads, width)
    return replace(teacher, width=width, heads=heads, temperature=round(teacher.temperature * sharper, 3), dropout=0.0)


class Distillation:
    """One student of one teacher. `examples` are steps to learn, each with the history before it; the teacher may have learned them too.

    Raises TooFewExamples where no target is an item that the teacher knows.
    """

    def __init__(self, teacher: ModelCopy, examples: Iterable[Example], plan: DistillationPlan | None = None) -> None:
        self.teacher, self.plan = teacher, plan or DistillationPlan()
        length = teacher.model.shape.length
        self._runs = _known(encode_runs(runs_of(examples, length), teacher.rows, length, torch.tensor(KIND_WEIGHTS)))
        self._targets = self._runs.steps.rows[self._runs.weights > 0]
        if not len(self._targets):
            raise TooFewExamples("examples: at least one step to an item that the teacher knows, with a history before it, was expected")
        self.student = _first_student(teacher, self.plan)
        self.student.model.requires_grad_(True).train()
        counts = torch.bincount(self._targets, minlength=self.student.model.capacity).float()
        self._log_q = log_shares(counts)
        parameters = self.student.parameters
        self._dense = Adam([parameters[name] for name in dense_names(self.student.model)], self.plan.dense_rate)
        self._table = LazyAdam(parameters[ITEM_TABLE], self.plan.item_rate)
        self._draw = torch.Generator().manual_seed(self.plan.seed)

    def run(self, progress: Progress = lambda done, total, told: None) -> ModelCopy:
        """Let the student learn, and return it; version and hash are the teacher's."""
        done, epoch, steps = 0, 0, self.plan.steps
        while done < steps:
            for picks in batches_of_epoch(self._runs.steps.lengths, self.plan.batch, self.plan.seed, epoch)[: steps - done]:
                loss = self._learn(batch_of(self._runs, picks, torch.device("cpu")), _rate(done / steps, self.plan.last_rate))
                done += 1
                progress(done, steps, f"loss {loss:.3f}")
            epoch += 1
        self.student.model.requires_grad_(False).eval()
        self.student.renew_units()
        self.student.version, self.student.sha256 = self.teacher.version, self.teacher.sha256
        return self.student

    def _learn(self, batch: LearningBatch, rate: float) -> float:
        wanted = batch.weights > 0
        weights = batch.weights[wanted]
        with torch.no_grad():
            taught = self.teacher.model(batch.steps)[wanted]
        drawn = self._targets[torch.randint(len(self._targets), (self.plan.negatives,), generator=self._draw)]
        sample = torch.cat([drawn, self._best(taught)])
        touched = TouchedRows(self.student.model, torch.cat([batch.steps.rows, batch.targets[:, -1:]], dim=1), sample)
        touched.vectors.requires_grad_(True)
        units, shares = touched.units(), self._log_q[touched.rows]
        said = self.student.model.follow(functional.embedding(touched.batch[:, :-1], units), batch.steps)[wanted]
        targets, negatives = touched.batch[:, 1:][wanted], touched.negatives[: len(drawn)]
        right, wrong = functional.embedding(targets, units), functional.embedding(negatives, units)
        losses = losses_of(said, right, wrong, targets, negatives, shares[targets], shares[negatives])
        among = torch.unique(touched.negatives)
        theirs = self.teacher.units[touched.rows]
        losses = losses + self.plan.teacher_weight * _divergences(
            _logits(taught, theirs, among, targets), _logits(said, units, among, targets)
        )
        loss = (weights * losses).sum() / weights.sum()
        loss.backward()
        self._dense.step(rate)
        if touched.vectors.grad is not None:
            self._table.step(touched.rows, touched.vectors.grad, rate)
        return float(loss.detach())

    def _best(self, taught: Tensor) -> Tensor:
        """Return the teacher's best items for some of the steps, each once."""
        picked = taught[torch.randperm(len(taught), generator=self._draw)[: self.plan.taught_best]]
        best, _ = search(self.teacher, picked, self.plan.best, normalised=False)
        items: Tensor = torch.unique(best.rows)
        return items


def _first_student(teacher: ModelCopy, plan: DistillationPlan) -> ModelCopy:
    shape = student_shape(teacher.model.shape, plan.sharper)
    student = ModelCopy(shape, seed=plan.seed)
    student.add_items(teacher.items[1:])
    units = teacher.units[1 : len(teacher.items)].cpu()
    # The eigenvectors of the largest eigenvalues come last.
    directions = torch.linalg.eigh(units.T @ units).eigenvectors[:, -shape.width :]
    student.put_rows(torch.arange(1, len(teacher.items)), functional.normalize(units @ directions, dim=1))
    return student


def _known(runs: EncodedRuns) -> EncodedRuns:
    """Return the runs with no weight for targets that the teacher does not know."""
    return runs._replace(weights=torch.where(runs.steps.rows == UNKNOWN, 0.0, runs.weights))


def _logits(vectors: Tensor, units: Tensor, among: Tensor, targets: Tensor) -> Tensor:
    """Return the logits of the sample and, last, of the target, (steps, sample + 1)."""
    right = (vectors * functional.embedding(targets, units)).sum(dim=1, keepdim=True)
    return torch.cat([vectors @ functional.embedding(among, units).T, right], dim=1)


def _divergences(taught: Tensor, said: Tensor) -> Tensor:
    """Return how far what is said is from what is taught, as the Kullback-Leibler divergence of each step, (steps,)."""
    return functional.kl_div(said.log_softmax(dim=1), taught.log_softmax(dim=1), log_target=True, reduction="none").sum(dim=1)


def _rate(share: float, last: float) -> float:
    return last + (1.0 - last) * (1.0 + math.cos(math.pi * share)) / 2.0
