"""Two processes train one model: both end with the same weights, near those of one process with the same batches."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_shop import STILL, walks
from torch import Tensor
from two_processes import PLAN

from headrace.online_model.training.full_training import FullTraining

HERE = Path(__file__).parent


def run_both(folder: Path) -> None:
    """Run two processes as torchrun would."""
    command = [sys.executable, str(HERE / "two_processes.py"), str(folder), f"file://{folder}/meeting"]
    about = {**os.environ, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env={**about, "RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]


def weights_of(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights and losses that each process ended with."""
    return load_file(folder / "rank-0.safetensors"), load_file(folder / "rank-1.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that two processes have made."""
    folder = tmp_path_factory.mktemp("whole")
    run_both(folder)
    return folder


def test_two_processes_end_with_equal_weights_near_those_of_one(whole: Path) -> None:
    first, second = weights_of(whole)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.equal(second[name]), name
    losses = first.pop("losses").tolist()
    assert losses[-1] < losses[0] - 0.5

    alone = FullTraining(walks(), PLAN, STILL).run()
    assert losses == pytest.approx([point.loss for point in alone.curve], abs=1e-3)
    for name, parameter in alone.copy.model.named_parameters():
        difference = (first[name] - parameter).abs()
        if name.endswith("query_key_value.bias"):
            # A bias of the keys changes no attention: its gradient is rounding alone, which Adam makes whole steps of.
            difference.chunk(3)[1].zero_()
        assert difference.max() < 5e-3, name


def test_two_processes_go_on_from_their_checkpoint_to_the_last_bit(whole: Path, tmp_path: Path) -> None:
    [earlier, _] = sorted((whole / "checkpoints").iterdir())
    shutil.copytree(earlier, tmp_path / "checkpoints" / earlier.name)
    run_both(tmp_path)
    resumed, _ = weights_of(tmp_path)
    expected, _ = weights_of(whole)
    assert all(tensor.equal(resumed[name]) for name, tensor in expected.items())
