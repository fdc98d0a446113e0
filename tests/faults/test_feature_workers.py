"""Feature workers are killed, paused and outnumbered under an untidy stream; a recomputation of all rows finds no difference."""

import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Feed, Fleet, drain, untidy, until, verify

from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import Event
from headrace.streams.simulator import simulate

SEED = random.SystemRandom().randrange(1_000_000)
KILLS = 20
PAUSED_S = 14.0
STORM_S = 60.0


@pytest.fixture
def fleet(fresh_topics: str, clean_redis: str, tmp_path: Path) -> Iterator[Fleet]:
    print(f"seed {SEED}")
    with Fleet(fresh_topics, clean_redis, tmp_path) as workers:
        yield workers


def stream(seed: int, events: int | None = None) -> Iterator[Event]:
    return untidy(simulate(seed, shoppers=300, items=200, events=events), seed)


def test_twenty_kills_at_random_points_leave_no_difference(fleet: Fleet, fresh_topics: str, clean_redis: str, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    fleet.start("a")
    feed = Feed(fresh_topics, stream(SEED), 1000)
    for _ in range(KILLS):
        time.sleep(draw.uniform(0.05, 1.0))
        fleet.send("a", signal.SIGKILL)
        fleet.start("a", wait=draw.random() < 0.7)
    published = feed.stop()
    drain(fresh_topics, told=lambda: fleet.log("a"))
    report = verify(fresh_topics, clean_redis, tmp_path)
    assert report["differences"] == 0, (SEED, report)
    assert report["unverifiable"] == 0
    assert published > 5_000
    assert min(report["users"], report["items"], report["sessions"]) > 100


def test_a_paused_worker_cannot_overwrite_its_successor(fleet: Fleet, fresh_topics: str, clean_redis: str, tmp_path: Path) -> None:
    """It sleeps past its session, its partitions move, and it wakes with a batch in its hands."""
    fleet.start("a", instance="")
    feed = Feed(fresh_topics, stream(SEED), 1500)
    time.sleep(2.0)
    fleet.start("b", instance="", wait=False)
    time.sleep(1.0)
    fleet.send("a", signal.SIGSTOP)
    time.sleep(PAUSED_S)
    fleet.send("a", signal.SIGCONT)
    time.sleep(3.0)
    feed.stop()
    drain(fresh_topics, told=lambda: fleet.log("a") + fleet.log("b"))
    report = verify(fresh_topics, clean_redis, tmp_path)
    assert report["differences"] == 0, (SEED, report)
    assert all(worker.poll() is None for worker in fleet.workers.values()), fleet.log("a") + fleet.log("b")


@pytest.mark.parametrize("storm_s", [15.0, pytest.param(STORM_S, marks=pytest.mark.soak)])
def test_a_second_worker_that_comes_and_goes_stops_neither_progress_nor_exactness(
    fleet: Fleet, fresh_topics: str, clean_redis: str, tmp_path: Path, storm_s: float
) -> None:
    fleet.start("a", instance="")
    feed = Feed(fresh_topics, stream(SEED), 500)
    deadline = time.monotonic() + storm_s
    rounds = 0
    while time.monotonic() < deadline:
        fleet.start("b", instance="", wait=False)
        time.sleep(5.0)
        fleet.send("b", signal.SIGTERM if rounds % 2 else signal.SIGKILL)
        rounds += 1
        time.sleep(5.0 if rounds < 3 else 1.0)
    feed.stop()
    drain(fresh_topics, told=lambda: fleet.log("a"))
    report = verify(fresh_topics, clean_redis, tmp_path)
    assert report["differences"] == 0, (SEED, report)
    assert rounds >= storm_s / 10


def test_without_the_offset_rule_the_same_check_reports_doubles(fresh_topics: str, clean_redis: str, tmp_path: Path) -> None:
    """A check that never fails has not been shown to work: here rows forget which events they hold."""
    careless = [sys.executable, str(Path(__file__).parent / "careless_worker.py")]
    draw = random.Random(SEED)
    with Fleet(fresh_topics, clean_redis, tmp_path, careless) as workers:
        workers.start("a")
        feed = Feed(fresh_topics, simulate(SEED, shoppers=300, items=200), 1000)
        for _ in range(5):
            time.sleep(draw.uniform(0.3, 1.0))
            workers.send("a", signal.SIGKILL)
            workers.start("a")
        feed.stop()
        drain(fresh_topics, told=lambda: workers.log("a"))
    report = verify(fresh_topics, clean_redis, tmp_path)
    assert report["differences"] > 0, SEED


def test_repeats_shuffles_and_late_events_give_the_rows_of_a_recomputation(
    fleet: Fleet, fresh_topics: str, clean_redis: str, tmp_path: Path
) -> None:
    fleet.start("a")
    Feed(fresh_topics, stream(SEED, events=20_000), 10_000).join()
    drain(fresh_topics, told=lambda: fleet.log("a"))
    until(lambda: fleet.metric("a", "headrace_feature_events_total") >= 20_000, "all are counted")
    report = verify(fresh_topics, clean_redis, tmp_path)
    assert report["differences"] == 0, (SEED, report)
    assert fleet.metric("a", "headrace_feature_events_total") == 20_000
    assert fleet.metric("a", "headrace_feature_events_repeated_total") > 1_500
    rows = list(OnlineStore(connect(clean_redis)).scan_users())
    assert fleet.metric("a", "headrace_feature_events_late_total") == sum(row.late for row in rows) > 20
    assert fleet.metric("a", "headrace_feature_events_repeated_total") == sum(row.repeated for row in rows)
