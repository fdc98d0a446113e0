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
        if kafka is None or redis_url is None:
            logs = home / "logs"
            logs.mkdir(parents=True, exist_ok=True)
            started.enter_context(_only_user_of(home))
        # Kafka takes seconds to start and Redis none: Kafka is started first and waited for last.
        broker = None if kafka is not None else _start_broker(home, wipe, say)
        if broker is not None:
            started.callback(broker.stop)
        store = None
        if redis_url is None:
            if wipe:
                _remove(home / "redis")
            store = LocalRedis(home / "redis", logs / "redis.log")
            started.callback(store.stop)
            store.wait_until_ready()
        else:
            _require_redis(redis_url)
        if broker is not None:
            broker.wait_until_ready()
        else:
            require_broker(str(kafka))
        return Infrastructure(
            bootstrap=str(kafka) if broker is None else broker.bootstrap,
            redis_url=str(redis_url) if store is None else store.url,
            broker=f"given: {kafka}" if broker is None else broker.version,
            redis=f"given: {masked(str(redis_url))}" if store is None else store.version,
            stop=started.pop_all().close,
        )


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
    say(f"headrace: {NOTICE} Reason: {reason}")
    return MockBroker(log)


def _require_redis(url: str) -> None:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5.0, socket_timeout=5.0) as client:
            client.ping()
    except (redis.exceptions.RedisError, OSError) as error:
        raise RedisUnreachable(f"no Redis answered at {masked(url)} ({error}); start it, or set HEADRACE_REDIS to its address") from None


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
