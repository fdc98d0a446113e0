"""A process that is measured from outside: what it costs in CPU time and memory, and on which cores it may run. Linux only."""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from headrace.deploy.processes import ChildProcess, free_port
from headrace.deploy.scrape import scrape
from headrace.streams.metrics import EVENTS

LOOK_EVERY_S = 0.02
START_TIMEOUT_S = 60.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Invalid(RuntimeError):
    """What was measured is not what should have been: the figure would be wrong."""


class MeasuredProcess:
    """A child process. The log begins anew with it."""

    def __init__(self, command: list[str], log: Path, variables: Mapping[str, str] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        self.log = log
        self._process = ChildProcess(command, log, os.environ | (variables or {}))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the CPU time that all its threads have used. Raises Invalid where it has ended."""
        self.require_alive()
        return cpu_s(self.pid)

    def memory_bytes(self) -> int:
        """Return its resident memory. Raises Invalid where it has ended."""
        self.require_alive()
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def require_alive(self) -> None:
        """Raise Invalid, with the end of its log, where it has ended."""
        status = self._process.poll()
        if status is not None:
            raise Invalid(f"a measured process ended with exit status {status}; the end of its log:\n{self._process.end_of_log()}")

    def result(self, timeout_s: float) -> dict[str, Any]:
        """Wait for its end and return the object on the last line of its output. Raises Invalid where there is none."""
        deadline = time.monotonic() + timeout_s
        while (status := self._process.poll()) is None:
            if time.monotonic() > deadline:
                raise Invalid(f"not done after {timeout_s:g} s; the end of its log ({self.log}):\n{self._process.end_of_log()}")
            time.sleep(LOOK_EVERY_S)
        last = "".join(self.log.read_text(errors="replace").splitlines()[-1:])
        # Faust puts the codes that hide and show a cursor before it.
        begins = last.find("{")
        if status != 0 or begins < 0:
            raise Invalid(f"ended with exit status {status}; the end of its log ({self.log}):\n{self._process.end_of_log()}")
        found: dict[str, Any] = json.loads(last[begins:])
        return found

    def wait_for_line(self, text: str, timeout_s: float = START_TIMEOUT_S) -> str:
        """Return the newest line of its log that holds `text`, once there is one. Raises NotReady."""
        self._process.wait_until(lambda: text in self.log.read_text(errors="replace"), text, timeout_s)
        return next(line for line in reversed(self.log.read_text(errors="replace").splitlines()) if text in line)

    def stop(self) -> None:
        """Ask it to end, and wait for it."""
        self._process.stop(30.0)


class Worker(MeasuredProcess):
    """A feature worker as it runs in production: `headrace run feature-worker`."""

    def __init__(self, bootstrap: str, redis_url: str, home: Path, name: str = "worker") -> None:
        self._port = free_port()
        variables = {"HEADRACE_KAFKA": bootstrap, "HEADRACE_REDIS": redis_url, "HEADRACE_HOME": str(home), "HEADRACE_INSTANCE": ""}
        variables["HEADRACE_METRICS_PORT"] = str(self._port)
        super().__init__([sys.executable, "-m", "headrace.deploy.cli", "run", "feature-worker"], home / "logs" / f"{name}.log", variables)

    def wait_until_assigned(self) -> float:
        """Wait until it has partitions; return when that was, in seconds since 1970."""
        line = json.loads(self.wait_for_line('"partitions assigned"'))
        return datetime.fromisoformat(line["time"]).timestamp()

    def events_counted(self) -> int:
        """Return how many events it has folded."""
        name = f"{EVENTS._name}_total "
        return next((int(float(line[len(name) :])) for line in (scrape(self._port, 30.0) or "").splitlines() if line.startswith(name)), 0)


def cpu_s(pid: int) -> float:
    """Return the CPU time that the threads of a process have used."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS_PER_S


def pin(pid: int, cores: Iterable[int]) -> None:
    """Let all threads of a process run on these cores only; threads that it starts later follow."""
    allowed = set(cores)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), allowed)
        except ProcessLookupError:
            continue
