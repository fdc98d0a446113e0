"""What each of two processes does in the tests of training by several: one run, its weights left in a file for each."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_shop import STILL, walks

from headrace.online_model.training.distributed import joined
from headrace.online_model.training.full_training import FullTraining
from headrace.online_model.training.plan import TrainingPlan

# Without dropout, whose choice differs between processes, one process can do the same.
PLAN = TrainingPlan(epochs=3, batch=16, negatives=64)


def run(folder: Path, meeting: str) -> None:
    torch.set_num_threads(1)
    with joined(torch.device("cpu"), meeting) as group:
        training = FullTraining(walks(), PLAN, STILL, group=group)
        if (folder / "checkpoints").exists():
            training.resume(folder / "checkpoints")
        trained = training.run(folder / "checkpoints")
        weights = {name: parameter.detach() for name, parameter in trained.copy.model.named_parameters()}
        losses = torch.tensor([point.loss for point in trained.curve])
        save_file({**weights, "losses": losses}, folder / f"rank-{group.rank}.safetensors")


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
