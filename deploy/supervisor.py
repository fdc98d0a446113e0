"""Keeping the parts of Headrace alive on one machine: each a process of its own, started again when it dies."""

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.deploy.processes import ChildProcess, free_port
from headrace.deploy.settings import Settings, variable_of
from headrace.streams.signing import ensure_keys

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
STEADY_S = 20.0
# On a busy machine what nobody waits for comes last. The learner is not of these: ten steps nicer than the others it learns from an event
# two to three times as late, and leaves many out.
NICENESS = {"archiver": 10}


class PartFailed(RuntimeError):
    """A part does not come up."""


@dataclass
class Child:
    """A part's process. `life` counts its starts from 0."""

    name: str
    port: int
    process: ChildProcess
    started_s: float
    life: int = 0
    wait_s: float = FIRST_WAIT_S
    due_s: float | None = None


class Supervisor:
    """Starts parts and, each time `tend` is called, starts those again that have died. Call it from one long-lived thread."""

    def __init__(self, settings: Settings, parts: Sequence[str], say: Callable[[str], None]) -> None:
        self._settings = settings
        self._parts = parts
        self._say = say
        self._logs = settings.home / "logs"
        self.children: dict[str, Child] = {}

    def start(self) -> None:
        """Start every part. Where there is no key to sign with yet, a pair is made: this machine trusts itself."""
        self._logs.mkdir(parents=True, exist_ok=True)
        ensure_keys(self._settings.signing_key, self._settings.trusted_keys)
        for name in self._parts:
            port = self._settings.gateway_port if name == "gateway" else free_port()
            self.children[name] = Child(name, port, self._spawn(name, port), time.monotonic())

    def tend(self) -> None:
        """Start dead parts again, at once the first time, then after longer and longer pauses, of 5 s at most."""
        now = time.monotonic()
        for child in self.children.values():
            status = child.process.poll()
            if status is None:
                continue
            if child.due_s is None:
                if now - child.started_s > STEADY_S:
                    child.wait_s = FIRST_WAIT_S
                child.due_s = now + child.wait_s
                self._say(f"{child.name} has ended ({_told(status)}); it starts again in {child.wait_s:.1f} s; log: {self.log(child.name)}")
                child.wait_s = min(LONGEST_WAIT_S, 2 * child.wait_s)
            if now >= child.due_s:
                child.process = self._spawn(child.name, child.port)
                child.started_s, child.due_s = now, None
                child.life += 1

    def is_ready(self, name: str) -> bool:
        """Whether a part says that it is ready."""
        return self._readiness(name)[0]

    def _readiness(self, name: str) -> tuple[bool, str]:
        """Return whether a part is ready, and what it says of it."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.children[name].port}/readyz", timeout=5.0) as answer:
                return answer.status == 200, answer.read().decode()
        except urllib.error.HTTPError as error:
            return False, error.read().decode(errors="replace")[:500]
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            return False, str(error)

    def wait_until_ready(self, timeout_s: float, tick: Callable[[Mapping[str, bool]], None]) -> None:
        """Wait until every part is ready, calling `tick` with who is. Raises PartFailed, with the end of the log, where one is not."""
        deadline = time.monotonic() + timeout_s
        ready = dict.fromkeys(self._parts, False)
        while True:
            self.tend()
            ready |= {name: self.is_ready(name) for name, well in ready.items() if not well}
            tick(ready)
            if all(ready.values()):
                return
            late = [name for name, well in ready.items() if not well]
            if time.monotonic() > deadline or any(self.children[name].life >= 3 for name in late):
                told = self._readiness(late[0])[1]
                raise PartFailed(f"{late[0]} is not ready: {told}; the end of its log ({self.log(late[0])}):\n{self.end_of_log(late[0])}")
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """Send SIGKILL to a part, as a crash would end it."""
        os.kill(self.children[name].process.pid, signal.SIGKILL)

    def restarts(self) -> dict[str, int]:
        """Return how often each part was started again."""
        return {name: child.life for name, child in self.children.items()}

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask all parts to end, and end those that do not."""
        for child in self.children.values():
            if child.process.poll() is None:
                os.kill(child.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        for child in self.children.values():
            child.process.stop(max(0.1, deadline - time.monotonic()))

    def log(self, name: str) -> Path:
        """Return where a part's log lies."""
        return self._logs / f"{name}.log"

    def end_of_log(self, name: str, lines: int = 8) -> str:
        """Return the last lines of a part's log, each shortened; errors are unfolded."""
        found = self.log(name).read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(_readable(line) for line in found)

    def _spawn(self, name: str, port: int) -> ChildProcess:
        handed_on = (
            "kafka",
            "redis",
            "home",
            "device",
            "log_level",
            "signing_key",
            "trusted_keys",
            "weight_store",
            "trial_share",
            "admin_token_file",
        )
        variables = {variable_of(field): str(getattr(self._settings, field)) for field in handed_on}
        variables |= {
            "HEADRACE_METRICS_PORT": str(port),
            "HEADRACE_GATEWAY_PORT": str(port),
            "HEADRACE_INSTANCE": f"{name}-0",
            "OMP_NUM_THREADS": "1",
        }
        command = ["nice", "-n", str(NICENESS.get(name, 0)), sys.executable, "-m", "headrace.deploy.cli", "run", name]
        return ChildProcess(command, self.log(name), environment=os.environ | variables)


def _told(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


def _readable(line: str) -> str:
    try:
        told = json.loads(line)
        return f"{told['level']}: {told['message']}" + (f"\n{told['error'][-1500:]}" if "error" in told else "")
    except (ValueError, KeyError, TypeError):
        return line[:500]
