"""Latency from publish to readable by Feast's own `get_online_features`, at an even rate, beside the plain path.

One process publishes with an `EventPublisher` (acknowledged by all replicas, lz4, `linger.ms` 0 so that an event leaves at once);
one writes rows, the feature worker or the plain path (`plain_path.py`); one reads (`feast_probe.py`). Broker, Redis and these three
share the machine, unpinned. The clock starts right before `publish` is called and stops when the reader has in hand the answer
of Feast that holds the event: the reading itself is included, on both paths.

Looking must not slow what is looked at. So only some events are looked for, 20 a second at irregular times (a regular beat
could fall in step with the commits): the reader is told of such an event just before it is published, asks for one number of one
user until it is there, with a pause of 0.2 ms after each answer, and rests in between. That is a question or two for each
millisecond of latency, some hundred a second, each a single HMGET, and the reader is idle most of the time; a latency is known
to within one question, about 0.6 ms. The two paths are looked at alike. The first second is not counted.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from msgspec import Struct

from headrace.deploy.bench.events import Shop
from headrace.deploy.bench.feast_probe import PATIENCE_NS
from headrace.deploy.bench.ground import Ground
from headrace.deploy.bench.measured_process import Invalid, MeasuredProcess, Worker
from headrace.schemas import Click
from headrace.schemas.wire import now_ms
from headrace.streams.publisher import EventPublisher
from headrace.streams.replay_rate import Pace

RATES = (500, 2000)
USERS = 20_000
WARM_UP_S = 1.0
LINGER_MS = 0
APART_S = (0.025, 0.075)
START_TIMEOUT_S = 180.0

Path_ = Literal["headrace", "plain"]
Tell = Callable[[str], None]


class Latency(Struct):
    """Milliseconds from publish to readable of the events that were looked for, on one path at one rate; `missing` ones count as 5 s."""

    path: Path_
    rate: int
    achieved_rate: float
    milliseconds: list[float]
    missing: int
    questions: int
    writer_cpu_us_per_event: float

    def quantile(self, share: float) -> float:
        """Return the milliseconds within which that share was readable."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Reader:
    """The process that looks for events through Feast."""

    def __init__(self, ground: Ground) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "headrace.deploy.bench.feast_probe"]
        command += [str(ground.data / "feast" / "registry.db"), ground.redis_url]
        self._log = (ground.home / "logs" / "feast-probe.log").open("w")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def wait_until_ready(self) -> None:
        """Wait until Feast is loaded. Raises Invalid."""
        if self._answer().strip() != "ready":
            raise Invalid(f"the reader has not started; see {self._log.name}")

    def look_for(self, event: Click) -> None:
        """Let it look for an event that is about to be published."""
        self._tell(json.dumps([event.user_id, event.event_time_ms]))

    def found(self) -> list[tuple[int, int | None, int]]:
        """Return what became of the events since the last call, in their order."""
        self._tell("null")
        answers: list[tuple[int, int | None, int]] = json.loads(self._answer())
        return answers

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Invalid(f"the reader has ended; see {self._log.name}")
        return line


def measure_latency(ground: Ground, reader: Reader, path: Path_, rate: int, seconds: float, seed: int, tell: Tell) -> Latency:
    """Publish for so long at that rate, on empty topics into an empty store, with one of the paths at work."""
    ground.empty()
    events = int(rate * (WARM_UP_S + seconds))
    # Times of their own, a millisecond or more apart, tell whether an event is in a row.
    shop = Shop(events, USERS, seed, now_ms() - 60_000 - events, 1.0)
    writer = _start_writer(ground, path, shop)
    try:
        cpu_s = writer.cpu_s()
        asked_ns, took_s = _publish(ground, reader, shop, rate, tell=lambda text: tell(f"{path} at {rate} events/s: {text}"))
        found = reader.found()
        cpu_s = writer.cpu_s() - cpu_s
    finally:
        writer.stop()
    missing = sum(at_ns is None for _, at_ns, _ in found)
    if missing == len(found):
        raise Invalid(f"no event became readable on the path {path}; see {writer.log}")
    milliseconds = [
        PATIENCE_NS / 1e6 if at_ns is None else (at_ns - begun_ns) / 1e6 for begun_ns, (_, at_ns, _) in zip(asked_ns, found, strict=True)
    ]
    return Latency(path, rate, events / took_s, milliseconds, missing, sum(asked for *_, asked in found), 1e6 * cpu_s / events)


def _publish(ground: Ground, reader: Reader, shop: Shop, rate: int, tell: Tell) -> tuple[list[int], float]:
    """Publish at an even rate; return when each event that is looked for was published, in ns, and how long all took, in s."""
    rng = random.Random(shop.seed)
    published_ns: list[int] = []
    events = list(shop)
    settings: dict[str, Any] = {"linger.ms": LINGER_MS}
    with EventPublisher(ground.bootstrap, source="bench", **settings) as publisher:
        pace = Pace(rate)
        begun_s = time.monotonic()
        next_s = begun_s + WARM_UP_S
        for number, event in enumerate(events):
            pace.wait()
            now_s = time.monotonic()
            if now_s >= next_s and isinstance(event, Click):
                next_s = now_s + rng.uniform(*APART_S)
                reader.look_for(event)
                published_ns.append(time.monotonic_ns())
                publisher.publish(event)
            else:
                publisher.publish(event)
            if number % rate == 0:
                tell(f"{number:,} of {len(events):,} events")
        took_s = time.monotonic() - begun_s
    return published_ns, took_s


def _start_writer(ground: Ground, path: Path_, shop: Shop) -> MeasuredProcess:
    if path == "headrace":
        worker = Worker(ground.bootstrap, ground.redis_url, ground.home)
        worker.wait_until_assigned()
        return worker
    command = [sys.executable, "-m", "headrace.deploy.bench.plain_path", ground.bootstrap, ground.redis_url, json.dumps(asdict(shop))]
    plain = MeasuredProcess(command, Path(ground.home / "logs" / "plain.log"))
    plain.wait_for_line("ready", START_TIMEOUT_S)
    return plain
