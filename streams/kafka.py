"""The one place with Kafka client settings: producers, consumers and the creation of topics."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.schemas.topics import TOPICS, Topic

log = logging.getLogger(__name__)

LARGEST_MESSAGE = max(topic.max_bytes for topic in TOPICS) + 1000
# What a broker says of a partition whose leader was chosen a moment ago, before it, or the asker, has heard of that.
NO_LEADER_YET = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
}
LINGER_MS = 5
BEGINNING, END = "beginning", "end"


def producer(bootstrap: str, client_id: str, **overrides: Any) -> Producer:
    """Return an idempotent producer with acks=all and a bounded buffer.

    Keys go to partitions as Java clients send them (murmur2), so that publishers in any language agree on the partition of a
    shopper. `linger.ms` gathers records, since each partition gets requests of its own. The time-outs are shorter than
    librdkafka's, so that a paused leader is left for another within seconds.
    """
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "client.id": client_id,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "linger.ms": LINGER_MS,
            "compression.type": "lz4",
            "message.max.bytes": LARGEST_MESSAGE,
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": 256 * 1024,
            "socket.timeout.ms": 10_000,
            "request.timeout.ms": 8_000,
            "delivery.timeout.ms": 120_000,
        }
        | overrides
    )


def consumer(
    bootstrap: str, client_id: str, group: str | None = None, *, instance: str = "", patience_ms: int | None = None, **overrides: Any
) -> Consumer:
    """Return a consumer that commits only when told to. Without a `group` it is meant for `assign_all`.

    A member with an `instance` is a static one (KIP-345): started again under the same name it has its partitions at once.
    With `patience_ms` the broker gathers records for so long before it answers: on a busy topic that saves the broker, and
    the reader, thousands of requests a second, each for a record or two.
    The range assignor gives the same partition numbers of all topics to one member, so that a shopper's clicks and purchases
    meet in one worker. `fetch.queue.backoff.ms` of 10 lets a fast reader of a backlog run five times faster than the default.
    """
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "client.id": client_id,
            "group.id": group or f"{client_id}-unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "range",
            "session.timeout.ms": 10_000,
            "heartbeat.interval.ms": 1_000,
            "fetch.queue.backoff.ms": 10,
            "fetch.message.max.bytes": LARGEST_MESSAGE,
            "allow.auto.create.topics": False,
        }
        | ({"group.instance.id": instance} if group and instance else {})
        | ({} if patience_ms is None else {"fetch.wait.max.ms": patience_ms, "fetch.min.bytes": 1_000_000})
        | overrides
    )


def ensure_topics(bootstrap: str, topics: Iterable[Topic] = TOPICS, replication: int = -1, timeout_s: float = 30.0) -> list[str]:
    """Create the topics that are missing and return their names. Raises KafkaException where the broker refuses.

    `replication` of -1 takes the broker's default.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 10_000})
    present = set(admin.list_topics(timeout=timeout_s).topics)
    missing = [
        NewTopic(topic.name, num_partitions=topic.partitions, replication_factor=replication, config=topic.broker_config())
        for topic in topics
        if topic.name not in present
    ]
    if not missing:
        return []
    created = []
    for name, outcome in admin.create_topics(missing, operation_timeout=timeout_s).items():
        try:
            outcome.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return created


def partitions(client: Consumer, topic: Topic, timeout_s: float = 10.0) -> list[int]:
    """Return the partition numbers of a topic. Raises KafkaException where it does not exist."""
    metadata = client.list_topics(topic.name, timeout=timeout_s).topics[topic.name]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    return sorted(metadata.partitions)


def watermarks(client: Consumer, topic: str, partition: int, timeout_s: float = 15.0) -> tuple[int, int]:
    """Return the first offset of a partition and the one that the next record will get. Raises KafkaException.

    A topic that was created a moment ago may have no leader yet; that is waited for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            low, high = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout_s)
            return int(low), int(high)
        except KafkaException as error:
            if error.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def assign_all(client: Consumer, topics: Iterable[Topic], start: str = BEGINNING) -> list[TopicPartition]:
    """Give the consumer every partition of the topics, outside of any group, and return where each starts.

    The positions are fixed offsets, so that what is written after this call is read whatever the timing.
    """
    places = []
    for topic in topics:
        for number in partitions(client, topic):
            low, high = watermarks(client, topic.name, number)
            places.append(TopicPartition(topic.name, number, low if start == BEGINNING else high))
    client.assign(places)
    return places


def lag(client: Consumer, group_offsets: Iterable[TopicPartition]) -> int:
    """Return how many records lie between committed offsets and the ends of their partitions."""
    total = 0
    for place in group_offsets:
        low, high = watermarks(client, place.topic, place.partition)
        total += high - max(place.offset, low)
    return total


def next_batch(consumer: Consumer, limit: int, timeout_s: float) -> list[Message]:
    """Return the records that are there, waiting up to `timeout_s` for the first one only. Raises KafkaException.

    `consume(limit, timeout)` by itself would wait for a full batch.
    """
    first = consumer.poll(timeout_s)
    if first is None:
        return []
    return [record for record in [first, *consumer.consume(limit - 1, 0)] if is_record(record)]


def is_record(message: Message) -> bool:
    """Whether what was polled is a record; a passing fault is logged. Raises KafkaException where it is a fault that stays."""
    error = message.error()
    if error is None:
        return True
    if error.fatal() or not error.retriable():
        raise KafkaException(error)
    log.warning("the broker reports a passing fault", extra={"fault": error.str()})
    return False


def records_before(consumer: Consumer, topic: Topic, position: int, end: int, timeout_s: float) -> Iterator[Message]:
    """Assign the only partition of a topic and yield its records from `position` on until the one before `end` is reached.

    Where that one was compacted away, the next one is yielded too. Whoever goes on polling gets what follows. Raises KafkaException
    where nothing comes for `timeout_s`.
    """
    consumer.assign([TopicPartition(topic.name, 0, position)])
    while position < end:
        record = consumer.poll(timeout_s)
        if record is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic.name} cannot be read at offset {position}"))
        if record.error() is None:
            position = (record.offset() or 0) + 1
            yield record


def must_arrive(error: KafkaError | None, record: Message) -> None:
    """Take a record's answer where a loss must stop the part: raise it out of poll() or flush().

    The part ends with its offsets uncommitted, and the next one does the work again.
    """
    if error is not None:
        raise KafkaException(error)
