"""What a record of `clicks` or `purchases` holds, and where records lie in Kafka, in the words that rows use."""

from functools import cache

from confluent_kafka import Message, TopicPartition

from headrace.features.place import Place
from headrace.schemas import Click, Event, Purchase, decode
from headrace.schemas.topics import CLICKS


def event_of(record: Message) -> Event:
    """Return the event that a record of `clicks` or `purchases` holds. Raises InvalidMessage."""
    kind: type[Click] | type[Purchase] = Click if record.topic() == CLICKS.name else Purchase
    event: Event = decode(kind, record.value(), record.headers())
    return event


def place_of(record: Message) -> Place:
    """Return the place of a record that was read. Raises ValueError for one that was not."""
    time_ms = record.timestamp()[1]
    return Place(_source(record.topic(), record.partition()), offset_of(record), time_ms if time_ms > 0 else 0)


def source_of(place: Message | TopicPartition) -> str:
    """Return 'topic/partition'."""
    if isinstance(place, TopicPartition):
        return f"{place.topic}/{place.partition}"
    return _source(place.topic(), place.partition())


@cache
def _source(topic: str | None, partition: int | None) -> str:
    return f"{topic}/{partition}"


def partition_of(source: str, offset: int) -> TopicPartition:
    """Return the partition that 'topic/partition' names, at an offset."""
    topic, _, number = source.rpartition("/")
    return TopicPartition(topic, int(number), offset)


def offset_of(record: Message) -> int:
    """Return the offset of a record. Raises ValueError for one that has none, since it was not read."""
    offset = record.offset()
    if offset is None:
        raise ValueError(f"a record without offset: {record!r}")
    return offset
