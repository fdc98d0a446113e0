"""What a training run is told, and what it tells at each evaluation. Light: nothing here needs torch."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0)]
DenseName = Literal["sgd", "adagrad", "rmsprop", "adam"]
TableName = Literal["rowwise-adagrad", "lazy-adam"]
ScheduleName = Literal["constant", "step", "cosine", "plateau"]

# The best of a few, half a power of ten apart, after six epochs on the first 40,000 events of yoochoose_clicks.
RATES: dict[DenseName, float] = {"sgd": 0.01, "adagrad": 0.01, "rmsprop": 0.001, "adam": 0.001}
TABLE_RATES: dict[TableName, float] = {"rowwise-adagrad": 0.3, "lazy-adam": 0.03}


class TrainingPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train. Two runs of the same plan on the same examples give the same weights, to the last bit, on one CPU thread.

    `rate` and `table_rate` are those of the dense parameters and of the item table, `RATES` and `TABLE_RATES` where not told;
    `schedule` multiplies both, after `warm_up` steps of a rise. `batch` counts sequences, over all processes together; `negatives`
    are drawn for each batch. A step that is a cart addition or a purchase counts `cart_weight` or `purchase_weight` times a view.
    The newest `validation_share` of the examples is not learned from but evaluated on, after each epoch and, where told, after
    every `evaluate_every` steps; `patience` evaluations without a lower loss end the run, 0 does not.
    """

    optimizer: DenseName = "adam"
    table_optimizer: TableName = "rowwise-adagrad"
    rate: Rate | None = None
    table_rate: Rate | None = None
    schedule: ScheduleName = "constant"
    warm_up: Count = 0
    epochs: Positive = 10
    batch: Positive = 128
    negatives: Positive = 1024
    cart_weight: Rate = 1.5
    purchase_weight: Rate = 2.0
    validation_share: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    evaluate_every: Positive | None = None
    patience: Count = 2
    seed: int = 1

    @property
    def dense_rate_used(self) -> float:
        """The learning rate of the dense parameters, before the schedule."""
        return self.rate if self.rate is not None else RATES[self.optimizer]

    @property
    def table_rate_used(self) -> float:
        """The learning rate of the item table, before the schedule."""
        return self.table_rate if self.table_rate is not None else TABLE_RATES[self.table_optimizer]


class Evaluation(Struct, frozen=True, kw_only=True):
    """One point of the curve, after `step` steps in all, which are `epoch` epochs. Measures are those of the validation part.

    `train_loss` is the mean sampled-softmax loss since the evaluation before; `loss` the mean cross-entropy over the whole
    catalogue; both in nats, None where there was nothing to average. Of `scored` steps, the share `hr20` was among the best 20.
    """

    epoch: float
    step: int
    rate_factor: float
    train_loss: float | None
    loss: float | None
    hr20: float | None
    ndcg20: float | None
    scored: int
    seconds: float

    def line(self) -> str:
        """Return it as one readable line."""
        told = [("training loss", self.train_loss), ("validation loss", self.loss), ("HR@20", self.hr20), ("NDCG@20", self.ndcg20)]
        figures = ", ".join(f"{name} {value:.4f}" for name, value in told if value is not None)
        return f"epoch {self.epoch:.2f}, step {self.step}: {figures or 'nothing measured'} ({self.seconds:.1f} s)"


def losses_of(curve: Sequence[Evaluation]) -> list[float]:
    """Return the validation losses; one that could not be measured is not a number."""
    return [float("nan") if point.loss is None else point.loss for point in curve]
