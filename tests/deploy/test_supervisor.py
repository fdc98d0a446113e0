"""The supervisor with real parts, which need no more than an address to start."""

import time
from pathlib import Path

import pytest

from headrace.deploy.settings import Settings
from headrace.deploy.supervisor import PartFailed, Supervisor


@pytest.fixture
def settings(fresh_topics: str, clean_redis: str, tmp_path: Path) -> Settings:
    return Settings(kafka=fresh_topics, redis=clean_redis, home=tmp_path, device="cpu")


def test_a_killed_part_is_started_again_and_says_so(settings: Settings) -> None:
    said: list[str] = []
    supervisor = Supervisor(settings, ["feature-worker"], said.append)
    supervisor.start()
    try:
        supervisor.wait_until_ready(60.0, lambda ready: None)
        before = supervisor.children["feature-worker"].process.pid
        supervisor.kill("feature-worker")
        deadline = time.monotonic() + 60
        while not (supervisor.restarts() == {"feature-worker": 1} and supervisor.is_ready("feature-worker")):
            supervisor.tend()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert supervisor.children["feature-worker"].process.pid != before
        assert len(said) == 1
        assert "feature-worker has ended (killed by SIGKILL); it starts again in 0.2 s" in said[0]
    finally:
        supervisor.stop()
    assert all(child.process.poll() is not None for child in supervisor.children.values())


def test_a_part_that_does_not_come_up_is_told_with_the_end_of_its_log(settings: Settings) -> None:
    wrong = Settings(kafka=settings.kafka, redis="unix:///nowhere/redis.sock", home=settings.home)
    supervisor = Supervisor(wrong, ["feature-worker"], lambda text: None)
    supervisor.start()
    try:
        with pytest.raises(PartFailed, match="feature-worker is not ready: ") as failure:
            supervisor.wait_until_ready(12.0, lambda ready: None)
    finally:
        supervisor.stop()
    assert "redis" in str(failure.value).lower()
