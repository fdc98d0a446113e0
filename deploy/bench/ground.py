"""The broker and the Redis that a benchmark runs on, and how they are made empty between two measurements."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.deploy.bench.measured_process import Invalid
from headrace.deploy.local import GivenBroker, GivenRedis
from headrace.deploy.local_kafka import LocalKafka
from headrace.deploy.local_redis import LocalRedis
from headrace.features.online_store import POSITION_KEY
from headrace.schemas.topics import CLICKS, DEAD_LETTERS, ITEM_CHANGES, ITEM_FEATURES, PURCHASES, USER_FEATURES, Topic
from headrace.streams import kafka
from headrace.streams.feature_worker import COMPONENT

SOURCES = (CLICKS, PURCHASES)
DERIVED = (ITEM_CHANGES, USER_FEATURES, ITEM_FEATURES, DEAD_LETTERS)
LOOK_EVERY_S = 0.05
SETTLE_TIMEOUT_S = 60.0
_GONE = {KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_TOPIC_OR_PART}
_PEERS_TOPICS = ("changelog__", "headrace-bench-")


@dataclass
class Ground:
    """An empty broker and an empty Redis. `pids` are those of servers that were started here, and may be pinned."""

    bootstrap: str
    redis_url: str
    home: Path
    broker: str
    redis: str
    pids: list[int]

    def __post_init__(self) -> None:
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap})
        self._group = kafka.consumer(self.bootstrap, "bench", group=COMPONENT)

    def database(self, number: int) -> str:
        """Return the URL of another database of the same Redis."""
        return f"{self.redis_url.rpartition('/')[0]}/{number}"

    def empty(self) -> None:
        """Make all topics anew and forget every row."""
        self._make_anew((*SOURCES, *DERIVED))

    def rewind(self) -> None:
        """Forget every row and what was read; the events in `clicks` and `purchases` stay."""
        self._make_anew(DERIVED)

    def commits(self) -> "Commits":
        """Return a view of how far the feature workers have committed what lies in the topics now."""
        return Commits(self)

    def catch_up(self, redis_url: str) -> None:
        """Tell a store that has seen nothing of these topics that it has come as far as they have.

        Else a worker would take its rows for lost, and bring them back from the changelogs.
        """
        with redis.Redis.from_url(redis_url) as client:
            places = [(topic.name, number) for topic in (*SOURCES, ITEM_CHANGES) for number in kafka.partitions(self._group, topic)]
            for name, number in places:
                high = kafka.watermarks(self._group, name, number)[1]
                if high:
                    client.set(f"{POSITION_KEY}{name}/{number}", high - 1)

    def _make_anew(self, topics: Sequence[Topic]) -> None:
        self.flush()
        _settle(self._forget_group, "the group of the feature workers is empty and forgotten")
        present = set(self._admin.list_topics(timeout=10.0).topics)
        names = {topic.name for topic in topics} | {name for name in present if name.startswith(_PEERS_TOPICS)}
        if names & present:
            for outcome in self._admin.delete_topics(list(names & present), operation_timeout=SETTLE_TIMEOUT_S).values():
                outcome.result()
            _settle(lambda: not names & self._admin.list_topics(timeout=10.0).topics.keys(), "deleted topics are gone")
        _settle(lambda: _created([*SOURCES, *DERIVED], self.bootstrap), "topics can be created")
        for topic in (*SOURCES, *DERIVED):
            for number in kafka.partitions(self._group, topic):
                kafka.watermarks(self._group, topic.name, number)

    def flush(self) -> None:
        """Empty the whole Redis."""
        with redis.Redis.from_url(self.redis_url, socket_timeout=300.0) as client:
            client.flushall()

    def _forget_group(self) -> bool:
        for outcome in self._admin.delete_consumer_groups([COMPONENT]).values():
            try:
                outcome.result()
            except KafkaException as error:
                return error.args[0].code() in _GONE
        return True


class Commits:
    """How far the group of the feature workers has come."""

    def __init__(self, ground: Ground) -> None:
        self._group = ground._group
        self._ends = {place: high for topic in SOURCES for place, high in self._highs(topic).items()}

    def left(self) -> int:
        """Return how many events are not committed yet."""
        return sum(max(0, high - done) for high, done in self._with_done(self._ends))

    def changes_left(self) -> int:
        """Return how many item changes are not committed yet; they are all written once no event is left."""
        return sum(max(0, high - done) for high, done in self._with_done(self._highs(ITEM_CHANGES)))

    def wait(self, tell: Callable[[int], None], alive: Callable[[], None], timeout_s: float) -> float:
        """Wait until all is committed and return when that was, in seconds since 1970. Raises Invalid when time runs out."""
        deadline = time.monotonic() + timeout_s
        while left := self.left():
            tell(left)
            alive()
            self._require_time(deadline, left)
            time.sleep(LOOK_EVERY_S)
        while left := self.changes_left():
            alive()
            self._require_time(deadline, left)
            time.sleep(LOOK_EVERY_S)
        return time.time()

    def _require_time(self, deadline: float, left: int) -> None:
        if time.monotonic() > deadline:
            raise Invalid(f"the workers are too slow, or stand still: {left} records are not committed yet")

    def _with_done(self, ends: dict[tuple[str, int], int]) -> Iterator[tuple[int, int]]:
        places = [TopicPartition(*place) for place in ends]
        for place in self._group.committed(places, timeout=30.0):
            yield ends[place.topic, place.partition], max(0, place.offset)

    def _highs(self, topic: Topic) -> dict[tuple[str, int], int]:
        numbers = kafka.partitions(self._group, topic)
        return {(topic.name, number): kafka.watermarks(self._group, topic.name, number)[1] for number in numbers}


@contextmanager
def prepared_ground(home: Path, bootstrap: str | None, redis_url: str | None) -> Iterator[Ground]:
    """Start a Kafka and a Redis of the benchmark's own in `home`, or take those that are given, which are emptied.

    The folder's data goes again at the end; logs stay. Call it from the main thread. Raises NotReady, BrokerUnreachable,
    RedisUnreachable, RedisMissing, JavaMissing, KafkaJarsUnavailable.
    """
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as started:
        for data in (home / "kafka", home / "redis"):
            shutil.rmtree(data, ignore_errors=True)
            started.callback(shutil.rmtree, data, ignore_errors=True)
        broker = GivenBroker(bootstrap) if bootstrap else LocalKafka(home / "kafka", logs / "kafka.log")
        started.callback(broker.stop)
        store = GivenRedis(redis_url) if redis_url else LocalRedis(home / "redis", logs / "redis.log")
        started.callback(store.stop)
        store.wait_until_ready()
        broker.wait_until_ready()
        pids = [server.pid for server in (broker, store) if isinstance(server, LocalKafka | LocalRedis)]
        yield Ground(broker.bootstrap, store.url, home, broker.version, store.version, pids)


def _created(topics: list[Topic], bootstrap: str) -> bool:
    try:
        kafka.ensure_topics(bootstrap, topics)
    except KafkaException:
        return False
    return True


def _settle(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise Invalid(f"not so within {SETTLE_TIMEOUT_S:g} s: {what}")
        time.sleep(LOOK_EVERY_S)
