"""Child processes that end with their parent, whatever ends it."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1


class ChildProcess:
    """A process in a session of its own, its output in a log file. On Linux the kernel kills it when its parent dies.

    The kernel watches the thread that started the child, so start children from one that lives as long as they should.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] = os.environ, folder: Path | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", __file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return None while it runs, then its exit status: the code, or the negative number of the signal."""
        return self._process.poll()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask it to end, and end its whole group where it does not in time."""
        if self.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _become(parent: int, command: Sequence[str]) -> None:
    """Turn this process into `command`, bound to the life of its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the kernel was told.
    if os.getppid() != parent:
        sys.exit(1)
    os.execvp(command[0], list(command))  # noqa: S606


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
