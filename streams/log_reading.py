"""Reading stretches of topics once, from given offsets to given offsets, outside of any group."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from headrace.schemas.topics import Topic
from headrace.streams import kafka
from headrace.streams.record_places import partition_of, source_of

RECORDS_AT_ONCE = 5000
SILENCE_S = 60.0
_WAIT_S = 0.2
_TELLS_ENDS: dict[str, Any] = {"enable.partition.eof": True}

# By source ('clicks/3'): the first offset to be read, and the one after the last.
Stretches = Mapping[str, tuple[int, int]]


class KafkaSilent(TimeoutError):
    """Records that Kafka said it has did not come."""

    def __init__(self, sources: Sequence[str]) -> None:
        super().__init__(f"nothing more came of {', '.join(sources)} within {SILENCE_S:g} s; is the broker up? Try again once it answers")


class LogReader:
    """Reads whole topics or parts of them for one purpose, `client_id`. Close it after use."""

    def __init__(self, bootstrap: str, client_id: str) -> None:
        self._consumer: Consumer = kafka.consumer(bootstrap, client_id, None, **_TELLS_ENDS)

    def close(self) -> None:
        """Let go of Kafka."""
        self._consumer.close()

    def stretches(self, topics: Sequence[Topic]) -> dict[str, tuple[int, int]]:
        """Return what there is now of each partition. Raises KafkaException."""
        return {
            f"{topic.name}/{number}": kafka.watermarks(self._consumer, topic.name, number)
            for topic in topics
            for number in kafka.partitions(self._consumer, topic)
        }

    def first_since(self, sources: Sequence[str], time_ms: int) -> dict[str, int]:
        """Return by source the first offset published at `time_ms` or later; sources without any are left out."""
        found = self._consumer.offsets_for_times([partition_of(source, time_ms) for source in sources], timeout=30.0)
        return {source_of(place): place.offset for place in found if place.offset >= 0}

    def records(self, stretches: Stretches, progress: Callable[[int, int], object]) -> Iterator[list[Message]]:
        """Yield the records of these stretches in portions; each partition's come in their order.

        `progress` is told how many were read, and of how many. Raises KafkaException, KafkaSilent.
        """
        waiting = {source: high for source, (low, high) in stretches.items() if high > low}
        if not waiting:
            return
        total, done = sum(high - stretches[source][0] for source, high in waiting.items()), 0
        self._consumer.assign([partition_of(source, stretches[source][0]) for source in waiting])
        heard_s = time.monotonic()
        while waiting:
            records = self._portion(waiting)
            done += len(records)
            progress(done, total)
            if records:
                heard_s = time.monotonic()
                yield records
            elif time.monotonic() - heard_s > SILENCE_S:
                raise KafkaSilent([*waiting])
        self._consumer.unassign()
        progress(total, total)

    def _portion(self, waiting: dict[str, int]) -> list[Message]:
        """Return the next records below the ends in `waiting`, and take out of it the partitions that are through."""
        records = []
        through = set()
        for record in self._consumer.consume(RECORDS_AT_ONCE, _WAIT_S):
            error, source, offset = record.error(), source_of(record), record.offset() or 0
            high = waiting.get(source, 0)
            if error is None:
                if offset < high:
                    records.append(record)
                if offset >= high - 1:
                    through.add(source)
            elif error.code() == KafkaError._PARTITION_EOF:
                # The end may lie behind offsets that hold no record, such as those of transactions.
                through.add(source)
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)
        for source in through & waiting.keys():
            del waiting[source]
            self._consumer.pause([partition_of(source, 0)])
        return records
