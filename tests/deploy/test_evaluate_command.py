"""`headrace evaluate`, run as a person runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "headrace.deploy.cli", "evaluate"]


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    variables = {**os.environ, "HEADRACE_HOME": str(home)}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, env=variables)


@pytest.mark.parametrize("file", ["retailrocket_sessions.csv.gz", "diginetica_clicks_purchases.csv.gz"])
def test_baselines_are_measured_on_real_data(shop_data: Callable[[str], Path], tmp_path: Path, file: str) -> None:
    names = ["popularity", "covisitation", "session_knn", "als"]
    options = ["--events", "2000", "--models", ",".join(names), "--json", str(tmp_path / "told.json"), "--png", str(tmp_path / "told.png")]
    done = run(tmp_path, str(shop_data(file)), *options, "--plain")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["events"], told["first_scored_event"], told["baseline"], told["seed"]) == (2_000, 1_000, "session_knn", 1)
    assert told["scored"] > 200
    assert list(told["models"]) == names
    assert told["models"]["session_knn"]["hr@20"] > told["models"]["popularity"]["hr@20"]
    assert told["models"]["popularity"]["versus_baseline"]["ndcg@20_ratio_95"][1] < 1.0
    assert [line.split()[0] for line in done.stdout.splitlines()[2:6]] == names
    assert (tmp_path / "told.png").stat().st_size > 10_000


def test_the_same_run_gives_the_same_quality(shop_data: Callable[[str], Path], tmp_path: Path) -> None:
    timed = {"ms_per_query", "ms_per_query_p99", "learn_events_per_s"}
    figures = []
    for number in range(2):
        told = tmp_path / f"{number}.json"
        options = ["--events", "600", "--models", "covisitation,popularity,bpr", "--baseline", "popularity", "--json", str(told)]
        assert run(tmp_path, str(shop_data("yoochoose_clicks.csv.gz")), *options).returncode == 0
        models = json.loads(told.read_text())["models"]
        figures.append({name: {key: value for key, value in model.items() if key not in timed} for name, model in models.items()})
    assert figures[0] == figures[1]


def test_a_simulated_shop_can_be_asked_for_by_name(tmp_path: Path) -> None:
    done = run(tmp_path, "simulator", "--events", "500", "--models", "covisitation_refit,covisitation", "--from-share", "0.2")
    assert done.returncode == 0, done.stderr
    assert "from event 100 of 500 on" in done.stdout
    assert "covisitation_refit *" in done.stdout


def test_our_model_is_measured_beside_the_baselines(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    names = "headrace,headrace_frozen,headrace_refit,headrace_nightly,popularity"
    done = run(tmp_path, "simulator", "--events", "600", "--models", names, "--baseline", "popularity", "--json", str(told))
    assert done.returncode == 0, done.stderr
    models = json.loads(told.read_text())["models"]
    assert models["headrace"]["ndcg@20"] > models["popularity"]["ndcg@20"]
    assert models["headrace_frozen"]["learn_events_per_s"] > models["headrace"]["learn_events_per_s"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-file.csv", "--models", "popularity"], "there is no file no-such-file.csv"),
        (["simulator", "--models", "popularity,popularty"], "popularity, covisitation, session_knn, als, bpr, headrace"),
        (["simulator", "--models", "popularity", "--baseline", "covisitation"], "one of the models of this run (popularity) was expected"),
        (["simulator", "--models", "popularity", "--json", "no-such-folder/told.json"], "there is no folder no-such-folder"),
        (["simulator", "--models", ","], "at least one name was expected"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_what_was_expected(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("headrace: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    done = run(tmp_path, str(tmp_path / "empty.csv"), "--models", "popularity")
    assert done.returncode == 1
    assert "at least one event was expected, but empty.csv has none" in done.stderr
