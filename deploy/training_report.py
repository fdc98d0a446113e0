"""What a training run leaves: its weights as a snapshot, its curve as JSON and as a picture, tables in a document."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.online_model.training.plan import Evaluation
from headrace.schemas import ModelUpdate
from headrace.schemas.model_updates import MODEL
from headrace.schemas.wire import now_ms

if TYPE_CHECKING:
    from headrace.online_model.training.full_training import Trained

WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
TABLE_BEGINS, TABLE_ENDS = "<!-- headrace train --compare-optimizers -->\n", "<!-- the end of the table -->\n"


def write_snapshot(trained: "Trained", out: Path) -> Path:
    """Write the weights, as a snapshot that a `ModelCopy` can apply, and its manifest, a `ModelUpdate`, into a folder.

    The manifest is written last, and both by renaming. Raises OSError.
    """
    from headrace.features.services import FEATURE_SERVICE
    from headrace.online_model.weights import NO_WEIGHTS, chained_sha256, snapshot_payload

    payload = snapshot_payload(trained.copy)
    payload_sha256 = hashlib.sha256(payload).hexdigest()
    update = ModelUpdate(
        model=MODEL,
        kind="snapshot",
        version=1,
        base_version=0,
        base_sha256=NO_WEIGHTS,
        weights_sha256=chained_sha256(NO_WEIGHTS, payload_sha256),
        payload_sha256=payload_sha256,
        payload_bytes=len(payload),
        payload_parts=1,
        payload_offset=0,
        trigger="start",
        feature_service=FEATURE_SERVICE,
        created_ms=now_ms(),
        learned_events=trained.training,
        learned_offsets=trained.offsets,
        learned_published_ms=[],
        holdout_loss=None if trained.best is None else trained.curve[trained.best].loss,
        live_holdout_loss=None,
    )
    out.mkdir(parents=True, exist_ok=True)
    _write(out / WEIGHTS, payload)
    _write(out / MANIFEST, msgspec.json.format(msgspec.json.encode(update), indent=2) + b"\n")
    return out / MANIFEST


def write_json(file: Path, told: Mapping[str, Any]) -> None:
    """Write a report. Raises OSError."""
    file.write_text(json.dumps(msgspec.to_builtins(told), indent=2) + "\n", encoding="utf-8")


def write_table(file: Path, table: str) -> None:
    """Write a table into a Markdown file: between the comments that mark its place where there are any, else as the whole file."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    before, begins, rest = text.partition(TABLE_BEGINS)
    _, ends, after = rest.partition(TABLE_ENDS)
    _write(file, (before + begins + table + ends + after if ends else table).encode())


def draw(curves: Mapping[str, Sequence[Evaluation]], file: Path) -> None:
    """Write a PNG with two panels over the epochs, the losses and NDCG@20, and a line for each curve. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, quality = figure.subplots(1, 2)
    for number, (name, curve) in enumerate(curves.items()):
        colour = f"C{number % 10}"
        for axes, measure, style in ((losses, "train_loss", ":"), (losses, "loss", "-"), (quality, "ndcg20", "-")):
            points = [(point.epoch, getattr(point, measure)) for point in curve if getattr(point, measure) is not None]
            if points:
                epochs, heights = zip(*points, strict=True)
                axes.plot(epochs, heights, style, color=colour, marker=".", label=name if style == "-" else None)
    losses.set_title("loss in nats: validation; dotted: training, sampled")
    quality.set_title("validation NDCG@20")
    for axes in (losses, quality):
        axes.set_xlabel("epochs")
        axes.grid(alpha=0.3)
    if len(curves) > 1:
        quality.legend(frameon=False)
    figure.savefig(file, dpi=150, format="png")


def _write(file: Path, payload: bytes) -> None:
    aside = file.with_name(f".{file.name}.part")
    aside.write_bytes(payload)
    aside.replace(file)
