"""`headrace compress`: smaller files of a model by several methods, and what each costs and keeps, measured on real steps."""

import sys
from importlib.util import find_spec
from os import environ
from pathlib import Path
from typing import Annotated

import typer

from headrace.deploy.compression_run import Asked, CompressionRefused

USUAL = "int8,int4,pruned,pruned+int8,student,student+int8,student+pruned+int8,student+int4"


def compress(
    data: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Shop data as headrace publish reads it.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")] = Path("compressed"),
    snapshot: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Weights as headrace train --out writes them; else trained first.")
    ] = None,
    methods: Annotated[str, typer.Option(metavar="NAMES", help="Separated by commas; full is always there, to compare with.")] = USUAL,
    events: Annotated[int | None, typer.Option(min=100, help="Only so many of the first events.")] = None,
    open_sessions: Annotated[int, typer.Option(min=1, help="Sessions side by side, for a file of events without times.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training, where no snapshot is given.")] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the student.")] = 6000,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 1,
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="Write the history encoder as ONNX too, checked against torch.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the table to this file as JSON.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Make a model smaller, by several methods, and tell how much smaller and how much worse each file is than the full one.

    NAMES: int8 (each row of a table in 8-bit numbers), int4 (the item table in 4 bits, the rest in 8), pruned (the smallest numbers
    left out, as many as cost 1% of NDCG@20 on steps kept for the choice), student (a network of half the width, which learns from
    the full one and the data), and combinations joined by +. Each file holds all that serving needs, the ids of items too, and is
    served like any weights (headrace.online_model.compression).

    Of the events, the newest tenth is kept to be reported on, and the twentieth before it to choose what is pruned; model and student
    learn from the others. With --snapshot give events that its model has not learned from, or the figures will flatter.

    The table: bytes of the file; size, the part of the full file's; NDCG@20 of the item that came next, among all items, and how much of
    the full model's is kept; the median milliseconds for one history's 100 best items in one thread, and their part of the full
    model's. Goals that it speaks of are told below it. 686,000 events of RetailRocket take about ten minutes on two cores.

    --onnx needs the extra 'compress'.
    """
    # Costs are told for one core. These are read while numpy and torch are loaded, so they come first.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environ.setdefault(threads, "1")
    from msgspec import to_builtins

    from headrace.deploy.compression_run import compress as make
    from headrace.deploy.compression_run import table, verdicts
    from headrace.deploy.training_report import write_json

    if onnx and any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise CompressionRefused("--onnx: needs the package's extra 'compress'; install it, or say --no-onnx")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise CompressionRefused(f"--json: a file in a folder that exists was expected; there is no folder {json_file.parent}")
    names = tuple(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    asked = Asked(data, events, open_sessions, snapshot, names, out, epochs, steps, seed, onnx)
    outcome = make(asked, plain=plain or not sys.stderr.isatty())
    for line in table(outcome):
        typer.echo(line)
    if outcome.onnx_max_difference is not None:
        typer.echo(f"history_encoder.onnx: differs from torch by {outcome.onnx_max_difference:.2g} at most")
    for goal, value, met in verdicts(outcome):
        typer.echo(f"{goal}: {value}   {'met' if met else 'NOT MET'}")
    if json_file is not None:
        asked_for = {"data": data.name, "events": events, "epochs": epochs, "steps": steps, "seed": seed}
        write_json(json_file, asked_for | to_builtins(outcome))
