"""One real Kafka and one real Redis for the whole run; they start by themselves, and a run without them fails."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from headrace.deploy.local_kafka import LocalKafka
from headrace.deploy.local_redis import LocalRedis
from headrace.schemas import wire
from headrace.schemas.topics import TOPICS
from headrace.streams.broker import require_broker
from headrace.streams.kafka import ensure_topics
from headrace.streams.simulator import simulate

PROJECT = Path(__file__).parents[1]
SETTLE_TIMEOUT_S = 30.0
STAND_IN_EVENTS = 2000


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Kafka: that of HEADRACE_KAFKA, or one that is started for this run."""
    if given := os.environ.get("HEADRACE_KAFKA"):
        require_broker(given)
        yield given
        return
    folder = tmp_path_factory.mktemp("kafka")
    server = LocalKafka(folder / "data", folder / "kafka.log")
    try:
        server.wait_until_ready()
        yield server.bootstrap
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis: that of HEADRACE_REDIS, or one that is started for this run."""
    if given := os.environ.get("HEADRACE_REDIS"):
        yield given
        return
    folder = tmp_path_factory.mktemp("redis")
    server = LocalRedis(folder / "data", folder / "redis.log")
    try:
        server.wait_until_ready()
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def clean_redis(redis_server: str) -> str:
    """The URL of the Redis, emptied."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server


@pytest.fixture(scope="session")
def admin(kafka: str) -> AdminClient:
    """One admin client for the whole run; what it promises fails once it is collected."""
    return AdminClient({"bootstrap.servers": kafka})


@pytest.fixture
def fresh_topics(kafka: str, admin: AdminClient) -> str:
    """The address of the Kafka, all topics of Headrace made anew and empty."""
    names = {topic.name for topic in TOPICS}
    present = names & admin.list_topics(timeout=10.0).topics.keys()
    if present:
        for outcome in admin.delete_topics(list(present), operation_timeout=SETTLE_TIMEOUT_S).values():
            outcome.result()
        wait_until(lambda: not names & admin.list_topics(timeout=10.0).topics.keys(), "the deleted topics are gone")
    wait_until(lambda: _created(kafka), "the topics can be created")
    wait_until(lambda: _have_leaders(admin, names), "the new topics have leaders")
    return kafka


@pytest.fixture(scope="session")
def shop_data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the path of a published data file by its name, or where HEADRACE_DATA does not hold it that of a simulated stand-in."""
    folder = PROJECT / os.environ.get("HEADRACE_DATA", "../shared/data")

    def path_of(name: str) -> Path:
        if (folder / name).exists():
            return folder / name
        stand_in = tmp_path_factory.getbasetemp() / "simulated" / f"{name.partition('.')[0]}.jsonl"
        if not stand_in.exists():
            stand_in.parent.mkdir(exist_ok=True)
            stand_in.write_bytes(b"".join(wire.encode(event) + b"\n" for event in simulate(1, events=STAND_IN_EVENTS)))
            reporter = request.config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.write_line(f"{name} is not in HEADRACE_DATA ({folder}); {STAND_IN_EVENTS} simulated events stand in for it")
        return stand_in

    return path_of


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def _created(kafka: str) -> bool:
    try:
        ensure_topics(kafka)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        return False
    return True


def _have_leaders(admin: AdminClient, names: set[str]) -> bool:
    topics = admin.list_topics(timeout=10.0).topics
    return names <= topics.keys() and all(part.leader > 0 for name in names for part in topics[name].partitions.values())
