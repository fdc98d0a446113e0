"""Kafka and Redis for this machine: those that are given, or real ones that start by themselves as child processes."""

import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import redis

from headrace.deploy.java import JavaMissing
from headrace.deploy.kafka_jars import KafkaJarsUnavailable
from headrace.deploy.local_kafka import LocalKafka
from headrace.deploy.local_redis import LocalRedis
from headrace.deploy.mock_broker import NOTICE, MockBroker
from headrace.deploy.settings import SettingsError, masked
from headrace.streams.broker import require_broker

Say = Callable[[str], None]


class DataInUse(RuntimeError):
    """Another running Headrace uses the data folder."""


class RedisUnreachable(ConnectionError):
    """No Redis has answered at the address."""


@dataclass
class Infrastructure:
    """A broker and a Redis that answer. `broker` and `redis` are words for a report; `stop` ends what was started here."""

    bootstrap: str
    redis_url: str
    broker: str
    redis: str
    stop: Callable[[], None]


def start_infrastructure(
    home: Path, *, kafka: str | None = None, redis_url: str | None = None, wipe: bool = False, say: Say = print
) -> Infrastructure:
    """Return a broker and a Redis: the given ones once they have answered, or local ones with their data and logs in `home`.

    `wipe` makes local ones start empty. Call it from the main thread: what it starts ends with the thread. Where Kafka's jars
    or Java cannot be had, a mock broker steps in after one notice; HEADRACE_BROKER set to `kafka` forbids that, to `mock`
    demands it. Raises DataInUse, NotReady, BrokerUnreachable, RedisUnreachable, KafkaJarsError, RedisMissing, SettingsError.
    """
    with ExitStack() as started:
        if not (kafka and redis_url):
            (home / "logs").mkdir(parents=True, exist_ok=True)
            started.enter_context(_only_user_of(home))
        # Kafka takes seconds to start and Redis none: Kafka is started first and waited for last.
        broker = GivenBroker(kafka) if kafka else _start_broker(home, wipe, say)
        if isinstance(broker, MockBroker) or (wipe and not kafka):
            # They belong to a chain of weights that is gone with its topic.
            _remove(home / "weights")
        started.callback(broker.stop)
        # The rows carry offsets, and those of a mock broker begin anew each time.
        store = GivenRedis(redis_url) if redis_url else _start_redis(home, wipe or isinstance(broker, MockBroker))
        started.callback(store.stop)
        store.wait_until_ready()
        broker.wait_until_ready()
        return Infrastructure(broker.bootstrap, store.url, broker.version, store.version, started.pop_all().close)


@dataclass
class GivenBroker:
    """A broker that somebody else runs."""

    bootstrap: str

    @property
    def version(self) -> str:
        """Its address, as all that is known of it."""
        return f"given: {self.bootstrap}"

    def wait_until_ready(self) -> None:
        """Raise BrokerUnreachable where it does not answer."""
        require_broker(self.bootstrap)

    def stop(self) -> None:
        """Leave it running."""


@dataclass
class GivenRedis:
    """A Redis that somebody else runs."""

    url: str

    @property
    def version(self) -> str:
        """Its address without the password, as all that is known of it."""
        return f"given: {masked(self.url)}"

    def wait_until_ready(self) -> None:
        """Raise RedisUnreachable where it does not answer."""
        try:
            with redis.Redis.from_url(self.url, socket_connect_timeout=5.0, socket_timeout=5.0) as client:
                client.ping()
        except (redis.exceptions.RedisError, ValueError, OSError) as error:
            raise RedisUnreachable(
                f"no Redis answered at {masked(self.url)} ({error}); start it, or set HEADRACE_REDIS to its address"
            ) from None

    def stop(self) -> None:
        """Leave it running."""


def _start_broker(home: Path, wipe: bool, say: Say) -> LocalKafka | MockBroker:
    wanted = os.environ.get("HEADRACE_BROKER", "").strip()
    if wanted not in ("", "kafka", "mock"):
        raise SettingsError("HEADRACE_BROKER", wanted, "kafka or mock")
    log = home / "logs" / "kafka.log"
    reason = "HEADRACE_BROKER=mock"
    if wanted != "mock":
        if wipe:
            # Faust's tables mirror topics that are gone now.
            _remove(home / "kafka")
            _remove(home / "faust")
        try:
            return LocalKafka(home / "kafka", log, say)
        except (JavaMissing, KafkaJarsUnavailable) as error:
            if wanted == "kafka":
                raise
            reason = str(error)
    say(f"{NOTICE} The reason: {reason}")
    return MockBroker(log)


def _start_redis(home: Path, wipe: bool) -> LocalRedis:
    if wipe:
        _remove(home / "redis")
    return LocalRedis(home / "redis", home / "logs" / "redis.log")


def _only_user_of(home: Path) -> TextIO:
    """Return a held lock, which the kernel drops when this process ends. Raises DataInUse."""
    file = (home / "in-use").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise DataInUse(
            f"{home} is used by another running Headrace (process {holder}); stop that one, or set HEADRACE_HOME to another folder"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
