"""Child processes that end with their parent, whatever ends it."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOOK_EVERY_S = 0.02


class NotReady(RuntimeError):
    """A child process ended, or did not answer in time."""


class ChildProcess:
    """A process in a group of its own, its output in a log file. On Linux the kernel kills it when its parent dies.

    The kernel watches the thread that started the child, not the process: start children from the main thread, or from one
    that lives as long as they should. Elsewhere than on Linux a killed parent leaves its children running.
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
                # No session of its own: Linux shares the processors out among sessions first, and niceness counts within one alone.
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return None while it runs, then its exit status: the code, or the negative number of the signal."""
        return self._process.poll()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Ask it to end, and end its whole group where it does not in time. Return whether it ended by itself or when asked to."""
        if self.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
        return self.poll() != -signal.SIGKILL

    def wait_until(self, is_ready: Callable[[], bool], name: str, timeout_s: float) -> None:
        """Wait until `is_ready` says so. Raises NotReady, with the end of the log, where the process ends or time runs out."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            status = self.poll()
            if status is not None or time.monotonic() > deadline:
                what = f"does not answer after {timeout_s:g} s" if status is None else f"ended with exit status {status}"
                raise NotReady(f"{name} {what}; the end of its log ({self.log}):\n{self.end_of_log()}")
            time.sleep(LOOK_EVERY_S)

    def end_of_log(self, lines: int = 12) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on a loopback port now."""
    with socket.socket() as probe:
        # As servers do it, so that connections of a former one that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def accepts(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
