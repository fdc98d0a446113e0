"""A training run from its source to its files, as `headrace train` and each process that torchrun starts make it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headrace.deploy.counting import counting
from headrace.deploy.training_report import draw, write_json, write_snapshot, write_table
from headrace.online_model.training.plan import Evaluation, TrainingPlan

if TYPE_CHECKING:
    from headrace.online_model.training.distributed import Group
    from headrace.online_model.training.examples import Example


class TrainingRefused(ValueError):
    """What was asked for cannot be trained; the text names the option."""


@dataclass(frozen=True)
class Source:
    """Where examples come from: a file of frames, or one of events of which the first `limit` are read."""

    frames: Path | None = None
    events: Path | None = None
    limit: int | None = None
    open_sessions: int = 64
    seed: int = 1

    def check(self) -> None:
        """Raise TrainingRefused where it is not clear which file is meant."""
        if (self.frames is None) == (self.events is None):
            raise TrainingRefused("FRAMES or --events FILE: one of them was expected; headrace train --help tells which when")
        if self.limit is not None and self.events is None:
            raise TrainingRefused("--limit: goes with --events, of which it takes the first; leave it out")

    def named(self) -> str:
        """Return the name of the file."""
        return (self.frames or self.events or Path()).name


@dataclass(frozen=True)
class Files:
    """What is written: weights into a folder, the curve as JSON and PNG, a table as Markdown; and checkpoints on the way."""

    out: Path | None = None
    json_file: Path | None = None
    png: Path | None = None
    markdown: Path | None = None
    checkpoints: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Machine:
    """Where it runs: 'auto', 'cpu' or 'cuda'; how many threads a process takes, torch's own choice where 0; where processes meet."""

    device: str = "auto"
    threads: int = 0
    meeting: str = "env://"


def check(files: Files, *, compare: bool) -> None:
    """Raise TrainingRefused where what is found could not be written: better before a long run than after it."""
    for option, file in (("json", files.json_file), ("png", files.png), ("markdown", files.markdown)):
        if file is not None and not file.absolute().parent.is_dir():
            raise TrainingRefused(f"--{option}: a file in a folder that exists was expected; there is no folder {file.parent}")
    if files.png is not None:
        from importlib.util import find_spec

        if find_spec("matplotlib") is None:
            raise TrainingRefused("--png: needs the package's extra 'evaluate'; install it, or leave the option out")
    if compare and (files.out or files.checkpoints):
        raise TrainingRefused("--compare-optimizers: trains many models; --out and --checkpoints go with one, leave them out")
    if files.markdown and not compare:
        raise TrainingRefused("--markdown: goes with --compare-optimizers, of which it writes the table")
    if files.resume and not files.checkpoints:
        raise TrainingRefused("--resume: needs --checkpoints, the folder with the run to go on with")


def train_once(source: Source, plan: TrainingPlan, shape: Mapping[str, int], files: Files, machine: Machine, *, plain: bool) -> None:
    """Train one model, print its curve, and write its files; of several processes, the first does so.

    Raises TrainingRefused, TooFewExamples, CannotResume, Diverged, UnusableFrames, OSError.
    """
    import torch

    from headrace.online_model.training.checkpoints import has_checkpoints
    from headrace.online_model.training.distributed import device_of, joined
    from headrace.online_model.training.full_training import FullTraining
    from headrace.online_model.transformer import TransformerShape

    if machine.threads:
        torch.set_num_threads(machine.threads)
    if files.checkpoints and not files.resume and has_checkpoints(files.checkpoints):
        raise TrainingRefused(f"--checkpoints: {files.checkpoints} holds those of a run; go on with it by --resume, or name another folder")
    device = device_of(machine.device)
    with joined(device, machine.meeting) as group:
        training = FullTraining(examples_of(source, group, plain), plan, TransformerShape(**shape), device=device, group=group)
        if files.checkpoints and files.resume:
            training.resume(files.checkpoints)
        with counting("train", plain or not group.leads) as show:
            trained = training.run(files.checkpoints, show if group.leads else lambda done, total, told: None)
        if not group.leads:
            return
        for number, point in enumerate(trained.curve):
            typer.echo(point.line() + ("  <- kept" if number == trained.best else ""))
        typer.echo(f"ended by {trained.ended}; {trained.training} examples learned from, {trained.validation} newer ones to evaluate on")
        if files.json_file is not None:
            told = {"data": source.named(), "plan": plan, "shape": asdict(training.copy.model.shape), "processes": group.size}
            sizes = {"training": trained.training, "validation": trained.validation, "items": len(trained.copy.items) - 1}
            outcome = {"ended": trained.ended, "best": trained.best, "learned_offsets": trained.offsets, "curve": trained.curve}
            write_json(files.json_file, told | sizes | outcome)
        if files.png is not None:
            draw({"": trained.curve}, files.png)
        if files.out is not None:
            typer.echo(f"weights written: {write_snapshot(trained, files.out)}")


def train_by_each(source: Source, plan: TrainingPlan, shape: Mapping[str, int], files: Files, machine: Machine, *, plain: bool) -> None:
    """Train by one optimizer after another, and print and write the table of their curves. Raises what `train_once` raises."""
    import torch

    from headrace.online_model.training.comparison import PAIRS, as_markdown, compare_optimizers
    from headrace.online_model.training.distributed import ALONE, device_of
    from headrace.online_model.training.full_training import FullTraining
    from headrace.online_model.transformer import TransformerShape

    if machine.threads:
        torch.set_num_threads(machine.threads)
    device = device_of(machine.device)
    examples = examples_of(source, ALONE, plain)
    with counting("train", plain) as show:

        def train(one: TrainingPlan, number: int) -> tuple[list[Evaluation], str]:
            name = f"{one.optimizer} and {one.table_optimizer}"
            trained = FullTraining(examples, one, TransformerShape(**shape), device=device).run(
                None, lambda done, total, told: show(number * total + done, len(PAIRS) * total, f"{name}: {told}")
            )
            return trained.curve, trained.ended

        curves = compare_optimizers(plan, train)
    table = as_markdown(curves)
    typer.echo(table, nl=False)
    if files.markdown is not None:
        write_table(files.markdown, table)
    if files.json_file is not None:
        write_json(files.json_file, {"data": source.named(), "plan": plan, "examples": len(examples), "optimizers": curves})
    if files.png is not None:
        draw({f"{one.optimizer}, {one.table_optimizer}": one.curve for one in curves}, files.png)


def examples_of(source: Source, group: "Group", plain: bool) -> "list[Example]":
    """Read the examples of a source, in their order, and say how many lines were left out. Raises UnusableFrames, OSError."""
    from headrace.deploy.placed_events import placed_events
    from headrace.deploy.training_frames import Arrival, examples_of_events, read_frames

    if source.frames is not None:
        return read_frames(source.frames)
    assert source.events is not None
    events = source.events
    refused: list[str] = []
    with counting("read", plain or not group.leads) as show:

        def counted() -> Iterator[Arrival]:
            arrivals = placed_events(
                events, limit=source.limit, open_sessions=source.open_sessions, seed=source.seed, refuse=refused.append
            )
            for number, arrival in enumerate(arrivals, start=1):
                if number % 1000 == 0 and group.leads:
                    show(number, max(number, source.limit or 0), "events")
                yield arrival

        examples = examples_of_events(counted())
    if refused and group.leads:
        typer.echo(f"left out: {len(refused)} lines that are no events, first of them {refused[0]}", err=True)
    return examples
