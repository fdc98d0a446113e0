"""Reading what is new of topics with few records."""

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, Message, TopicPartition

from headrace.streams import kafka

AT_ONCE = 500
TIMEOUT_S = 2.0
LOOK_AGAIN_S = 10.0


class TopicTails:
    """Follows topics of one partition from their newest records on: `newest` says for each how many of those are read first."""

    def __init__(self, bootstrap: str, client_id: str, newest: Mapping[str, int]) -> None:
        self._missing = dict(newest)
        self._consumer: Consumer = kafka.consumer(bootstrap, client_id)
        self._looked_s = float("-inf")

    @property
    def missing(self) -> list[str]:
        """The topics that the broker does not have."""
        return list(self._missing)

    def read(self) -> list[Message]:
        """Return what has come since the last call. Raises KafkaException."""
        if self._missing and time.monotonic() - self._looked_s > LOOK_AGAIN_S:
            self._assign()
            self._looked_s = time.monotonic()
        records: list[Message] = []
        while batch := kafka.next_batch(self._consumer, AT_ONCE, 0.0):
            records += batch
        return records

    def close(self) -> None:
        """Let go of Kafka."""
        self._consumer.close()

    def _assign(self) -> None:
        there = self._consumer.list_topics(timeout=TIMEOUT_S).topics
        for topic in [name for name in self._missing if name in there]:
            low, high = kafka.watermarks(self._consumer, topic, 0, TIMEOUT_S)
            self._consumer.incremental_assign([TopicPartition(topic, 0, max(low, high - self._missing.pop(topic)))])
