"""How far the parts have come: the ends of the topics, and how many records each part has not committed yet.

Each question is one batched request of the admin API, whatever the number of partitions.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.schemas.topics import CLICKS, ITEM_CHANGES, PURCHASES, USER_FEATURES, Topic
from headrace.streams.kafka import NO_LEADER_YET

# By part: the group under which it commits, and the topics that it reads.
GROUPS: dict[str, tuple[str, Sequence[Topic]]] = {
    "feature-worker": ("feature-worker", (CLICKS, PURCHASES, ITEM_CHANGES)),
    "recommender": ("recommender", (USER_FEATURES,)),
    "learner": ("headrace-learner", (CLICKS, PURCHASES)),
}
TIMEOUT_S = 5.0

# By topic and partition: the offset that the next record will get.
Ends = dict[tuple[str, int], int]


def lag_by_topic(consumer: Consumer, topics: Iterable[str]) -> dict[str, int]:
    """Return how many records of each topic a consumer has not read yet of its own partitions, as far as it knows; asks no broker."""
    lag = dict.fromkeys(topics, 0)
    for place in consumer.position(consumer.assignment()):
        _, high = consumer.get_watermark_offsets(place, cached=True)
        if place.offset >= 0 and high >= 0 and place.topic in lag:
            lag[place.topic] += max(0, high - place.offset)
    return lag


class LagReader:
    """Asks one broker, under the name `client_id`, about ends and commits of the topics that are there."""

    def __init__(self, bootstrap: str, client_id: str, timeout_s: float = TIMEOUT_S) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "client.id": client_id,
            "logger": logging.getLogger("headrace.kafka"),
        }
        self._admin = AdminClient(settings)
        self._timeout_s = timeout_s
        self._places: dict[str, list[TopicPartition]] = {}

    def ends(self, topics: Iterable[Topic]) -> Ends:
        """Return the ends of all partitions of the topics; a topic that is not there is left out. Raises KafkaException."""
        places = [place for topic in topics for place in self._partitions(topic)]
        return self._offsets(places, OffsetSpec.latest())

    def lags(self, parts: Collection[str], ends: Mapping[tuple[str, int], int]) -> dict[str, int | None]:
        """Return how many records each part has not committed yet, given `ends` of its topics; None where that cannot be told.

        The coordinator of a group that nobody has joined yet may still be loading.
        """
        asked = {}
        for part in parts:
            group, topics = GROUPS[part]
            places = [place for topic in topics for place in self._partitions(topic)]
            if places:
                request = [ConsumerGroupTopicPartitions(group, places)]
                asked[part] = self._admin.list_consumer_group_offsets(request, request_timeout=self._timeout_s)[group]
        found: dict[str, int | None] = dict.fromkeys(parts)
        for part, future in asked.items():
            try:
                committed = future.result().topic_partitions
            except KafkaException:
                continue
            found[part] = self._lag(committed, ends)
        return found

    def _lag(self, committed: Sequence[TopicPartition], ends: Mapping[tuple[str, int], int]) -> int:
        # Without a commit a part begins at the first record that is left.
        unread = [TopicPartition(place.topic, place.partition) for place in committed if place.offset < 0]
        begins = self._offsets(unread, OffsetSpec.earliest())
        total = 0
        for place in committed:
            key = (place.topic, place.partition)
            reached = place.offset if place.offset >= 0 else begins.get(key, 0)
            total += max(0, ends.get(key, reached) - reached)
        return total

    def _offsets(self, places: Sequence[TopicPartition], wanted: OffsetSpec) -> Ends:
        if not places:
            return {}
        deadline = time.monotonic() + self._timeout_s
        while True:
            asked = self._admin.list_offsets(dict.fromkeys(places, wanted), request_timeout=self._timeout_s)
            try:
                return {(place.topic, place.partition): int(future.result().offset) for place, future in asked.items()}
            except KafkaException as error:
                # A topic that was created a moment ago may have no leader yet.
                if error.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _partitions(self, topic: Topic) -> list[TopicPartition]:
        if topic.name not in self._places:
            metadata = self._admin.list_topics(topic.name, timeout=self._timeout_s).topics[topic.name]
            if metadata.error is not None:
                return []
            self._places[topic.name] = [TopicPartition(topic.name, number) for number in sorted(metadata.partitions)]
        return self._places[topic.name]
