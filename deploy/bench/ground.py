"""The broker and the Redis that a benchmark runs on, and how they are made empty between two measurements."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

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
PLAIN_GROUP = "headrace-bench-plain"
LOOK_EVERY_S = 0.05
SETTLE_TIMEOUT_S = 60.0
HOLD_TIMEOUT_S = 300.0
_GONE = {KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_TOPIC_OR_PART}
_PEERS_TOPICS = ("changelog__", "headrace-bench-")


@dataclass
class Ground:
    """An empty broker and an empty Redis.

    Logs go to `home`, what lives as long as the ground to `data`. `pids` are those of servers that were started here, and may be
    pinned.
    """

    bootstrap: str
    redis_url: str
    home: Path
    data: Path
    broker: str
    redis: str
    pids: list[int]

    def __post_init__(self) -> None:
        # Topics that come and go are no news to a person who reads the progress.
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        self._group = kafka.consumer(self.bootstrap, "bench", group=COMPONENT, log_level=0)

    def close(self) -> None:
        """Let go of the broker; what was started is stopped by `prepared_ground`."""
        self._group.close()

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

    def all_have_partitions(self, workers: int) -> bool:
        """Whether the group has so many members, and each of them partitions."""
        group = self._admin.describe_consumer_groups([COMPONENT])[COMPONENT].result()
        return len(group.members) == workers and all(member.assignment.topic_partitions for member in group.members)

    @contextmanager
    def writes_held(self) -> Iterator[None]:
        """Let whoever writes to Redis wait until the block ends."""
        with redis.Redis.from_url(self.redis_url, socket_timeout=300.0) as client:
            client.client_pause(int(1000 * HOLD_TIMEOUT_S), all=False)
            try:
                yield
            finally:
                client.client_unpause()

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
        settle(self._forget_groups, "the groups are empty and forgotten")
        present = set(self._admin.list_topics(timeout=10.0).topics)
        names = {topic.name for topic in topics} | {name for name in present if name.startswith(_PEERS_TOPICS)}
        if names & present:
            for outcome in self._admin.delete_topics(list(names & present), operation_timeout=SETTLE_TIMEOUT_S).values():
                outcome.result()
            settle(lambda: not names & self._admin.list_topics(timeout=10.0).topics.keys(), "deleted topics are gone")
        settle(self._created, "the topics can be created")
        settle(self._have_leaders, "the topics have leaders")

    def flush(self) -> None:
        """Empty the whole Redis."""
        with redis.Redis.from_url(self.redis_url, socket_timeout=300.0) as client:
            client.flushall()

    def _created(self) -> bool:
        present = self._admin.list_topics(timeout=10.0).topics
        missing = [topic for topic in (*SOURCES, *DERIVED) if topic.name not in present]
        wanted = [NewTopic(topic.name, topic.partitions, config=topic.broker_config()) for topic in missing]
        for outcome in self._admin.create_topics(wanted, operation_timeout=SETTLE_TIMEOUT_S).values() if wanted else ():
            try:
                outcome.result()
            except KafkaException as error:
                # A topic that was deleted a moment ago may still be there.
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    return False
                raise
        return True

    def _have_leaders(self) -> bool:
        try:
            for topic in (*SOURCES, *DERIVED):
                for number in kafka.partitions(self._group, topic):
                    kafka.watermarks(self._group, topic.name, number)
        except KafkaException:
            return False
        return True

    def sum_of_counters(self) -> int:
        """Return the sum of all values in Redis, which must be whole numbers: what a peer has counted."""
        with redis.Redis.from_url(self.redis_url, socket_timeout=300.0) as client:
            keys: list[Any] = list(client.scan_iter(count=10_000))
            values: Any = client.mget(keys) if keys else []
            return sum(map(int, values))

    def _forget_groups(self) -> bool:
        for outcome in self._admin.delete_consumer_groups([COMPONENT, PLAIN_GROUP]).values():
            try:
                outcome.result()
            except KafkaException as error:
                if error.args[0].code() not in _GONE:
                    return False
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
def prepared_ground(home: Path, bootstrap: str | None, redis_url: str | None, say: Callable[[str], None] = print) -> Iterator[Ground]:
    """Start a Kafka and a Redis of the benchmark's own, or take those that are given, which are emptied.

    Their data goes again at the end; logs stay in `home`/logs. Call it from the main thread. Raises NotReady, BrokerUnreachable,
    RedisUnreachable, RedisMissing, JavaMissing, KafkaJarsUnavailable.
    """
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as started:
        data = Path(started.enter_context(TemporaryDirectory(dir=home, prefix="data-", ignore_cleanup_errors=True)))
        broker = GivenBroker(bootstrap) if bootstrap else LocalKafka(data / "kafka", logs / "kafka.log", say, busy=True)
        started.callback(broker.stop)
        store = GivenRedis(redis_url) if redis_url else LocalRedis(data / "redis", logs / "redis.log")
        started.callback(store.stop)
        store.wait_until_ready()
        broker.wait_until_ready()
        pids = [server.pid for server in (broker, store) if isinstance(server, LocalKafka | LocalRedis)]
        ground = Ground(broker.bootstrap, store.url, home, data, broker.version, store.version, pids)
        try:
            yield ground
            if len(pids) < 2:
                # Nothing of the benchmark is left on servers that are given.
                ground.empty()
        finally:
            ground.close()


def settle(holds: Callable[[], bool], what: str, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    """Wait until something holds; `what` says what it is. Raises Invalid when time runs out."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise Invalid(f"not so within {timeout_s:g} s: {what}")
        time.sleep(LOOK_EVERY_S)
