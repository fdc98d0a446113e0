"""headrace compress and headrace bench scorer, with so little that they only show that they still run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.deploy.compression_run import Outcome, Row, verdicts


def headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", "headrace.deploy.cli", *arguments, "--plain"]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ | {"COLUMNS": "300"}, check=False)


def row(method: str, size_ratio: float, ndcg_ratio: float) -> Row:
    return Row(method, method, 1, size_ratio, ndcg_ratio, ndcg_ratio, 1.0, 1.0)


def test_files_are_written_and_told_in_a_table(shop_data: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    options = ["--events", "1500", "--epochs", "1", "--steps", "10", "--methods", "int8,student+int4", "--no-onnx"]
    result = headrace("compress", str(shop_data("retailrocket_sessions.csv.gz")), *options, "--out", str(tmp_path), "--json", str(file))
    assert result.returncode == 0, result.stderr
    rows = {told["method"]: told for told in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["full", "int8", "student+int4"]
    for told in rows.values():
        assert (tmp_path / told["file"]).stat().st_size == told["size_bytes"]
        assert told["latency_ms"] > 0
    assert rows["student+int4"]["size_ratio"] < rows["int8"]["size_ratio"] < rows["full"]["size_ratio"] == 1.0
    assert "best combination (student+int4)" in result.stdout


def test_a_method_that_nobody_knows_and_a_folder_without_weights_are_refused(shop_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = str(shop_data("retailrocket_sessions.csv.gz"))
    unknown = headrace("compress", data, "--methods", "int7", "--out", str(tmp_path))
    assert unknown.returncode == 1
    assert "not int7" in unknown.stderr
    empty = headrace("compress", data, "--events", "1000", "--snapshot", str(tmp_path), "--methods", "int8", "--out", str(tmp_path))
    assert empty.returncode == 1
    assert "manifest.json" in empty.stderr


def test_the_best_combination_is_the_best_of_those_that_are_small_enough() -> None:
    rows = [row("full", 1, 1), row("int8", 0.28, 1), row("student+int8", 0.13, 0.999), row("a+b", 0.11, 0.985), row("c+d", 0.07, 0.981)]
    [(_, _, int8), (name, _, met)] = verdicts(Outcome(rows, 1, 1, 0.0, 0.0, None))
    assert not int8
    assert met
    assert "a+b" in name


def test_the_scorer_is_measured_beside_its_peers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    file = tmp_path / "figures.json"
    sizes = ["--items", "2000", "--batches", "1,2", "--http-items", "", "--index-items", "3000"]
    result = headrace("bench", "scorer", *sizes, "--seconds", "0.01", "--json", str(file))
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())
    assert len(found["rows"]) == 8
    assert all(told["requests_per_s"] > 0 and told["share_of_limit"] > 0 for told in found["rows"])
    assert [told["ratio_to_eager"] for told in found["rows"] if told["peer"] == "eager torch"] == [1.0, 1.0]
    assert found["index"][0]["recall_at_100"] > 0.9
    assert found["cuda"] == "no GPU here" or found["cuda"]


def test_a_catalogue_too_small_to_be_measured_is_refused_before_anything_is() -> None:
    result = headrace("bench", "scorer", "--index-items", "0")
    assert result.returncode == 2
    assert "--index-items: whole numbers of 2000 or more" in " ".join(result.stderr.replace("│", " ").split())
