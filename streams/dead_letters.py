"""Where a worker puts a record that it cannot take in, so that it is neither lost nor in the way of those behind it."""

import logging
import time
from collections.abc import Callable

from confluent_kafka import KafkaError, Message, Producer

from headrace.schemas import wire
from headrace.schemas.dead_letters import DeadLetter
from headrace.schemas.topics import DEAD_LETTERS
from headrace.schemas.wire import InvalidMessage

log = logging.getLogger(__name__)

TEXT_LIMIT = 1024
# Base64 turns 3 bytes into 4 characters. The reason and the field take at most 6 bytes a character ("\u0000"); the rest is small.
RAW_LIMIT = (DEAD_LETTERS.max_bytes - 2 * TEXT_LIMIT * 6 - 2_000) * 3 // 4


class DeadLettersLost(RuntimeError):
    """Refused records did not reach the topic of dead letters, so their offsets must not be committed."""


class DeadLetters:
    """Publishes refused records through the worker's own `producer`, under the name of its `component`."""

    def __init__(self, producer: Producer, component: str, clock: Callable[[], int] = wire.now_ms) -> None:
        self.refused = 0
        self._producer = producer
        self._component = component
        self._clock = clock
        self._waiting = 0
        self._lost: list[str] = []

    def refuse(self, record: Message, error: InvalidMessage, timeout_s: float = 30.0) -> None:
        """Publish the record as it is, with the reason. Raises DeadLettersLost where the producer's buffer stays full."""
        letter = dead_letter(record, error, self._component, self._clock())
        place = f"{letter.topic}/{letter.partition}/{letter.offset}"
        trace = wire.header(record.headers(), "traceparent")
        headers = wire.headers(letter, event_id=place, time_ms=letter.created_ms, source=self._component, traceparent=trace)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._producer.produce(
                    DEAD_LETTERS.name, wire.encode(letter), letter.topic, headers=headers, on_delivery=lambda e, _: self._answered(place, e)
                )
                break
            except BufferError:
                if time.monotonic() >= deadline:
                    raise DeadLettersLost(
                        f"no room in the producer's buffer for {place} within {timeout_s:g} s; is the broker up?"
                    ) from None
                self._producer.poll(0.01)
        self._waiting += 1
        self.refused += 1
        log.warning("refused %s: %s", place, error)

    def confirm(self, timeout_s: float = 30.0) -> None:
        """Wait until every refused record is kept; call it before their offsets are committed. Raises DeadLettersLost."""
        if self._waiting:
            self._producer.flush(timeout_s)
        if self._waiting or self._lost:
            shown = "; ".join(self._lost[:3])
            raise DeadLettersLost(
                f"{self._waiting} dead letters are unanswered, {len(self._lost)} failed: {shown}; do not commit their offsets"
            )

    def _answered(self, place: str, error: KafkaError | None) -> None:
        self._waiting -= 1
        if error is not None:
            self._lost.append(f"{place}: {error.str()}")
            log.error("the dead letter of %s was not kept: %s", place, error.str())


def dead_letter(record: Message, error: InvalidMessage, component: str, now_ms: int) -> DeadLetter:
    """Return the letter for a refused record. Bytes beyond what the topic can hold are cut off, and the reason says so."""
    raw, reason = record.value() or b"", str(error)
    if len(raw) > RAW_LIMIT:
        reason = f"(the first {RAW_LIMIT} of {len(raw)} bytes are kept) {reason}"
        raw = raw[:RAW_LIMIT]
    return DeadLetter(
        topic=record.topic() or "unknown",
        partition=record.partition() or 0,
        offset=record.offset() or 0,
        reason=_clean(reason),
        field=_clean(error.field),
        raw=raw,
        component=component,
        created_ms=now_ms,
    )


def _clean(text: str) -> str:
    # A field's name comes from the sender, and may hold half a surrogate pair, which UTF-8 cannot write.
    return text[:TEXT_LIMIT].encode(errors="replace").decode()
