"""A few of the newest lists, from the busy topic that holds them all."""

import logging
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from headrace.schemas import InvalidMessage, Recommendation, decode
from headrace.schemas.topics import RECOMMENDATIONS
from headrace.streams import kafka
from headrace.streams.lag import Ends

log = logging.getLogger(__name__)

LISTS_PER_PARTITION = 4
LISTS_WAIT_S = 0.25
# A fetch brings the end of a partition, not the megabytes that are prefetched by default.
_SMALL: dict[str, Any] = {"fetch.message.max.bytes": 100_000, "queued.max.messages.kbytes": 1024}


class ListSample:
    """Looks at the newest few lists of each partition, once at each call."""

    def __init__(self, bootstrap: str, client_id: str) -> None:
        self._consumer: Consumer = kafka.consumer(bootstrap, client_id, **_SMALL)
        self._seen: Ends = {}

    def read(self, ends: Ends) -> list[Recommendation]:
        """Return up to four new lists of each partition, given the ends of the topics. Raises KafkaException."""
        mine = {place: end for place, end in ends.items() if place[0] == RECOMMENDATIONS.name}
        # What was there before the first call says nothing of how things are now.
        news = {place: (max(self._seen[place], end - LISTS_PER_PARTITION), end) for place, end in mine.items() if place in self._seen}
        self._seen = mine
        places = [TopicPartition(*place, start) for place, (start, end) in news.items() if end > start]
        if not places:
            return []
        wanted = sum(end - start for start, end in news.values())
        self._consumer.assign(places)
        records = self._consumer.consume(wanted, LISTS_WAIT_S)
        self._consumer.unassign()
        return [found for found in map(_list, records) if found is not None]

    def close(self) -> None:
        """Let go of Kafka."""
        self._consumer.close()


def _list(record: Message) -> Recommendation | None:
    if record.error() is not None:
        return None
    try:
        return decode(Recommendation, record.value(), record.headers())
    except InvalidMessage as error:
        log.warning("list passed over", extra={"offset": record.offset(), "reason": str(error)})
        return None
