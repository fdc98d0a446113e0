"""The same run with one optimizer after another: how far validation NDCG@20 comes, epoch by epoch."""

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from headrace.online_model.training.plan import RATES, TABLE_RATES, DenseName, Evaluation, TableName, TrainingPlan

PAIRS: tuple[tuple[DenseName, TableName], ...] = (
    ("sgd", "rowwise-adagrad"),
    ("adagrad", "rowwise-adagrad"),
    ("rmsprop", "rowwise-adagrad"),
    ("adam", "rowwise-adagrad"),
    ("adam", "lazy-adam"),
)


class OptimizerCurve(Struct, frozen=True):
    """The curve of one pair of optimizers, for the dense parameters and for the item table, with the rates that they took."""

    optimizer: DenseName
    rate: float
    table_optimizer: TableName
    table_rate: float
    ended: str
    curve: list[Evaluation]


def compare_optimizers(
    plan: TrainingPlan,
    train: Callable[[TrainingPlan, int], tuple[list[Evaluation], str]],
    pairs: Sequence[tuple[DenseName, TableName]] = PAIRS,
) -> list[OptimizerCurve]:
    """Train by each pair of optimizers, each with its usual rates, and never stop early.

    `train` gets the plan and the number of the run, and returns the curve and how it ended.
    """
    curves = []
    for number, (dense, table) in enumerate(pairs):
        one = replace(plan, optimizer=dense, table_optimizer=table, rate=None, table_rate=None, patience=0, evaluate_every=None)
        curve, ended = train(one, number)
        curves.append(OptimizerCurve(dense, RATES[dense], table, TABLE_RATES[table], ended, curve))
    return curves


def as_markdown(curves: Sequence[OptimizerCurve]) -> str:
    """Return a table: a row for each pair of optimizers, a column for each epoch with the validation NDCG@20 after it."""
    epochs = max(len(one.curve) for one in curves)
    header = ["network", "item table", *(f"epoch {epoch}" for epoch in range(epochs)), "loss", "HR@20", "s/epoch"]
    lines = ["| " + " | ".join(header) + " |", "|---" * 2 + "|---:" * (len(header) - 2) + "|"]
    for one in curves:
        points = [_figure(point.ndcg20) for point in one.curve] + [one.ended] * (epochs - len(one.curve))
        last = one.curve[-1]
        pace = f"{last.seconds / last.epoch:.1f}" if last.epoch else "-"
        names = [f"{one.optimizer}, {one.rate:g}", f"{one.table_optimizer}, {one.table_rate:g}"]
        lines.append("| " + " | ".join([*names, *points, _figure(last.loss), _figure(last.hr20), pace]) + " |")
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
