"""`headrace train`: full training of the Transformer. torchrun starts it too: `torchrun -m headrace.deploy.train_command ...`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from headrace.deploy.settings import Device, Settings
from headrace.deploy.training_run import Files, Machine, Source, TrainingRefused, check, train_by_each, train_once
from headrace.online_model.training.plan import DenseName, ScheduleName, TableName, TrainingPlan

# Told to the process that starts the others, not to these.
NOT_PASSED_ON = ("processes", "meeting")


def train(
    context: typer.Context,
    frames: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="Examples as headrace features examples writes them.")
    ] = None,
    events: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Shop data as headrace publish reads it, instead of FRAMES.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many of the first events of --events.")] = None,
    open_sessions: Annotated[int, typer.Option(min=1, help="Sessions side by side, for a file of events without times.")] = 64,
    optimizer: Annotated[DenseName, typer.Option(help="For the network.")] = "adam",
    table_optimizer: Annotated[
        TableName, typer.Option(help="For the item table, of which a batch touches a few rows.")
    ] = "rowwise-adagrad",
    rate: Annotated[float | None, typer.Option(help="Learning rate of the network; one that suits the optimizer if not given.")] = None,
    table_rate: Annotated[float | None, typer.Option(help="Learning rate of the item table, likewise.")] = None,
    schedule: Annotated[ScheduleName, typer.Option(help="What both rates are multiplied by, over the steps.")] = "constant",
    warm_up: Annotated[int, typer.Option(min=0, help="Steps over which the rates rise first.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every example is learned, at most.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Runs of steps in a batch, over all processes together.")] = 128,
    negatives: Annotated[int, typer.Option(min=1, help="Items drawn for a batch, to be told from the right ones.")] = 1024,
    validation_share: Annotated[float, typer.Option(min=0.0, max=0.9, help="The newest examples, which are not learned from.")] = 0.1,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between evaluations; those after each epoch come besides.")
    ] = None,
    patience: Annotated[int, typer.Option(min=0, help="Evaluations without a lower loss that end it; 0: none do.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 1,
    width: Annotated[int, typer.Option(min=1, help="Width of the network.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Its layers.")] = 1,
    heads: Annotated[int, typer.Option(min=1, help="Its attention heads; they share the width.")] = 2,
    length: Annotated[int, typer.Option(min=2, help="Steps of a history that it sees.")] = 20,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine that share each batch, started by torchrun.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of a process; 0: as torch chooses.")] = 0,
    compare_optimizers: Annotated[bool, typer.Option("--compare-optimizers", help="Train by one optimizer after another.")] = False,
    checkpoints: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write a checkpoint there after each evaluation.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest of --checkpoints.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the weights there, and their manifest.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the curve to this file as JSON.")] = None,
    png_file: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Draw the curve into this file.")] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the table of --compare-optimizers to this file.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
    meeting: Annotated[str, typer.Option("--meeting", hidden=True)] = "env://",
) -> None:
    """Train the Transformer in full, from recorded steps of shoppers, each with the history that could be read just before it.

    FRAMES come from Feast's point-in-time join (headrace features examples); with --events they are made from a file of events by
    the feature worker's own functions. Both ways give the same examples.

    The newest examples are not learned from; the loss, HR@20 and NDCG@20 on them, over the whole catalogue, are told after each epoch
    and decide when to end. The weights kept are those of the lowest loss. On one thread of a CPU a run gives the same weights each
    time, to the last bit, also when it was interrupted and went on by --resume.

    --out gets weights.safetensors, a snapshot as the learner publishes them, and manifest.json. --png needs the extra 'evaluate'.
    """
    plan = TrainingPlan(
        optimizer=optimizer,
        table_optimizer=table_optimizer,
        rate=rate,
        table_rate=table_rate,
        schedule=schedule,
        warm_up=warm_up,
        epochs=epochs,
        batch=batch,
        negatives=negatives,
        validation_share=validation_share,
        evaluate_every=evaluate_every,
        patience=patience,
        seed=seed,
    )
    files = Files(out, json_file, png_file, markdown_file, checkpoints, resume)
    source = Source(frames, events, limit, open_sessions, seed)
    device: Device = Settings.load().device
    _check_numbers(rate=rate, table_rate=table_rate, width=width, heads=heads)
    source.check()
    check(files, compare=compare_optimizers)
    if processes > 1:
        if compare_optimizers:
            raise TrainingRefused("--compare-optimizers: one process was expected; leave out --processes")
        raise typer.Exit(_start(processes, list(_given(context))))
    shape = {"width": width, "layers": layers, "heads": heads, "length": length}
    work = train_by_each if compare_optimizers else train_once
    work(source, plan, shape, files, Machine(device, threads, meeting), plain=plain or not sys.stderr.isatty())


def main() -> None:
    """Run `headrace train` by itself, as torchrun does."""
    from headrace.deploy.cli import run_app

    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(train)
    run_app(alone)


def _check_numbers(*, rate: float | None, table_rate: float | None, width: int, heads: int) -> None:
    for option, value in (("rate", rate), ("table-rate", table_rate)):
        if value is not None and not 0 < value < float("inf"):
            raise TrainingRefused(f"--{option}: a number above 0 was expected; the value is {value}")
    if width % heads:
        raise TrainingRefused(f"--heads: a number that divides the width {width} was expected; the value is {heads}")


def _start(processes: int, options: list[str]) -> int:
    """Run torchrun and return its exit code. The processes meet in a file, so that nothing listens beyond this machine."""
    with tempfile.TemporaryDirectory(prefix="headrace-train-") as folder:
        about = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **os.environ}
        # Several processes on one machine would each take all of its cores.
        about.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{folder}/torchrun", "--rdzv-conf", "store_type=file"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--local-addr", "127.0.0.1"]
        ours = ["-m", "headrace.deploy.train_command", *options, "--meeting", f"file://{folder}/group"]
        return subprocess.run([*torchrun, *meeting, *ours], env=about, check=False).returncode


def _given(context: typer.Context) -> Iterator[str]:
    """Yield the command line that gives this command the same options again."""
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in NOT_PASSED_ON or value is None or value == parameter.get_default(context):
            continue
        if parameter.param_type_name == "option":
            yield parameter.opts[0]
        if value is not True:
            yield str(value)


if __name__ == "__main__":
    main()
