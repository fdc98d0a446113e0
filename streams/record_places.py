"""Where records lie in Kafka, in the words that rows use."""

from confluent_kafka import Message, TopicPartition

from headrace.features.place import Place


def place_of(record: Message) -> Place:
    """Return the place of a record that was read. Raises ValueError for one that was not."""
    return Place(source_of(record), offset_of(record), max(0, record.timestamp()[1]))


def source_of(place: Message | TopicPartition) -> str:
    """Return 'topic/partition'."""
    if isinstance(place, TopicPartition):
        return f"{place.topic}/{place.partition}"
    return f"{place.topic()}/{place.partition()}"


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
