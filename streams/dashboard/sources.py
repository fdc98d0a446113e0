"""When each source last told something, and what is amiss with it."""

import logging
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaException

from headrace.streams.dashboard.messages import Source

log = logging.getLogger(__name__)

T = TypeVar("T")


class Sources:
    """The sources in the order in which they were first asked."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    def ask(self, name: str, question: Callable[[], T], at_ms: int, every_s: float = 2.0) -> T | None:
        """Return the answer; None, with the trouble noted, where Kafka does not give one."""
        before = self._sources.get(name)
        try:
            answer = question()
        except KafkaException as error:
            reason = error.args[0].str()
            if before is None or before.trouble is None:
                log.warning("a source of the dashboard does not answer", extra={"source": name, "reason": reason})
            seen_ms = before.seen_ms if before else None
            self._sources[name] = Source(name=name, seen_ms=seen_ms, expected_every_s=every_s, trouble=f"Kafka does not answer ({reason})")
            return None
        self._sources[name] = Source(name=name, seen_ms=at_ms, expected_every_s=every_s)
        return answer

    def note(self, name: str, seen_ms: int | None, trouble: str | None = None, every_s: float | None = None) -> None:
        """Note a source that is not asked here."""
        self._sources[name] = Source(name=name, seen_ms=seen_ms, expected_every_s=every_s, trouble=trouble)

    def shown(self) -> list[Source]:
        """Return all."""
        return list(self._sources.values())
