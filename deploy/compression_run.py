"""Making a model smaller by several methods and measuring each, as `headrace compress` does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from headrace.deploy.counting import counting

if TYPE_CHECKING:
    from headrace.online_model.compression.onnx_export import Exported
    from headrace.online_model.training.examples import Example
    from headrace.online_model.transformer import TransformerShape
    from headrace.online_model.weights import ModelCopy

HELD_OUT_SHARE, VALIDATION_SHARE = 0.1, 0.05
MOST_QUESTIONS, MOST_VALIDATION_QUESTIONS = 10_000, 10_000
REFERENCE = "full"


class CompressionRefused(ValueError):
    """What was asked for cannot be done; the text names the option."""


@dataclass(frozen=True)
class Asked:
    """What to make: of which events or snapshot, by which methods; `epochs` of training and `steps` of distillation; where to write."""

    data: Path
    events: int | None
    open_sessions: int
    snapshot: Path | None
    methods: tuple[str, ...]
    out: Path
    epochs: int
    steps: int
    seed: int
    with_onnx: bool


class Parts(NamedTuple):
    """Examples by time: to learn from, to choose thresholds by, and to report on."""

    learning: "list[Example]"
    validation: "list[Example]"
    held_out: "list[Example]"


class Row(Struct, frozen=True):
    """One method: its file in bytes, NDCG@20 on held-out steps, the median milliseconds of an answer, each also over the full model's."""

    method: str
    file: str
    size_bytes: int
    size_ratio: float
    ndcg: float
    ndcg_ratio: float
    latency_ms: float
    latency_ratio: float


class Outcome(Struct, frozen=True):
    """The rows, and how they came about: items, held-out steps, the shares that were pruned of model and student, the ONNX file's check."""

    rows: list[Row]
    items: int
    held_out: int
    pruned_share: float
    student_pruned_share: float
    onnx_max_difference: float | None


def compress(asked: Asked, *, plain: bool) -> Outcome:
    """Make the files and measure them. Raises CompressionRefused, UnknownMethod, TooFewExamples, BadUpdate, OSError."""
    from headrace.online_model.compression.methods import METHODS, compressed, require_known
    from headrace.online_model.compression.packed import unpacked

    require_known(asked.methods)
    parts = _parts(_examples(asked, plain))
    copy = _given(asked.snapshot) if asked.snapshot is not None else _trained(parts, asked, plain)
    names = [REFERENCE, *(name for name in asked.methods if name != REFERENCE)]
    student = _student(copy, parts, asked, plain) if any(METHODS[name].has_student for name in names) else None
    shares = {True: 0.0, False: 0.0}
    for has_student in {METHODS[name].has_student for name in names if METHODS[name].is_pruned}:
        shares[has_student] = _pruned_share(student if has_student and student is not None else copy, parts.validation, plain)
    asked.out.mkdir(parents=True, exist_ok=True)
    payloads = {name: compressed(copy, name, student=student, pruned_share=shares[METHODS[name].has_student]) for name in names}
    files = {name: asked.out / f"{name.replace('+', '-')}.safetensors" for name in names}
    for name, payload in payloads.items():
        files[name].write_bytes(payload)
    # What is measured is what was written.
    served = {name: unpacked(file.read_bytes()) for name, file in files.items()}
    exported = _exported(copy, asked.out) if asked.with_onnx else None
    rows = _measured(served, files, _some(parts.held_out, MOST_QUESTIONS), plain)
    return Outcome(
        rows,
        len(copy.items) - 1,
        len(_some(parts.held_out, MOST_QUESTIONS)),
        shares[False],
        shares[True],
        None if exported is None else exported.max_difference,
    )


def table(outcome: Outcome) -> list[str]:
    """Return the rows as lines of text."""
    return [
        f"{'method':22}{'bytes':>12}{'size':>8}{'NDCG@20':>10}{'kept':>8}{'ms':>8}{'latency':>9}",
        *(
            f"{row.method:22}{row.size_bytes:>12}{row.size_ratio:>8.3f}{row.ndcg:>10.4f}{row.ndcg_ratio:>8.3f}"
            f"{row.latency_ms:>8.3f}{row.latency_ratio:>9.3f}"
            for row in outcome.rows
        ),
    ]


def verdicts(outcome: Outcome) -> list[tuple[str, str, bool]]:
    """Return each goal that the rows speak of: its name, what was found, and whether it is met."""
    rows = {row.method: row for row in outcome.rows}
    found = []
    if "int8" in rows:
        found.append(_verdict("int8: size at most 0.27, NDCG@20 at least 0.99", rows["int8"], 0.27, 0.99))
    if "student" in rows:
        found.append(_verdict("student: NDCG@20 at least 0.98", rows["student"], math.inf, 0.98))
    if combined := [row for row in outcome.rows if "+" in row.method]:
        # Of those that are small enough the best, else the smallest.
        fit = [row for row in combined if row.size_ratio <= 0.12] or [min(combined, key=lambda row: row.size_ratio)]
        best = max(fit, key=lambda row: row.ndcg_ratio)
        found.append(_verdict(f"best combination ({best.method}): size at most 0.12, NDCG@20 at least 0.98", best, 0.12, 0.98))
    return found


def _verdict(goal: str, row: Row, size: float, kept: float) -> tuple[str, str, bool]:
    return goal, f"{row.size_ratio:.3f} and {row.ndcg_ratio:.4f}", row.size_ratio <= size and row.ndcg_ratio >= kept


def _examples(asked: Asked, plain: bool) -> "list[Example]":
    from headrace.deploy.training_run import Source, examples_of
    from headrace.online_model.training.distributed import ALONE

    return examples_of(Source(events=asked.data, limit=asked.events, open_sessions=asked.open_sessions, seed=asked.seed), ALONE, plain)


def _parts(examples: "list[Example]") -> Parts:
    from headrace.online_model.training.examples import split_by_time

    newest = split_by_time(examples, HELD_OUT_SHARE)
    older = split_by_time(newest.training, VALIDATION_SHARE / (1.0 - HELD_OUT_SHARE))
    return Parts(older.training, older.validation, newest.validation)


def _given(snapshot: Path) -> "ModelCopy":
    """Return the weights of a folder as `headrace train --out` writes it."""
    import msgspec

    from headrace.deploy.training_report import MANIFEST, WEIGHTS
    from headrace.online_model.weights import ModelCopy
    from headrace.schemas import ModelUpdate

    try:
        update = msgspec.json.decode((snapshot / MANIFEST).read_bytes(), type=ModelUpdate)
        payload = (snapshot / WEIGHTS).read_bytes()
    except (OSError, msgspec.DecodeError) as error:
        raise CompressionRefused(f"--snapshot: a folder with {MANIFEST} and {WEIGHTS} was expected: {error}") from None
    copy = ModelCopy(_shape_in(payload))
    copy.apply(update, payload)
    return copy


def _shape_in(payload: bytes) -> "TransformerShape":
    """Return the sizes that a snapshot tells."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from headrace.online_model.payload_layout import SHAPE
    from headrace.online_model.transformer import TransformerShape

    try:
        width, layers, heads, length, categories, temperature = load(payload)[SHAPE].tolist()
    except (SafetensorError, KeyError, ValueError) as error:
        raise CompressionRefused(f"--snapshot: weights of a snapshot were expected: {error!r}") from None
    return TransformerShape(width, layers, heads, length, categories, temperature / 1000)


def _trained(parts: Parts, asked: Asked, plain: bool) -> "ModelCopy":
    from headrace.online_model.training.full_training import FullTraining
    from headrace.online_model.training.plan import TrainingPlan

    examples = parts.learning + parts.validation
    plan = TrainingPlan(epochs=asked.epochs, validation_share=len(parts.validation) / len(examples), seed=asked.seed)
    with counting("train", plain) as show:
        copy = FullTraining(examples, plan).run(None, show).copy
    copy.renew_units()
    return copy


def _student(copy: "ModelCopy", parts: Parts, asked: Asked, plain: bool) -> "ModelCopy":
    from headrace.online_model.compression.distillation import Distillation, DistillationPlan

    with counting("distil", plain) as show:
        return Distillation(copy, parts.learning, DistillationPlan(steps=asked.steps, seed=asked.seed)).run(show)


def _pruned_share(copy: "ModelCopy", validation: "list[Example]", plain: bool) -> float:
    from headrace.online_model.compression.packed import Packing, packed, unpacked
    from headrace.online_model.compression.pruning import chosen_share
    from headrace.online_model.compression.quality import ndcg

    questions = _some(validation, MOST_VALIDATION_QUESTIONS)
    with counting("prune", plain) as show:
        return chosen_share(
            lambda share: ndcg(unpacked(packed(copy, Packing(32, share))), questions, lambda done: show(0, 0, f"{share:.0%} pruned"))
        )


def _exported(copy: "ModelCopy", out: Path) -> "Exported":
    from headrace.online_model.compression.onnx_export import export

    return export(copy, out / "history_encoder.onnx")


def _measured(served: "dict[str, ModelCopy]", files: dict[str, Path], questions: "Sequence[Example]", plain: bool) -> list[Row]:
    from headrace.online_model.compression.quality import latencies_ms, ndcg

    found: dict[str, float] = {}
    with counting("measure", plain) as show:
        for number, (name, copy) in enumerate(served.items()):
            found[name] = ndcg(copy, questions)
            show(number + 1, len(served), name)
    took = latencies_ms(served, questions)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    return [
        Row(
            name,
            files[name].name,
            sizes[name],
            sizes[name] / sizes[REFERENCE],
            found[name],
            found[name] / found[REFERENCE] if found[REFERENCE] else math.nan,
            took[name],
            took[name] / took[REFERENCE],
        )
        for name in served
    ]


def _some(examples: "list[Example]", most: int) -> "list[Example]":
    """Return at most so many of the examples, evenly spread over them."""
    if len(examples) <= most:
        return examples
    return [examples[number * len(examples) // most] for number in range(most)]
