"""Events with their places in Kafka: from Kafka itself, or from a file.

Each line of a file may tell `source`, `offset` and `published_ms`. Where it does not, they are made up as a backfill makes them up:
the source is the partition that a producer chooses for the shopper, the offset counts the events of that source, and the time of
publishing is the event's own.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from headrace.deploy.spark_events import event_of, read_value
from headrace.features.backfill import in_order, source_of
from headrace.features.place import Place
from headrace.schemas import Event
from headrace.schemas.topics import CLICKS, PURCHASES
from headrace.schemas.wire import InvalidMessage, check_event
from headrace.streams.readers import open_events
from headrace.streams.readers.lines import open_lines

Refuse = Callable[[str], object]


def placed_events(
    path: Path, *, limit: int | None = None, open_sessions: int = 64, seed: int = 1, refuse: Refuse = lambda reason: None
) -> Iterator[tuple[Event, Place]]:
    """Yield the first `limit` events of a file in its order. What is no event is left out, and `refuse` is told why.

    Raises OSError; InvalidMessage for a file of unknown layout.
    """
    if _holds_json(path):
        return islice(_told(path, refuse), limit)

    def left_out(error: InvalidMessage) -> None:
        refuse(str(error))

    return islice(_made_up(open_events(path, open_sessions=open_sessions, seed=seed, on_bad_row=left_out)), limit)


def kafka_events(
    bootstrap: str, *, refuse: Refuse = lambda reason: None, progress: Callable[[int, int], object] = lambda done, total: None
) -> list[tuple[Event, Place]]:
    """Return all clicks and purchases that Kafka has, in the order in which they were published; of one partition, in that of offsets.

    `progress` is told how many were read, and of how many. Raises BrokerUnreachable, TopicMissing, KafkaException, KafkaSilent.
    """
    from headrace.streams.broker import require_broker
    from headrace.streams.log_reading import LogReader
    from headrace.streams.record_places import event_of as event_in
    from headrace.streams.record_places import place_of

    require_broker(bootstrap)
    arrivals = []
    with closing(LogReader(bootstrap, "training-examples")) as log:
        for records in log.records(log.stretches([CLICKS, PURCHASES]), progress):
            for record in records:
                place = place_of(record)
                try:
                    event = event_in(record)
                    check_event(event, place.published_ms)
                except InvalidMessage as error:
                    refuse(f"{place.source}, offset {place.offset}: {error}")
                    continue
                arrivals.append((event, place))
    return [(placed.event, placed.place) for placed in in_order(arrivals)]


def _holds_json(path: Path) -> bool:
    with open_lines(path) as lines:
        first = next(lines, None)
    return first is not None and first[1].startswith(b"{")


def _told(path: Path, refuse: Refuse) -> Iterator[tuple[Event, Place]]:
    counts: Counter[str] = Counter()
    with open_lines(path) as lines:
        for number, line in lines:
            source, offset, published_ms, _, body, reason = read_value(line.decode(errors="replace"), f"{path.name}:{number}")
            if reason is not None:
                refuse(reason)
                continue
            yield event_of(body), Place(source, counts[source] if offset is None else offset, published_ms)
            counts[source] += 1


def _made_up(events: Iterator[Event]) -> Iterator[tuple[Event, Place]]:
    counts: Counter[str] = Counter()
    for event in events:
        source = source_of(event)
        yield event, Place(source, counts[source], event.event_time_ms)
        counts[source] += 1
