"""Signals of the services, looked at from the side: lag of the consumer groups, how long events wait, and a sample of the lists."""

import logging
import math
import threading
from collections.abc import Callable

from confluent_kafka import KafkaException

from headrace.online_model.watching.signals import Batch, Observation, list_batch
from headrace.schemas import Recommendation
from headrace.schemas.topics import RECOMMENDATIONS, Topic
from headrace.streams.lag import GROUPS, LagReader
from headrace.streams.list_sample import ListSample

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
TOPICS: dict[str, Topic] = {topic.name: topic for topic in (RECOMMENDATIONS, *(topic for _, topics in GROUPS.values() for topic in topics))}


class ServiceSignals:
    """Looks each two seconds, from `start` to `stop`, and hands over what it saw from a thread of its own.

    `consumer_lag` is in records, of all parts together, `learner_lag` in seconds, how old the oldest event is that waits to be learned;
    both are told as logarithms. Where Kafka does not answer, nothing is seen.
    """

    def __init__(
        self,
        bootstrap: str,
        client_id: str,
        oldest_ms: Callable[[], int | None],
        hand_over: Callable[[Batch | Observation], None],
        clock: Callable[[], int],
    ) -> None:
        self._lag = LagReader(bootstrap, f"{client_id}-watch")
        self._lists = ListSample(bootstrap, f"{client_id}-watch-lists")
        self._oldest_ms = oldest_ms
        self._hand_over = hand_over
        self._clock = clock
        self._stop = threading.Event()
        self._is_silent = False
        self._thread = threading.Thread(target=self._run, name="service-signals", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)

    def look(self) -> None:
        """Look once. Raises KafkaException."""
        ends = self._lag.ends(TOPICS.values())
        lags = self._lag.lags(GROUPS, ends)
        at_ms = self._clock()
        known = [lag for lag in lags.values() if lag is not None]
        if known:
            self._hand_over(Observation("consumer_lag", math.log1p(sum(known)), at_ms))
        oldest_ms = self._oldest_ms()
        waits_s = 0.0 if oldest_ms is None else max(0, at_ms - oldest_ms) / 1000
        self._hand_over(Observation("learner_lag", math.log1p(waits_s), at_ms))
        if lists := self._lists.read(ends):
            self._hand_over(batch_of(lists))

    def _run(self) -> None:
        try:
            while not self._stop.wait(LOOK_EVERY_S):
                try:
                    self.look()
                    self._is_silent = False
                except KafkaException as error:
                    if not self._is_silent:
                        log.warning("signals of the services are not seen", extra={"reason": str(error)})
                    self._is_silent = True
        finally:
            self._lists.close()


def batch_of(lists: list[Recommendation]) -> Batch:
    """Return the signals of lists: scores, time to make each, and how old the newest of its features was."""
    return list_batch(
        [one.created_ms for one in lists],
        [[item.score for item in one.items] for one in lists],
        [one.latency_ms for one in lists],
        [one.created_ms - one.cause.published_ms for one in lists],
        {"lane": [one.lane or "" for one in lists]},
    )
