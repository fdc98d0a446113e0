"""How a program reads a topic: as typed messages, one after the other."""

import logging
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from confluent_kafka import KafkaError, KafkaException, Message
from msgspec import Struct

from headrace.schemas import wire
from headrace.schemas.topics import BY_NAME, TOPICS, Topic
from headrace.schemas.wire import InvalidMessage
from headrace.streams import kafka
from headrace.streams.broker import require_topic

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Struct)
_POLL_S = 0.5


class NotSubscribable(ValueError):
    """There is no topic of that name or type, or it holds raw bytes."""


class Subscriber(Generic[M]):
    """Iterates over the messages of one topic, named by its name or by the type of its messages (`Recommendation`).

    Without a `group` every subscriber sees every message: from now on (`start="end"`), or from the oldest that is kept
    ("beginning"). With a `group` its members share the partitions, and `start` counts only where the group has no place yet;
    a message is marked as done when the next is asked for, so after a crash it comes again (at least once).
    What cannot be decoded is skipped, counted in `skipped` and logged.

    Raises NotSubscribable, BrokerUnreachable, and TopicMissing.
    """

    @overload
    def __init__(
        self: "Subscriber[Struct]", bootstrap: str, topic: str | Topic, *, group: str | None = ..., start: Literal["end", "beginning"] = ...
    ) -> None: ...
    @overload
    def __init__(self, bootstrap: str, topic: type[M], *, group: str | None = ..., start: Literal["end", "beginning"] = ...) -> None: ...
    def __init__(
        self,
        bootstrap: str,
        topic: str | Topic | type[Struct],
        *,
        group: str | None = None,
        start: Literal["end", "beginning"] = "end",
    ) -> None:
        self.topic = topic_of(topic)
        self.skipped = 0
        self._kind: Any = self.topic.message
        self._in_group = group is not None
        self._pending: Message | None = None
        require_topic(bootstrap, self.topic.name)
        self._consumer = kafka.consumer(bootstrap, "headrace-subscriber", group, **_overrides(group, start))
        if group is None:
            kafka.assign_all(self._consumer, [self.topic], start)
        else:
            self._consumer.subscribe([self.topic.name])

    def poll(self, timeout_s: float) -> M | None:
        """Return the next message, or None where none came within `timeout_s`. Raises KafkaException where reading fails for good."""
        self._mark_done()
        deadline = time.monotonic() + timeout_s
        while True:
            record = self._consumer.poll(max(0.0, deadline - time.monotonic()))
            if record is None:
                return None
            message = self._decoded(record)
            if message is not None:
                return message

    def __iter__(self) -> Iterator[M]:
        """Yield messages for ever; waits for the next."""
        while True:
            message = self.poll(_POLL_S)
            if message is not None:
                yield message

    def close(self) -> None:
        """Leave the group. The last message handed out counts as not done, unless another was asked for after it."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _decoded(self, record: Message) -> M | None:
        failure = record.error()
        if failure is not None:
            if failure.retriable() or failure.code() in _TRANSIENT:
                log.warning("reading %s: %s", self.topic.name, failure.str())
                return None
            raise KafkaException(failure)
        if self._in_group:
            self._pending = record
        try:
            message: M = wire.decode(self._kind, record.value(), record.headers())
        except InvalidMessage as error:
            self.skipped += 1
            log.warning("skipped %s/%s at offset %s: %s", record.topic(), record.partition(), record.offset(), error)
            return None
        return message

    def _mark_done(self) -> None:
        record, self._pending = self._pending, None
        if record is None:
            return
        try:
            self._consumer.store_offsets(record)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._STATE:
                raise
            # The partition went to another member meanwhile; that one reads the message again.
            log.warning("%s/%s now belongs to another member", record.topic(), record.partition())


_TRANSIENT = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE}


def topic_of(topic: str | Topic | type[Struct]) -> Topic:
    """Return the topic of that name or of that type of message. Raises NotSubscribable."""
    if isinstance(topic, type):
        found = next((known for known in TOPICS if known.message is topic), None)
    else:
        found = BY_NAME.get(topic) if isinstance(topic, str) else topic
    readable = ", ".join(known.name for known in TOPICS if known.message is not None)
    if found is None:
        raise NotSubscribable(f"topic: one of {readable} was expected; the value is {topic!r}")
    if found.message is None:
        raise NotSubscribable(f"topic: '{found.name}' holds raw bytes, not messages; choose one of {readable}")
    return found


def _overrides(group: str | None, start: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"logger": logging.getLogger("headrace.kafka")}
    if group is not None:
        # Offsets are stored by `_mark_done` alone; the client commits what is stored each second, on rebalance and at close.
        settings |= {"enable.auto.commit": True, "auto.commit.interval.ms": 1000, "enable.auto.offset.store": False}
        settings |= {"auto.offset.reset": "latest" if start == "end" else "earliest"}
    return settings
