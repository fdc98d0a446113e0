"""How a shop publishes clicks and purchases: checked before they are sent, acknowledged by all replicas, and counted."""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message

from headrace.schemas import wire
from headrace.schemas.events import Event
from headrace.schemas.wire import InvalidMessage
from headrace.streams import kafka, tracing
from headrace.streams.outgoing import OutgoingRecord, outgoing
from headrace.streams.settlement import Outcome, Settlement

log = logging.getLogger(__name__)

OnError = Callable[[str, str], None]
Answer = Callable[[KafkaError | None, Message], None]
_POLL_S = 0.1
_FULL_WAIT_S = 0.005


class PublishError(RuntimeError):
    """An event could not be handed over to Kafka."""


class BufferFull(PublishError):
    """As many events as the buffer holds still wait for the broker."""


class UndeliveredEvents(PublishError):
    """`failed` events were given up and `waiting` are not acknowledged yet; `reasons` counts why the failed ones were."""

    def __init__(self, failed: int, waiting: int, reasons: dict[str, int], bootstrap: str) -> None:
        told = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
        parts = [f"{failed} events could not be delivered ({told})"] if failed else []
        parts += [f"{waiting} events are not acknowledged yet"] if waiting else []
        super().__init__(
            f"{' and '.join(parts)}; check the broker at {bootstrap}, then publish them again; those that still wait may arrive as well"
        )
        self.failed = failed
        self.waiting = waiting
        self.reasons = reasons


class EventPublisher:
    """Publishes clicks and purchases to the topics of their type, keyed by shopper. Safe to share between threads.

    A thread of its own takes in the broker's answers while nobody publishes, so that `acknowledged` and `failed` are up to
    date and `on_error(event_id, reason)` is called without any further call; `on_error` runs in that thread or in the one
    that publishes, and should be quick. At most `max_buffered` events wait for an answer. The header `ce_time` carries the
    event's time, the record's timestamp the time of publishing.
    """

    def __init__(
        self,
        bootstrap: str,
        source: str = "shop",
        *,
        max_buffered: int = 100_000,
        clock: Callable[[], int] = wire.now_ms,
        on_error: OnError | None = None,
        **client_settings: Any,
    ) -> None:
        self.acknowledged = 0
        self.failed = 0
        self._handed_over = 0
        self._bootstrap, self._source, self._max_buffered = bootstrap, source, max_buffered
        self._clock, self._on_error = clock, on_error
        self._reasons: Counter[str] = Counter()
        self._counts = threading.Lock()
        settings = {"queue.buffering.max.messages": max_buffered, "logger": logging.getLogger("headrace.kafka")}
        self._producer = kafka.producer(bootstrap, "headrace-publisher", **(settings | client_settings))
        self._polled_s = 0.0
        self._closed = threading.Event()
        self._answers = threading.Thread(target=self._take_answers, name="headrace-publisher", daemon=True)
        self._answers.start()

    def publish(self, event: Event, *, traceparent: str | None = None, timeout_s: float = 30.0) -> None:
        """Hand one event over to be sent: at once while there is room in the buffer, else when room comes within `timeout_s`.

        Raises InvalidMessage, which names the field and value, where the event is not fit to be sent; BufferFull where no
        room came in time; PublishError where the publisher is closed or Kafka refuses it.
        """
        self._require_open()
        record, answer = self._outgoing(event, traceparent, None, 0)
        started_s = self._polled_s = time.monotonic()
        self._producer.poll(0)
        while not self._produced(record, answer):
            if time.monotonic() >= started_s + timeout_s:
                raise BufferFull(self._full(timeout_s))
            self._producer.poll(_FULL_WAIT_S)

    async def publish_and_wait(self, events: Iterable[Event], *, timeout_s: float = 10.0, traceparent: str | None = None) -> list[Outcome]:
        """Publish events and return what became of each, in their order, when all is known or `timeout_s` has passed.

        Never waits for room. A bad event spoils no other: it is `refused` and the others are sent. Raises PublishError where
        the publisher is closed.
        """
        self._require_open()
        batch = list(events)
        settlement = Settlement(asyncio.get_running_loop(), [event.event_id for event in batch])
        for place, event in enumerate(batch):
            try:
                record, answer = self._outgoing(event, traceparent, settlement, place)
                if not self._produced(record, answer):
                    settlement.settle(place, "buffer_full", self._full(0.0))
            except InvalidMessage as error:
                settlement.settle(place, "refused", str(error), error.field)
            except PublishError as error:
                settlement.settle(place, "failed", str(error))
        return await settlement.outcomes(timeout_s)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all that was published is acknowledged.

        Raises UndeliveredEvents where events have failed since the last flush, or still wait after `timeout_s`.
        """
        self._producer.flush(timeout_s)
        waiting = self.waiting
        with self._counts:
            reasons, self._reasons = dict(self._reasons), Counter()
        if reasons or waiting:
            raise UndeliveredEvents(sum(reasons.values()), waiting, reasons, self._bootstrap)

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush, then give up what still waits; `on_error` hears of every event given up. Raises as `flush` does."""
        if self._closed.is_set():
            return
        try:
            self.flush(timeout_s)
        finally:
            if self.waiting:
                self._producer.purge(in_queue=True, in_flight=True, blocking=True)
                self._producer.flush(1.0)
            self._closed.set()
            self._answers.join()

    @property
    def waiting(self) -> int:
        """How many events have been handed over and are not answered for yet."""
        with self._counts:
            return max(0, self._handed_over - self.acknowledged - self.failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except UndeliveredEvents as undelivered:
            if error is None:
                raise
            # The caller's own error must reach the caller; ours must be told all the same.
            log.error("events were lost while another error was raised: %s", undelivered)

    def _outgoing(self, event: Event, traceparent: str | None, settlement: Settlement | None, place: int) -> tuple[OutgoingRecord, Answer]:
        """Return an event's record and what takes its answer; where the event is followed, its span is open until then."""
        span = tracing.begin("publish", traceparent)
        try:
            record = outgoing(event, self._source, self._clock(), tracing.traceparent_of(span) or traceparent)
        except InvalidMessage as error:
            tracing.end(span, str(error))
            raise
        answer: Answer = partial(self._answered, event.event_id, settlement, place)
        if span is None:
            return record, answer
        span.set_attributes({"messaging.system": "kafka", "messaging.destination.name": record.topic, "headrace.event_id": event.event_id})

        def traced(error: KafkaError | None, sent: Message) -> None:
            tracing.end(span, None if error is None else error.str())
            answer(error, sent)

        return record, traced

    def _produced(self, record: OutgoingRecord, answer: Answer) -> bool:
        try:
            self._producer.produce(record.topic, record.value, record.key, headers=record.headers, on_delivery=answer)
        except BufferError:
            return False
        except KafkaException as error:
            raise PublishError(f"Kafka at {self._bootstrap} takes no more events: {error.args[0].str()}; open a new publisher") from error
        with self._counts:
            self._handed_over += 1
        return True

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise PublishError("this publisher is closed; open a new one")

    def _full(self, waited_s: float) -> str:
        return (
            f"no room in the buffer after {waited_s:g} s: {self.waiting} events wait for {self._bootstrap} to acknowledge them "
            f"(max_buffered is {self._max_buffered}); is the broker up, or the rate too high?"
        )

    def _take_answers(self) -> None:
        # Two threads that take turns at the interpreter's lock halve the rate, so while one publishes, and polls as it does,
        # this one rests; while none does, it hears of every answer at once.
        while not self._closed.is_set():
            if time.monotonic() - self._polled_s < _POLL_S:
                self._closed.wait(_POLL_S)
            else:
                self._producer.poll(_POLL_S)

    def _answered(self, event_id: str, settlement: Settlement | None, place: int, error: KafkaError | None, _: Message) -> None:
        reason = None if error is None else error.str()
        with self._counts:
            if reason is None:
                self.acknowledged += 1
            else:
                self.failed += 1
                self._reasons[reason] += 1
        if settlement is not None:
            settlement.settle(place, "acknowledged" if reason is None else "failed", reason)
        if reason is not None:
            log.error("event %s was not delivered: %s", event_id, reason)
            self._tell(event_id, reason)

    def _tell(self, event_id: str, reason: str) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(event_id, reason)
        except Exception:
            # It is the caller's code, run in our thread: an error in it must not stop the counting of answers.
            log.exception("on_error failed for event %s", event_id)
