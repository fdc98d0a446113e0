"""The command line, run as a person runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from headrace.schemas import Click, DriftAlert, wire
from headrace.schemas.topics import CLICKS
from headrace.streams.publisher import EventPublisher

COMMAND = [sys.executable, "-m", "headrace.deploy.cli"]


def headrace(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | variables, check=False)


@pytest.fixture
def clicks_file(tmp_path: Path) -> Path:
    path = tmp_path / "clicks.csv"
    rows = [f"{number},s{number % 7},item-{number % 11}" for number in range(1, 501)]
    path.write_text("timestamp_ms,session_id,item_id\n" + "\n".join(rows) + "\nsoon,s,a\n")
    return path


def test_help_names_the_commands_without_loading_what_they_need() -> None:
    result = headrace("--help")
    assert result.returncode == 0
    for command in ("settings", "topics", "schemas", "publish", "tail"):
        assert command in result.stdout
    heavy = ("confluent_kafka", "redis", "torch", "feast", "faust")
    loaded = f"import sys, headrace.deploy.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_settings_are_printed_and_written_with_passwords_masked(tmp_path: Path) -> None:
    result = headrace("settings", "--json", str(tmp_path / "s.json"), HEADRACE_REDIS="redis://:secret@127.0.0.1:1/0", HEADRACE_DEVICE="cpu")
    assert result.returncode == 0
    assert "HEADRACE_REDIS=redis://:***@127.0.0.1:1/0" in result.stdout
    assert json.loads((tmp_path / "s.json").read_text())["HEADRACE_DEVICE"] == "cpu"


def test_a_bad_setting_ends_a_command_with_one_line() -> None:
    result = headrace("settings", HEADRACE_DEVICE="gpu")
    assert result.returncode == 1
    assert (
        result.stderr == "headrace: HEADRACE_DEVICE: auto, cpu or cuda was expected; the value is 'gpu'. Correct the variable or unset it\n"
    )


@pytest.mark.parametrize("command", [("tail", "clicks"), ("topics", "create")])
def test_a_broker_that_is_not_there_is_told_in_one_line_within_ten_seconds(command: tuple[str, ...]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    started_s = time.monotonic()
    result = headrace(*command, "--kafka", address)
    assert time.monotonic() - started_s < 10
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"headrace: no Kafka broker answered at {address} within 6 s")
    assert "set HEADRACE_KAFKA" in line


@pytest.mark.usefixtures("fresh_topics")
def test_topics_are_listed_and_created(kafka: str) -> None:
    assert headrace("topics", "create", "--kafka", kafka).stdout == "all topics are there\n"
    listed = headrace("topics", "list", HEADRACE_KAFKA=kafka)
    assert listed.returncode == 0
    assert "clicks           4 partitions  delete" in listed.stdout


@pytest.mark.usefixtures("fresh_topics")
def test_a_file_is_published_and_told_in_numbers(kafka: str, clicks_file: Path, tmp_path: Path) -> None:
    result = headrace("publish", str(clicks_file), "--kafka", kafka, "--json", str(tmp_path / "out.json"), "--plain")
    assert result.returncode == 0, result.stderr
    assert "500 events published from clicks.csv" in result.stdout
    assert "refused: clicks.csv:502 event_time_ms: " in result.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["published"], told["acknowledged"], told["refused"], told["failed"]) == (500, 500, 1, 0)
    shown = headrace("tail", "clicks", "--from", "beginning", "--count", "500", "--json-lines", "--kafka", kafka)
    assert len({wire.decode(Click, line.encode()).event_id for line in shown.stdout.splitlines()}) == 500


@pytest.mark.usefixtures("fresh_topics")
def test_a_limit_and_a_rate_are_kept(kafka: str, clicks_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = headrace("publish", str(clicks_file), "--kafka", kafka, "--limit", "200", "--rate", "100", "--json", str(out))
    assert result.returncode == 0, result.stderr
    told = json.loads(out.read_text())
    assert told["acknowledged"] == 200
    assert 1.95 < told["seconds"] < 4.0


@pytest.mark.usefixtures("fresh_topics")
def test_a_message_is_one_readable_line_whatever_it_holds(kafka: str) -> None:
    with EventPublisher(kafka) as publisher:
        click = Click(event_id="1", event_time_ms=1_760_000_000_000, item_id="lamp", user_id="ada", price=9.5, category="a\x1b[31m\nb")
        publisher.publish(click)
    result = headrace("tail", "clicks", "--from", "beginning", "--count", "1", "--kafka", kafka)
    line = r"2025-10-09T08:53:20.000Z Click event_id=1 item_id=lamp user_id=ada action=view price=9.50 category=a\x1b[31m\nb"
    assert result.stdout == line + "\n"


def test_every_type_of_message_has_a_readable_line() -> None:
    from headrace.deploy.tail_command import readable

    alert = DriftAlert(
        alert_id="a", signal="loss", detector="adwin", severity="warning", level_before=0.123456, level_after=7.0, window=5, observations=9,
        model_version=1, event_time_ms=0, created_ms=5, reaction="fine-tuning",
    )  # fmt: skip
    assert readable(alert).startswith("1970-01-01T00:00:00.000Z DriftAlert alert_id=a signal=loss")
    assert "level_before=0.1235 level_after=7.00" in readable(alert)


@pytest.mark.usefixtures("fresh_topics")
@pytest.mark.parametrize("topic", ["clikcs", "model-weights"])
def test_a_topic_that_cannot_be_read_is_told_in_one_line(kafka: str, topic: str) -> None:
    result = headrace("tail", topic, "--kafka", kafka)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert topic in result.stderr


def test_a_file_of_unknown_layout_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n")
    result = headrace("publish", str(path), "--kafka", "127.0.0.1:1")
    assert result.returncode == 1
    assert result.stderr.startswith("headrace: x.csv:1: one of these layouts")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("fresh_topics")
@pytest.mark.parametrize("command", ["tail", "publish"])
def test_an_interrupt_ends_cleanly_with_130(kafka: str, command: str, clicks_file: Path) -> None:
    arguments = ["tail", CLICKS.name] if command == "tail" else ["publish", str(clicks_file), "--rate", "20"]
    # Tests that run in the background of a shell have the signal switched off, and hand that down.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        [*COMMAND, *arguments, "--kafka", kafka], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen
    ) as process:
        # Long enough to be at work on a machine that does other things too; before that Python itself answers the signal.
        time.sleep(6.0)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    if command == "publish":
        assert "events published from clicks.csv" in out
