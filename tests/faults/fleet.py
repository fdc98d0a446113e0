"""Feature workers as processes of their own, which tests kill, pause and add to; and an untidy stream to feed them with."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import TopicPartition

from headrace.deploy.processes import free_port
from headrace.schemas import Event
from headrace.schemas.topics import CLICKS, ITEM_CHANGES, PURCHASES
from headrace.streams import kafka
from headrace.streams.publisher import EventPublisher
from headrace.streams.replay_rate import Pace

WORKER = [sys.executable, "-m", "headrace.deploy.cli", "run", "feature-worker"]
MINUTE_MS = 60_000


class Fleet:
    """Starts workers by name, and ends them all at its own end."""

    def __init__(self, bootstrap: str, redis_url: str, folder: Path, command: list[str] = WORKER) -> None:
        self._environment = os.environ | {"HEADRACE_KAFKA": bootstrap, "HEADRACE_REDIS": redis_url, "HEADRACE_HOME": str(folder)}
        self._folder = folder
        self._command = command
        self._ports: dict[str, int] = {}
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self.workers.values():
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()

    def start(self, name: str, *, wait: bool = True, instance: str | None = None) -> None:
        """Start a worker under a static name, so that it has its partitions at once when it comes again; '' for none."""
        self._ports[name] = free_port()
        self.logs[name] = self._folder / f"{name}.log"
        environment = self._environment | {
            "HEADRACE_METRICS_PORT": str(self._ports[name]),
            "HEADRACE_INSTANCE": name if instance is None else instance,
        }
        with self.logs[name].open("ab") as log:
            self.workers[name] = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log)
        if wait:
            until(lambda: self.is_ready(name), f"{name} is ready", told=lambda: self.log(name))

    def is_ready(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[name]}/readyz", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metric(self, name: str, metric: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[name]}/metrics", timeout=5.0) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))

    def send(self, name: str, number: signal.Signals) -> None:
        self.workers[name].send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.workers[name].wait(30)

    def log(self, name: str) -> str:
        return self.logs[name].read_text(errors="replace")[-2000:]


class Feed:
    """Publishes events at a rate from a thread of its own; `stop` ends it and waits until all is acknowledged."""

    def __init__(self, bootstrap: str, events: Iterable[Event], rate: float) -> None:
        self.published = 0
        self._bootstrap = bootstrap
        self._events = events
        self._pace = Pace(rate)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stop.set()
        self._thread.join(60)
        return self.published

    def join(self) -> int:
        self._thread.join(300)
        assert not self._thread.is_alive()
        return self.published

    def _run(self) -> None:
        with EventPublisher(self._bootstrap) as publisher:
            for event in self._events:
                if self._stop.is_set():
                    break
                self._pace.wait()
                publisher.publish(event)
                self.published += 1


def untidy(events: Iterable[Event], seed: int, *, twice: float = 0.1, late: float = 0.01) -> Iterator[Event]:
    """Shuffle events within a minute of event time, send a share of them twice, and hold a share back for some hours."""
    draw = random.Random(seed)
    waiting: list[tuple[int, int, Event]] = []
    for number, event in enumerate(events):
        now_ms = event.event_time_ms
        if draw.random() < late:
            # Not sent twice: so long after, the row may remember the first one no more.
            waiting.append((now_ms + draw.randrange(2 * 60 * MINUTE_MS, 4 * 60 * MINUTE_MS), number, event))
            continue
        waiting.append((now_ms + draw.randrange(MINUTE_MS), number, event))
        if draw.random() < twice:
            waiting.append((now_ms + draw.randrange(5 * MINUTE_MS), -number, event))
        if number % 50 == 0:
            due = sorted(entry for entry in waiting if entry[0] <= now_ms)
            waiting = [entry for entry in waiting if entry[0] > now_ms]
            yield from (entry[2] for entry in due)
    yield from (entry[2] for entry in sorted(waiting, key=lambda entry: entry[:2]))


def drain(bootstrap: str, timeout_s: float = 90.0, told: Callable[[], str] = str) -> None:
    """Wait until the group of the feature workers has committed all that was published."""
    reader = kafka.consumer(bootstrap, "fleet-lag", group="feature-worker")
    places = [TopicPartition(topic.name, number) for topic in (CLICKS, PURCHASES, ITEM_CHANGES) for number in range(topic.partitions)]
    try:
        # Changes follow from events, and may still be on their way when events are committed: look twice.
        for _ in range(2):
            until(lambda: kafka.lag(reader, reader.committed(places, timeout=10.0)) == 0, "all is committed", timeout_s, told)
            time.sleep(0.7)
    finally:
        reader.close()


def verify(bootstrap: str, redis_url: str, folder: Path) -> Mapping[str, Any]:
    """Return what `headrace features verify` finds."""
    out = folder / f"verify-{time.monotonic_ns()}.json"
    command = [sys.executable, "-m", "headrace.deploy.cli", "features", "verify", "--plain", "--json", str(out)]
    done = subprocess.run(
        [*command, "--kafka", bootstrap, "--redis", redis_url], capture_output=True, text=True, timeout=240, env=os.environ, check=False
    )
    assert out.exists(), done.stdout + done.stderr
    report: dict[str, Any] = json.loads(out.read_text())
    assert done.returncode == (1 if report["differences"] else 0)
    print("\n".join(map(str, report["shown"])))
    return report


def until(holds: Callable[[], bool], what: str, timeout_s: float = 60.0, told: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s: {what}\n{told()}"
        time.sleep(0.05)
