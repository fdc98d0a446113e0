"""The command that a newcomer runs first, as they run it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from headrace.deploy.demo import DemoOptions, events_of
from headrace.deploy.demo_command import BadKill, parse_kill
from headrace.streams.readers import count_events

COMMAND = [sys.executable, "-m", "headrace.deploy.cli", "demo", "--plain"]
PROMISED = {
    "broker", "redis", "device", "events_published", "events_counted", "events_lost", "events_double", "dead_letters", "recommendations",
    "model_versions", "swaps", "torn_responses", "drift_alerts", "freshness_ms", "hit_rate_at_20", "popularity_hit_rate_at_20",
}  # fmt: skip


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    without = {name: value for name, value in os.environ.items() if name not in ("HEADRACE_KAFKA", "HEADRACE_REDIS")}
    return without | {"HEADRACE_HOME": str(tmp_path / "home"), "HEADRACE_DEVICE": "cpu", "HEADRACE_BROKER": "kafka"}


def test_a_real_file_is_replayed_whole_and_every_event_is_in_the_features(
    shop_data: Callable[[str], Path], surroundings: dict[str, str], tmp_path: Path
) -> None:
    file = shop_data("diginetica_clicks_purchases.csv.gz")
    # What stands in for it is too short; the demo's own simulator is not.
    is_published = file.suffix == ".gz"
    given = ["--rate", "400", *(("--data", str(file)) if is_published else ("--seconds", "12"))]
    out = tmp_path / "report.json"
    done = subprocess.run(
        [*COMMAND, *given, "--json", str(out)], capture_output=True, text=True, timeout=280, env=surroundings, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report.keys() >= PROMISED
    assert report["broker"].startswith("Apache Kafka 4")
    if is_published:
        assert report["events_published"] == count_events(file)
        assert report["purchases_counted"] == report["purchases_published"] > 200
    assert report["events_counted"] == report["events_published"] > 5000
    assert (report["events_lost"], report["events_double"], report["torn_responses"], report["dead_letters"]) == (0, 0, 0, 0)
    assert report["model_versions"] >= 5
    assert report["swaps"] >= 5
    assert report["responses_checked"] > 10
    assert report["hit_rate_events"] > 50
    assert report["hit_rate_at_20"] > report["popularity_hit_rate_at_20"]
    assert all(report["freshness_ms"][kind][share] > 0 for kind in ("feature", "recommendation", "weights") for share in ("p50", "p99"))
    assert "now first:" in done.stdout


def test_an_interrupt_ends_the_replay_counts_what_was_published_and_leaves_no_process(surroundings: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    log = tmp_path / "demo.out"
    with log.open("w") as output:
        running = subprocess.Popen([*COMMAND, "--rate", "300", "--json", str(out)], stdout=output, stderr=output, env=surroundings)
    try:
        deadline = time.monotonic() + 120
        while "events (" not in log.read_text():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        time.sleep(3)
        children = children_of(running.pid)
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == 0, log.read_text()
    finally:
        running.kill()
    assert len(children) >= 6
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    report = json.loads(out.read_text())
    assert report["events_counted"] == report["events_published"] > 0
    assert report["events_lost"] == report["events_double"] == 0


def test_a_demo_that_goes_on_with_kept_data_does_not_send_the_same_events_again() -> None:
    fresh, again, kept, later = (
        {event.event_id for event in islice(events_of(DemoOptions(keep=keep)), 100)} for keep in (False, False, True, True)
    )
    assert fresh == again
    assert not fresh & kept
    assert not kept & later


def test_a_kill_is_a_part_and_a_time() -> None:
    assert parse_kill("learner@2.5") == ("learner", 2.5)
    for wrong in ("learner", "nobody@3", "learner@soon", "learner@-1"):
        with pytest.raises(BadKill, match="PART@SECONDS was expected"):
            parse_kill(wrong)


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]
