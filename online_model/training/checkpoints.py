"""Checkpoints of a training run: what it takes to go on as if it had never been interrupted.

A checkpoint is a folder `step-N`: the weights, the best weights so far and the optimizers' state as safetensors, and
`position.json` with all else and the SHA-256 of these files. It is written aside and renamed, so it is whole or not there.
Every random choice of a run follows from its seed, the epoch and the step, and a schedule from the step and the losses: seed,
position and curve are the random state and that of the schedule.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from headrace.online_model.training.plan import Evaluation, TrainingPlan

log = logging.getLogger(__name__)

KEPT = 2
POSITION = "position.json"
PARTS = ("weights", "best", "optimizers")


class CannotResume(ValueError):
    """There is no checkpoint from which this run could go on; the text says why."""


class Position(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a run is: `batch` batches into its epoch number `epoch`, both from 0, after `step` steps and this curve.

    `data` names the examples and the network; `offsets` tells, by source partition, how far the stream lies in the examples.
    """

    plan: TrainingPlan
    data: str
    epoch: int
    batch: int
    step: int
    curve: list[Evaluation]
    offsets: dict[str, int]
    sha256: dict[str, str] = {}


@dataclass(frozen=True)
class Checkpoint:
    """A position and its tensors, each by its name."""

    position: Position
    weights: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizers: Mapping[str, Tensor]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into the folder, and remove all but the newest two. Raises OSError."""
    name = f"step-{checkpoint.position.step:09d}"
    aside, place = folder / f".{name}.part", folder / name
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    payloads = {part: save({name: tensor.contiguous().cpu() for name, tensor in getattr(checkpoint, part).items()}) for part in PARTS}
    for part, payload in payloads.items():
        _write(aside / f"{part}.safetensors", payload)
    hashes = {part: hashlib.sha256(payload).hexdigest() for part, payload in payloads.items()}
    position = msgspec.structs.replace(checkpoint.position, sha256=hashes)
    _write(aside / POSITION, msgspec.json.format(msgspec.json.encode(position), indent=2) + b"\n")
    shutil.rmtree(place, ignore_errors=True)
    aside.replace(place)
    _sync(folder)
    for old in _names(folder)[KEPT:]:
        shutil.rmtree(folder / old)
    return place


def newest_checkpoint(folder: Path) -> Checkpoint:
    """Return the newest checkpoint of the folder that is whole. Raises CannotResume where there is none."""
    told = []
    for name in _names(folder):
        try:
            return _read(folder / name)
        except (OSError, msgspec.DecodeError, SafetensorError, CannotResume) as error:
            log.warning("a checkpoint cannot be read", extra={"checkpoint": str(folder / name), "reason": str(error)})
            told.append(f"{name}: {error}")
    raise CannotResume(f"{folder}: a checkpoint was expected; {'; '.join(told) or 'there is none'}")


def has_checkpoints(folder: Path) -> bool:
    """Whether a run has left any there."""
    return bool(_names(folder))


def _read(place: Path) -> Checkpoint:
    position = msgspec.json.decode((place / POSITION).read_bytes(), type=Position)
    tensors = {}
    for part in PARTS:
        payload = (place / f"{part}.safetensors").read_bytes()
        if hashlib.sha256(payload).hexdigest() != position.sha256.get(part):
            raise CannotResume(f"{part}.safetensors is not the file that {POSITION} names")
        tensors[part] = load(payload)
    return Checkpoint(position, **tensors)


def _names(folder: Path) -> list[str]:
    return sorted((place.name for place in folder.glob("step-*")), reverse=True)


def _write(file: Path, payload: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(payload)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
