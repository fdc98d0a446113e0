"""The benchmark, run with so little that it only shows that it still runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "headrace.deploy.cli", "bench", "features", "--plain"]
TINY = ["--events", "4000", "--repeats", "1", "--users", "500", "--few-users", "200", "--many-users", "2000", "--latency-s", "1"]
QUIX = Path(".headrace/bench/quix-venv")
LATENCIES = {"p50", "p99", "plain_p50", "plain_p99"}
RATIOS = ["ratio_to_faust", "read_ratio_1", "read_ratio_100", "read_ratio_500", "growth_ratio", "two_worker_speedup"]


def bench(home: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("HEADRACE_KAFKA", "HEADRACE_REDIS")}
    environment |= {"HEADRACE_HOME": str(home)} | variables
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=580, env=environment, check=False)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_every_figure_of_the_feature_side_is_measured_and_written_with_its_samples(tmp_path: Path) -> None:
    if QUIX.exists():
        (tmp_path / "bench").mkdir()
        (tmp_path / "bench" / "quix-venv").symlink_to(QUIX.absolute())
    file = tmp_path / "figures.json"
    result = bench(tmp_path, *TINY, "--no-quix", "--reads-share", "0.01", "--json", str(file))
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())
    assert set(found["readable_ms_500"]) == set(found["readable_ms_2000"]) == LATENCIES
    assert all(found[name] > 0 for name in [*RATIOS, "events_per_s", "bytes_per_user", "cost_us_per_event"])
    assert found["repeats"] == 1
    assert (found["ratio_to_quix"] is not None) == QUIX.exists()
    samples = found["samples"]
    assert [(taken["path"], taken["rate"]) for taken in samples["latency"]] == [
        ("headrace", 500),
        ("plain", 500),
        ("headrace", 2000),
        ("plain", 2000),
    ]
    assert samples["throughput"][0]["headrace"]["events"] == 4000
    assert {times["entities"] for times in samples["reads"]} == {1, 100, 500}
    assert samples["growth"][0]["many_users"] == 2000
    assert samples["two_workers"][0]["two"]["workers"] == 2
    assert found["machine"]["cores"] >= 1
    assert {"latency", "throughput", "reads", "growth", "two-workers"} <= found["notes"].keys()
    assert "readable at 500/s, p50" in result.stdout
    assert list((tmp_path / "bench").glob("data-*")) == []


def test_reads_alone_are_measured_where_only_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    result = bench(tmp_path, *TINY, "--only", "reads", "--reads-share", "0.01", "--json", str(file))
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())
    assert all(found[name] > 0 for name in ("read_ratio_1", "read_ratio_100", "read_ratio_500"))
    assert found["events_per_s"] is None


def test_servers_that_are_given_are_not_emptied_without_a_yes(tmp_path: Path) -> None:
    result = bench(tmp_path, HEADRACE_REDIS="redis://127.0.0.1:1/0", COLUMNS="400")
    assert result.returncode == 2
    assert "HEADRACE_REDIS given" in result.stderr
    assert "--yes" in result.stderr


def test_a_measurement_of_an_unknown_name_is_refused(tmp_path: Path) -> None:
    result = bench(tmp_path, "--only", "latency,speed", COLUMNS="400")
    assert result.returncode == 2
    assert "the value holds speed" in result.stderr
