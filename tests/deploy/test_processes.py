"""Child processes: they are told to end, made to end, and their logs are shown when they fail."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from headrace.deploy.processes import ChildProcess, NotReady, accepts, free_port, is_free

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def child(tmp_path: Path, program: str) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", program], tmp_path / "child.log")


def test_a_child_leads_a_group_of_its_own_in_its_parents_session_and_writes_to_its_log(tmp_path: Path) -> None:
    program = "import os, time; print(os.getpid(), os.getpgid(0), os.getsid(0), os.getppid(), flush=True); time.sleep(600)"
    process = child(tmp_path, program)
    process.wait_until(lambda: process.end_of_log().count(" ") == 3, "the child", 30.0)
    assert process.end_of_log() == f"{process.pid} {process.pid} {os.getsid(0)} {os.getpid()}"
    assert process.stop()
    assert process.poll() == -signal.SIGTERM


def test_a_child_that_ends_is_told_with_its_status_and_the_end_of_its_log(tmp_path: Path) -> None:
    process = child(tmp_path, "print('no such key', flush=True); raise SystemExit(3)")
    with pytest.raises(NotReady, match=r"the server ended with exit status 3; the end of its log \(.*child\.log\):\nno such key"):
        process.wait_until(lambda: False, "the server", 30.0)


def test_a_child_that_does_not_answer_in_time_is_told_so(tmp_path: Path) -> None:
    process = child(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(NotReady, match=r"the server does not answer after 0\.1 s"):
        process.wait_until(lambda: False, "the server", 0.1)
    process.stop()


def test_a_child_that_will_not_end_is_ended(tmp_path: Path) -> None:
    process = child(tmp_path, STUBBORN)
    process.wait_until(lambda: process.end_of_log() == "deaf", "the child", 30.0)
    assert not process.stop(0.1)
    assert process.poll() is not None


def test_a_port_is_free_until_somebody_listens() -> None:
    port = free_port()
    assert is_free(port)
    assert not accepts(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        assert accepts(port)
