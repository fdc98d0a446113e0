"""Putting events into the shape of a stream: rows of one order together, and sessions side by side."""

import random
from collections.abc import Iterable, Iterator
from itertools import groupby, islice

import msgspec

from headrace.schemas.events import Event, OrderLine, Purchase, shopper_id
from headrace.streams.readers.rows import SYNTHETIC_START_MS

MAX_LINES = 1000
STEP_MS = 1000


def merge_orders(events: Iterable[Event]) -> Iterator[Event]:
    """Yield consecutive purchases of one order, shopper and time as one, with the first one's event id and all their lines."""
    first: Purchase | None = None
    lines: list[OrderLine] = []
    for event in events:
        if first is not None:
            if isinstance(event, Purchase) and _order(event) == _order(first) and len(lines) < MAX_LINES:
                lines += event.lines
                continue
            yield msgspec.structs.replace(first, lines=lines)
            first = None
        if isinstance(event, Purchase):
            first, lines = event, list(event.lines)
        else:
            yield event
    if first is not None:
        yield msgspec.structs.replace(first, lines=lines)


def interleave_sessions(events: Iterable[Event], open_sessions: int, seed: int) -> Iterator[Event]:
    """Yield the events of sessions that stand one after the other as if `open_sessions` shoppers were there at once.

    The next event comes from a random open session; one that has ended makes room for the next. Event times are made up:
    2015-06-01T00:00:00Z, then one second later for each event.
    """
    if open_sessions < 1:
        raise ValueError(f"open_sessions: 1 or more was expected; the value is {open_sessions}")
    draw = random.Random(seed)
    sessions = (iter(list(group)) for _, group in groupby(events, key=shopper_id))
    running = [(session, next(session)) for session in islice(sessions, open_sessions)]
    time_ms = SYNTHETIC_START_MS
    while running:
        place = draw.randrange(len(running))
        session, event = running[place]
        yield msgspec.structs.replace(event, event_time_ms=time_ms)
        time_ms += STEP_MS
        following = next(session, None)
        if following is None:
            session = next(sessions, iter(()))
            following = next(session, None)
        if following is None:
            running[place] = running[-1]
            running.pop()
        else:
            running[place] = (session, following)


def _order(purchase: Purchase) -> tuple[str, int, str]:
    return purchase.order_id, purchase.event_time_ms, shopper_id(purchase)
