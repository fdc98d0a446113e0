"""Events of a file with their places in Kafka: those that its lines tell, or made up as a backfill makes them up.

`headrace tail --json-lines` and exports may tell `source`, `offset` and `published_ms` in each line. Where they are not told, the
source is the partition that a producer chooses for the shopper, the offset counts the events of that source, and the time of
publishing is the event's own.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from headrace.deploy.spark_events import event_of, read_value
from headrace.features.backfill import source_of
from headrace.features.place import Place
from headrace.schemas import Event
from headrace.schemas.wire import InvalidMessage
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
