"""Committing what is done once all that follows from it is acknowledged, without waiting for either.

What is sent between two commits is one stretch of work. A stretch is closed twice a second; when the broker has acknowledged
all that was sent in it, its offsets are committed, and the hot loop goes on meanwhile. Waiting for it would hold up every
hundredth event.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.streams import kafka
from headrace.streams.record_places import partition_of

log = logging.getLogger(__name__)

MOST_OPEN = 4
# The group has moved on without this member: paused for too long, or in the middle of a rebalance.
_NO_LONGER_OURS = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS}


class Stretch:
    """Work between two commits: the last offset of each source, how many sent records are unanswered, and events by key."""

    __slots__ = ("keys", "offsets", "waiting")

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}
        self.keys: Counter[tuple[str, bytes]] = Counter()
        self.waiting = 0

    def answered(self, error: KafkaError | None, record: Message) -> None:
        """Take the broker's answer to a record of this stretch. Raises KafkaException, out of poll or flush, where it was lost."""
        kafka.must_arrive(error, record)
        self.waiting -= 1


class AcknowledgedCommits:
    """The commits of one consumer. `most_of_a_key` bounds how many events of one key can be uncommitted; `confirm` is called
    before each commit, and raises where something that belongs to it is not safe."""

    def __init__(self, most_of_a_key: int, confirm: Callable[[], None]) -> None:
        self.current = Stretch()
        self._closed: deque[Stretch] = deque()
        self._under_way: Stretch | None = None
        self._most_of_a_key = most_of_a_key // (MOST_OPEN + 1)
        self._confirm = confirm

    def is_full_after(self, key: tuple[str, bytes]) -> bool:
        """Count an event of a key; whether the stretch must be closed behind it."""
        self.current.keys[key] += 1
        return self.current.keys[key] >= self._most_of_a_key

    def done(self, reached: Mapping[str, int]) -> None:
        """Note that all up to these offsets is written, and all that follows from it handed over to be sent."""
        self.current.offsets |= reached

    def close_stretch(self) -> bool:
        """Begin a new stretch. Returns False where so many are open that a commit must be waited for."""
        if self.current.offsets:
            self._closed.append(self.current)
            self.current = Stretch()
        return len(self._closed) + (self._under_way is not None) < MOST_OPEN

    def commit_ready(self, consumer: Consumer) -> None:
        """Begin to commit the oldest closed stretch, if all that was sent in it is acknowledged and no other commit is under way."""
        if self._under_way is None and self._closed and self._closed[0].waiting == 0:
            self._confirm()
            self._under_way = self._closed.popleft()
            consumer.commit(offsets=_places([self._under_way]), asynchronous=True)

    def committed(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """Take the broker's answer to a commit; one that failed is made again with the next."""
        stretch, self._under_way = self._under_way, None
        if error is not None and stretch is not None and error.code() not in _NO_LONGER_OURS:
            log.warning("a commit failed and is made again", extra={"reason": error.str()})
            self._closed.appendleft(stretch)

    def commit_all(self, consumer: Consumer) -> bool:
        """Commit all that is done and wait for it; everything sent must be acknowledged. Returns False where the group has moved on."""
        self._confirm()
        under_way = [] if self._under_way is None else [self._under_way]
        places = _places([*under_way, *self._closed, self.current])
        self.forget()
        if not places:
            return True
        try:
            consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in _NO_LONGER_OURS:
                raise
            log.warning("the group has moved on; nothing is committed", extra={"reason": str(error)})
            return False
        return True

    def forget(self) -> None:
        """Take back all that is not committed."""
        self.current = Stretch()
        self._closed.clear()
        self._under_way = None


def _places(stretches: Iterable[Stretch]) -> list[TopicPartition]:
    offsets: dict[str, int] = {}
    for stretch in stretches:
        offsets |= stretch.offsets
    return [partition_of(source, offset + 1) for source, offset in offsets.items()]
