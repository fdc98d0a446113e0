"""`headrace train`: from frames of the archive and from a file of events alike, with files that say what was learned."""

import inspect
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import torch
from msgspec.structs import replace
from typer.testing import CliRunner

from headrace.deploy.cli import app
from headrace.deploy.placed_events import kafka_events, placed_events
from headrace.deploy.train_command import train
from headrace.deploy.training_frames import UnusableFrames, examples_of_events, read_frames
from headrace.deploy.training_report import TABLE_BEGINS, TABLE_ENDS
from headrace.deploy.training_run import TrainingRefused
from headrace.features.archive import USER_VERSIONS, Stretch, versions_table
from headrace.features.archive_folder import ArchiveFolder
from headrace.features.backfill import source_of
from headrace.features.place import Place
from headrace.features.user_row import fold_user
from headrace.online_model.training.checkpoints import CannotResume
from headrace.online_model.training.examples import TooFewExamples
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import ModelCopy
from headrace.schemas import Click, Event, ModelUpdate, UserRow, shopper_id, wire
from headrace.streams.simulator import simulate

EVENTS = 1500
DAY_MS = 24 * 3_600_000
SMALL = ["--width", "16", "--length", "8", "--batch", "32", "--negatives", "64", "--epochs", "2", "--threads", "1", "--plain"]
SHAPE = TransformerShape(width=16, layers=1, heads=2, length=8)


def arrivals(noise: random.Random) -> Iterator[tuple[Event, Place]]:
    """Yield events in the order of their publishing: some in one millisecond, some after months, late ones, and some sent twice."""
    published_ms, offsets = 1_750_000_000_000, dict[str, int]()
    sent: list[Event] = []
    for event in simulate(1, events=EVENTS):
        published_ms += noise.choice([0, 0, 1, 1000, 60_000, 3 * 3_600_000])
        if noise.random() < 0.002:
            published_ms += 31 * DAY_MS
        told = replace(event, event_time_ms=published_ms - noise.choice([0, 5, 2000]))
        sent.append(told)
        for one in [told, noise.choice(sent[-20:])] if noise.random() < 0.05 else [told]:
            source = source_of(one)
            offsets[source] = offsets.get(source, -1) + 1
            yield one, Place(source, offsets[source], published_ms)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stream as JSON lines, the archive of its rows, and the frames that Feast makes of both."""
    folder = tmp_path_factory.mktemp("shop")
    rows: dict[str, UserRow] = {}
    versions: list[UserRow] = []
    with (folder / "events.jsonl").open("wb") as lines:
        for event, place in arrivals(random.Random(4)):
            told = msgspec.json.decode(wire.encode(event)) | msgspec.structs.asdict(place)
            lines.write(msgspec.json.encode(told) + b"\n")
            shopper = shopper_id(event)
            rows[shopper] = fold_user(rows.get(shopper, UserRow(shopper_id=shopper)), event, place)
            versions.append(rows[shopper])
    table = versions_table(USER_VERSIONS, list(enumerate(versions)))
    ArchiveFolder(folder / "archive").write(Stretch("user-features", 0, 0, len(versions) - 1), table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_HOME", str(folder))
        invoke("features", "examples", str(folder / "events.jsonl"), "--out", str(folder / "frames.parquet"), "--plain")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def invoke(*command: str) -> str:
    done = CliRunner().invoke(app, command)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def trained(folder: Path) -> ModelCopy:
    copy = ModelCopy(SHAPE)
    update = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=ModelUpdate)
    copy.apply(update, (folder / "weights.safetensors").read_bytes())
    return copy


def same(one: ModelCopy, other: ModelCopy) -> bool:
    theirs = dict(other.model.named_parameters())
    used = len(one.items)
    return one.items == other.items and all(
        tensor[:used].equal(theirs[name][:used]) if name == "items.weight" else tensor.equal(theirs[name])
        for name, tensor in one.model.named_parameters()
    )


def test_feasts_frames_and_the_events_themselves_give_the_same_examples(home: Path) -> None:
    from_frames = read_frames(home / "frames.parquet")
    from_events = examples_of_events(placed_events(home / "events.jsonl"))
    assert [example._replace(history=list(example.history)) for example in from_frames] == from_events
    # The stream is such that it matters: some shoppers had no history, or one out of its time to live.
    with_history = sum(bool(example.history) for example in from_events)
    assert 0.2 * EVENTS < with_history < 0.95 * EVENTS
    assert len({example.target.kind for example in from_events}) == 3


def test_no_step_is_in_its_own_history_nor_is_anything_later(home: Path) -> None:
    published = [place.published_ms for _, place in placed_events(home / "events.jsonl")]
    assert sorted(published) == published
    for example in read_frames(home / "frames.parquet"):
        assert all(entry.time_ms <= example.asked_ms for entry in example.history)


def test_both_sources_train_to_the_same_weights(home: Path, tmp_path: Path) -> None:
    told = invoke("train", str(home / "frames.parquet"), *SMALL, "--out", str(tmp_path / "frames"))
    assert "epoch 2.00" in told
    invoke("train", "--events", str(home / "events.jsonl"), *SMALL, "--out", str(tmp_path / "events"))
    assert same(trained(tmp_path / "frames"), trained(tmp_path / "events"))


def test_the_files_say_what_was_learned_and_how_far_the_stream(home: Path, tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "run.json"), "--png", str(tmp_path / "run.png"), "--out", str(tmp_path / "out")]
    invoke("train", str(home / "frames.parquet"), *SMALL, *files)
    told = json.loads((tmp_path / "run.json").read_text())
    assert [point["epoch"] for point in told["curve"]] == [0.0, 1.0, 2.0]
    assert told["curve"][2]["loss"] < told["curve"][0]["loss"] - 0.3
    assert told["training"] + told["validation"] == len(read_frames(home / "frames.parquet"))
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["learned_offsets"] == told["learned_offsets"]
    assert set(manifest["learned_offsets"]) >= {"clicks/0", "purchases/0"}
    assert manifest["learned_events"] == told["training"]


def test_an_interrupted_run_goes_on_by_resume(home: Path, tmp_path: Path) -> None:
    command = ["train", str(home / "frames.parquet"), *SMALL]
    invoke(*command, "--epochs", "3", "--out", str(tmp_path / "whole"))
    invoke(*command, "--epochs", "1", "--checkpoints", str(tmp_path / "on-the-way"))
    with pytest.raises(TrainingRefused, match="holds those of a run; go on with it by --resume"):
        invoke(*command, "--checkpoints", str(tmp_path / "on-the-way"))
    invoke(*command, "--epochs", "3", "--checkpoints", str(tmp_path / "on-the-way"), "--resume", "--out", str(tmp_path / "resumed"))
    assert same(trained(tmp_path / "whole"), trained(tmp_path / "resumed"))
    with pytest.raises(CannotResume, match="a checkpoint was expected; there is none"):
        invoke(*command, "--checkpoints", str(tmp_path / "nothing"), "--resume")


def test_two_processes_share_a_run(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace.deploy.train_command", str(home / "frames.parquet"), *SMALL, "--processes", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "run.json")],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "HEADRACE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2.00") == 1
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["processes"] == 2
    assert told["curve"][2]["loss"] < told["curve"][0]["loss"] - 0.3
    assert len(trained(tmp_path / "out").items) == told["items"] + 1


def test_optimizers_are_compared_in_a_table_that_takes_its_place_in_a_document(home: Path, tmp_path: Path) -> None:
    document = tmp_path / "training.md"
    document.write_text(f"# Training\n{TABLE_BEGINS}old\n{TABLE_ENDS}the end\n")
    files = ["--markdown", str(document), "--json", str(tmp_path / "run.json"), "--png", str(tmp_path / "run.png")]
    printed = invoke("train", str(home / "frames.parquet"), *SMALL, "--epochs", "1", "--compare-optimizers", *files)
    before, _, rest = document.read_text().partition(TABLE_BEGINS)
    table, _, after = rest.partition(TABLE_ENDS)
    assert (before, after) == ("# Training\n", "the end\n")
    assert table in printed
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert [row[0].split(",")[0] for row in rows[2:]] == ["sgd", "adagrad", "rmsprop", "adam", "adam"]
    assert all(len(row) == len(rows[0]) for row in rows)
    told = json.loads((tmp_path / "run.json").read_text())
    assert [f"{one['curve'][1]['ndcg20']:.3f}" for one in told["optimizers"]] == [row[3] for row in rows[2:]]


def test_frames_of_a_plain_history_are_views_at_the_instant_asked(home: Path, tmp_path: Path) -> None:
    table = pq.read_table(home / "frames.parquet").drop_columns(["kind", "time_ms", "price", "category", "source", "offset"])
    pq.write_table(table, tmp_path / "plain.parquet")
    examples = read_frames(tmp_path / "plain.parquet")
    assert [example.history for example in examples] == [example.history for example in read_frames(home / "frames.parquet")]
    assert {(example.target.kind, example.target.time_ms - example.asked_ms, example.source) for example in examples} == {("view", 0, "")}


def test_lines_that_are_no_events_are_left_out_and_told(home: Path, tmp_path: Path) -> None:
    lines = (home / "events.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "events.jsonl").write_bytes(b"".join([*lines[:50], b"{broken\n", b'{"type": "click"}\n', *lines[50:]]))
    done = CliRunner().invoke(app, ["train", "--events", str(tmp_path / "events.jsonl"), *SMALL, "--epochs", "1"])
    assert done.exit_code == 0
    assert "left out: 2 lines that are no events, first of them events.jsonl:51" in done.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "FRAMES or --events FILE: one of them was expected"),
        (["FRAMES", "--limit", "5"], "--limit: goes with --events"),
        (["FRAMES", "--rate", "-1"], "--rate: a number above 0 was expected; the value is -1.0"),
        (["FRAMES", "--heads", "3"], "--heads: a number that divides the width 64 was expected; the value is 3"),
        (["FRAMES", "--resume"], "--resume: needs --checkpoints"),
        (["FRAMES", "--markdown", "table.md"], "--markdown: goes with --compare-optimizers"),
        (["FRAMES", "--compare-optimizers", "--out", "weights"], "--compare-optimizers: trains many models"),
        (["FRAMES", "--compare-optimizers", "--processes", "2"], "--compare-optimizers: one process was expected"),
        (["FRAMES", "--json", "missing/run.json"], "--json: a file in a folder that exists was expected; there is no folder missing"),
    ],
)
def test_what_makes_no_sense_is_told_by_its_option_before_anything_is_read(home: Path, options: list[str], told: str) -> None:
    named = [str(home / "frames.parquet") if option == "FRAMES" else option for option in options]
    with pytest.raises(TrainingRefused, match=told):
        invoke("train", *named)


def test_a_file_of_other_columns_and_one_that_is_no_parquet_are_told(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableFrames, match="a Parquet file was expected"):
        read_frames(home / "events.jsonl")
    pq.write_table(pq.read_table(home / "frames.parquet").drop_columns(["item_id"]), tmp_path / "other.parquet")
    with pytest.raises(
        UnusableFrames, match="item_id were expected among the columns; such a file is made by `headrace features examples`"
    ):
        read_frames(tmp_path / "other.parquet")


def test_the_network_is_that_of_the_learner_where_no_size_is_given() -> None:
    usual = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    assert {name: usual[name] for name in ("width", "layers", "heads", "length")} == {
        name: getattr(TransformerShape(), name) for name in ("width", "layers", "heads", "length")
    }


def test_too_few_events_are_told(home: Path) -> None:
    with pytest.raises(TooFewExamples, match=r"none of the \d to learn from has a history"):
        invoke("train", "--events", str(home / "events.jsonl"), "--limit", "3", *SMALL)


def test_events_without_places_are_placed_as_a_backfill_places_them(tmp_path: Path) -> None:
    clicks = [
        Click(event_id=f"e{number}", event_time_ms=1000 + number, session_id="s", item_id="a", user_id=f"u{number % 2}")
        for number in range(4)
    ]
    (tmp_path / "events.jsonl").write_bytes(b"".join(wire.encode(click) + b"\n" for click in clicks))
    placed: list[Any] = list(placed_events(tmp_path / "events.jsonl"))
    assert [event for event, _ in placed] == clicks
    assert [place.published_ms for _, place in placed] == [1000, 1001, 1002, 1003]
    assert all(place.source == source_of(event) for event, place in placed)
    assert [place for _, place in placed_events(tmp_path / "events.jsonl", limit=2)] == [place for _, place in placed[:2]]


def test_kafka_tells_its_events_in_the_order_of_their_publishing(home: Path, fresh_topics: str, tmp_path: Path) -> None:
    events = [event for event, _ in placed_events(home / "events.jsonl", limit=300)]
    (tmp_path / "events.jsonl").write_bytes(b"".join(wire.encode(event) + b"\n" for event in events))
    invoke("publish", str(tmp_path / "events.jsonl"), "--kafka", fresh_topics, "--plain")
    told: list[tuple[int, int]] = []
    refused: list[str] = []
    found = kafka_events(fresh_topics, refuse=refused.append, progress=lambda done, total: told.append((done, total)))
    assert refused == []
    assert told[-1] == (300, 300)
    assert sorted(event.event_id for event, _ in found) == sorted(event.event_id for event in events)
    times = [place.published_ms for _, place in found]
    assert times == sorted(times)
    by_source: dict[str, list[int]] = {}
    for _, place in found:
        by_source.setdefault(place.source, []).append(place.offset)
    assert all(offsets == list(range(len(offsets))) for offsets in by_source.values())
