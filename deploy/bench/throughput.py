"""Throughput on a backlog: one feature worker with all views on, beside one counter in Quix Streams and one in Faust.

Ours is the process that runs in production, in its own batches: the clock starts when it is assigned its partitions and stops
when the offsets of all clicks, purchases and item changes are committed, so that rows, changelogs and the second pass by item
are all in it. The peers count the clicks of the same topic; their clock starts at the first event, not at the start of the
process, and stops when the last value is in Redis. Quix Streams is measured in two ways: with its own Redis sink, which
gathers values until its checkpoint each 5 s, so that Redis is seconds behind; and with a write for each event, as fresh as our
rows are. They read fewer events, since their rate does not depend on how many there
are and Faust would take ten minutes. Each repeat measures all of them, one after another, with an emptied Redis.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from headrace.deploy.bench.ground import Ground
from headrace.deploy.bench.measured_process import Invalid, MeasuredProcess, Worker
from headrace.schemas.topics import CLICKS

QUIX_EVENTS = {"sink": 200_000, "each": 50_000}
FAUST_EVENTS = 50_000
SLOWEST_PER_S = 500
PATIENCE_S = 120.0

QuixMode = Literal["sink", "each"]
Tell = Callable[[str], None]


class Rate(Struct):
    """What one process did: events taken in, the time and the CPU time for them, its memory at the end."""

    events: int
    seconds: float
    cpu_s: float
    memory_bytes: int = 0

    @property
    def events_per_s(self) -> float:
        """Events in a second of the clock on the wall."""
        return self.events / self.seconds

    @property
    def cpu_us_per_event(self) -> float:
        """CPU time of the process for one event, in microseconds."""
        return 1e6 * self.cpu_s / self.events


def measure_worker(ground: Ground, events: int, tell: Tell, redis_url: str | None = None) -> Rate:
    """Let one feature worker take in all events that are published. Raises Invalid where it counted others than `events`."""
    worker = Worker(ground.bootstrap, redis_url or ground.redis_url, ground.home)
    try:
        started_s = worker.wait_until_assigned()
        cpu_s = worker.cpu_s()
        commits = ground.commits()
        finished_s = commits.wait(
            lambda left: tell(f"headrace: {max(0, events - left):,} of {events:,} events"), worker.require_alive, limit_s(events)
        )
        rate = Rate(events, finished_s - started_s, worker.cpu_s() - cpu_s, worker.memory_bytes())
        counted = worker.events_counted()
        if counted != events:
            raise Invalid(f"{events} events were published and the worker counted {counted}")
        return rate
    finally:
        worker.stop()


def measure_quix(ground: Ground, clicks: int, python: Path, mode: QuixMode, name: str, tell: Tell) -> Rate:
    """Let Quix Streams count the first clicks of the topic, and write with its own sink, or for each event by itself."""
    events = min(clicks, QUIX_EVENTS[mode])
    state = ground.data / "quix-state"
    shutil.rmtree(state, ignore_errors=True)
    host, port, database = _parts(ground.redis_url)
    script = str(Path(__file__).with_name("quix_peer.py"))
    command = [str(python), script, mode, ground.bootstrap, host, port, database, CLICKS.name, str(events), str(state)]
    command.append(f"headrace-bench-{name}")
    tell(f"Quix Streams ({mode}): {events:,} events")
    try:
        return _peer(ground, MeasuredProcess(command, ground.home / "logs" / "quix.log"), events)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def measure_faust(ground: Ground, clicks: int, name: str, tell: Tell) -> Rate:
    """Let a Faust table count the first clicks of the topic."""
    events = min(clicks, FAUST_EVENTS)
    data = ground.data / "faust-data"
    command = [sys.executable, "-W", "ignore", "-m", "headrace.deploy.bench.faust_peer", ground.bootstrap, ground.redis_url]
    command += [CLICKS.name, str(events), str(data), f"headrace-bench-{name}"]
    tell(f"Faust: {events:,} events")
    try:
        return _peer(ground, MeasuredProcess(command, ground.home / "logs" / "faust.log"), events)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def limit_s(events: int) -> float:
    """Return after how long a measurement is given up."""
    return PATIENCE_S + events / SLOWEST_PER_S


def _peer(ground: Ground, process: MeasuredProcess, events: int) -> Rate:
    try:
        found = process.result(limit_s(events))
    finally:
        process.stop()
    counted = ground.sum_of_counters()
    if counted != events:
        raise Invalid(f"a peer was given {events} events and its counters in Redis come to {counted}; see {process.log}")
    return Rate(events, found["finished_s"] - found["started_s"], found["cpu_s"])


def _parts(redis_url: str) -> tuple[str, str, str]:
    parts = urlsplit(redis_url)
    return parts.hostname or "127.0.0.1", str(parts.port or 6379), parts.path.strip("/") or "0"
