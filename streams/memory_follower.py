"""Teaches a ranker's memories from the changelog `user-features`, in a thread of its own."""

import logging
import random
import threading
from collections.abc import Callable, Sequence

from confluent_kafka import Message

from headrace.online_model.ranker import Foreseen, Ranker
from headrace.schemas import InvalidMessage, UserRow, decode
from headrace.schemas.topics import USER_FEATURES
from headrace.streams import kafka, metrics
from headrace.streams.lifetime import collect_garbage_seldom

log = logging.getLogger(__name__)

LARGEST_BATCH = 200
PATIENCE_MS = 200


class MemoryFollower:
    """Reads all user rows from the beginning, outside of any group, and teaches them to the ranker.

    `caught_up`, an event of its own unless one is given, is set once the rows that were there at the start are learned. One row of each
    later batch also teaches the mixture, so that its weights are those of a ranker that answers, whatever the number of processes; `watch`
    is told of it, and of the batch's newest row with the time at which that was written.
    """

    def __init__(self, bootstrap: str, client_id: str, ranker: Ranker, caught_up: threading.Event | None = None) -> None:
        self._client_id = client_id
        self._ranker = ranker
        self._random = random.Random(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="memories", daemon=True)
        self.watch: Callable[[int, UserRow, Sequence[Foreseen]], None] = lambda written_ms, row, tested: None
        self.caught_up = caught_up or threading.Event()
        self.failure: BaseException | None = None
        self._consumer = kafka.consumer(bootstrap, client_id, patience_ms=PATIENCE_MS)
        # Asked before anything is read: the answer to such a question would wait behind an open fetch for half a second.
        numbers = kafka.partitions(self._consumer, USER_FEATURES)
        ends = {number: kafka.watermarks(self._consumer, USER_FEATURES.name, number)[1] for number in numbers}
        starts = kafka.assign_all(self._consumer, [USER_FEATURES])
        self._behind = {place.partition: ends[place.partition] for place in starts if ends[place.partition] > place.offset}

    def start(self) -> None:
        """Begin to follow the rows."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following; what is learned goes on answering."""
        self._stop.set()
        self._thread.join(timeout=10.0)

    def step(self, timeout_s: float) -> int:
        """Learn the rows that are there, waiting up to `timeout_s` for the first; return the number of records."""
        records = kafka.next_batch(self._consumer, LARGEST_BATCH, timeout_s)
        read = [(record, row) for record in records if (row := self._row(record)) is not None]
        rows = [row for _, row in read]
        if read and self.caught_up.is_set():
            tested = self._ranker.test_then_learn([self._random.choice(rows)])
            self.watch(read[-1][0].timestamp()[1], read[-1][1], tested)
        for row in rows:
            self._ranker.learn(row)
        for record in records:
            number, offset = record.partition() or 0, record.offset() or 0
            if offset + 1 >= self._behind.get(number, 0):
                self._behind.pop(number, None)
        if not self._behind and not self.caught_up.is_set():
            collect_garbage_seldom()
            self.caught_up.set()
        return len(records)

    def _row(self, record: Message) -> UserRow | None:
        if record.value() is None:
            return None
        try:
            return decode(UserRow, record.value(), record.headers())
        except InvalidMessage as error:
            metrics.UNREADABLE.labels(self._client_id).inc()
            place = f"{record.topic()}/{record.partition()}/{record.offset()}"
            log.warning("row passed over", extra={"place": place, "reason": str(error)})
            return None

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                self.step(0.1)
        except BaseException as error:
            # Kept for whoever is asked for its health: memories that nobody teaches would grow old in silence.
            self.failure = error
            log.exception("the user rows are no longer followed")
        finally:
            self._consumer.close()
