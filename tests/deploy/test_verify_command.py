"""`headrace features verify`, run as a person runs it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import Click
from headrace.streams.feature_worker import FeatureWorker
from headrace.streams.publisher import EventPublisher

COMMAND = [sys.executable, "-m", "headrace.deploy.cli", "features", "verify"]


@pytest.fixture
def verified(fresh_topics: str, clean_redis: str, tmp_path: Path) -> "dict[str, str]":
    """Where the command finds a store that holds the rows of twelve clicks of three shoppers on two items."""
    with EventPublisher(fresh_topics) as publisher:
        for n in range(12):
            publisher.publish(Click(event_id=f"e{n}", event_time_ms=1000 + n, item_id=f"item-{n % 2}", user_id=f"u{n % 3}", session_id="s"))
    store = OnlineStore(connect(clean_redis))
    worker = FeatureWorker(fresh_topics, store)
    deadline_s = time.monotonic() + 60
    while sum(row.views for row in store.scan_items()) < 12:
        worker.step(0.1)
        assert time.monotonic() < deadline_s
    worker.commit()
    worker.close()
    return {"HEADRACE_KAFKA": fresh_topics, "HEADRACE_REDIS": clean_redis, "HEADRACE_HOME": str(tmp_path)}


def run(variables: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | variables,
        check=False,
        cwd=Path(__file__).parent,
    )


def test_right_rows_end_the_command_with_0_and_damaged_ones_with_1_and_a_line_each(verified: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    right = run(verified, "--json", str(file))
    assert right.returncode == 0
    assert all(line.startswith("verify: ") for line in right.stderr.splitlines())
    assert right.stdout.startswith("3 users, 2 items, 1 sessions compared with 12 events in ")
    told = json.loads(file.read_text())
    assert told.pop("seconds") > 0
    assert told == {"users": 3, "items": 2, "sessions": 1, "differences": 0, "unverifiable": 0, "events": 12, "shown": []}

    store = OnlineStore(connect(verified["HEADRACE_REDIS"]))
    store.client.delete(store.users.key("u1"))
    for item in ("item-0", "item-1"):
        store.client.hset(store.items.key(item), store.items.field_names["views"], b"\x20\x09")
    wrong = run(verified, "--json", str(file), "--limit", "2")
    assert wrong.returncode == 1
    first, second, more, last = wrong.stdout.splitlines()
    assert first.startswith("user_activity u1 _row: expected a row that has reached {'clicks/")
    assert second == "item_activity item-0 views: expected 6, found 9"
    assert more == "... and 1 more differences (--limit shows more)"
    assert last.startswith("2 users, 2 items, 1 sessions compared")
    assert json.loads(file.read_text())["shown"][1] == {
        "view": "item_activity",
        "entity": "item-0",
        "column": "views",
        "expected": 6,
        "found": 9,
    }


def test_a_redis_that_is_not_there_is_told_in_one_line(fresh_topics: str) -> None:
    away = run({"HEADRACE_KAFKA": fresh_topics, "HEADRACE_REDIS": "redis://127.0.0.1:1/0"})
    assert away.returncode == 1
    assert away.stderr.startswith("headrace: ")
    assert away.stderr.count("\n") == 1
