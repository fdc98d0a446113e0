"""`headrace publish`: a file of shop data, replayed to Kafka at an even rate."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from msgspec import Struct

from headrace.schemas.topics import CLICKS, PURCHASES
from headrace.schemas.wire import InvalidMessage
from headrace.streams import kafka
from headrace.streams.broker import require_broker
from headrace.streams.publisher import EventPublisher, UndeliveredEvents
from headrace.streams.readers import count_events, open_events
from headrace.streams.replay_rate import Pace

_SHOWN_REFUSALS = 5
_REDRAW_S = 0.2
_FLUSH_S = 30.0


class Replay(Struct):
    """What a replay has done so far. `refused` counts rows and events that were not fit to be sent, `failed` lost ones."""

    file: str
    published: int = 0
    acknowledged: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Events handed over per second."""
        return self.published / self.seconds if self.seconds > 0 else 0.0

    def line(self) -> str:
        """Return it as one readable line."""
        counts = f"{self.acknowledged} acknowledged, {self.refused} refused, {self.failed} failed"
        return f"{self.published} events published from {self.file} in {self.seconds:.1f} s ({self.rate:.0f} a second): {counts}"


def publish_file(
    path: Path, bootstrap: str, replay: Replay, *, rate: float | None, limit: int | None, open_sessions: int, seed: int, plain: bool
) -> None:
    """Publish the file's events, keeping `replay` up to date, so that whoever interrupts it knows how far it got.

    Raises BrokerUnreachable, InvalidMessage for a file of unknown layout, and PublishError where the broker goes away.
    """
    total = count_events(path)
    total = total if limit is None else min(limit, total)
    require_broker(bootstrap)
    kafka.ensure_topics(bootstrap, (CLICKS, PURCHASES))

    def refuse(error: InvalidMessage) -> None:
        replay.refused += 1
        if replay.refused <= _SHOWN_REFUSALS:
            print(f"refused: {error}", file=sys.stderr)

    events = open_events(path, open_sessions=open_sessions, seed=seed, on_bad_row=refuse)
    pace = Pace(rate) if rate is not None else None
    publisher = EventPublisher(bootstrap, source=path.name)
    started_s = time.monotonic()
    with _progress(total, plain) as show:

        def update() -> None:
            replay.seconds = time.monotonic() - started_s
            replay.acknowledged, replay.failed = publisher.acknowledged, publisher.failed
            show(replay)

        try:
            redraw_s = 0.0
            for event in islice(events, limit):
                if pace is not None:
                    pace.wait()
                try:
                    publisher.publish(event)
                    replay.published += 1
                except InvalidMessage as error:
                    refuse(error)
                if time.monotonic() >= redraw_s:
                    update()
                    redraw_s = time.monotonic() + _REDRAW_S
        finally:
            try:
                publisher.close(_FLUSH_S)
            except UndeliveredEvents as error:
                print(f"failed: {error}", file=sys.stderr)
            update()


@contextmanager
def _progress(total: int, plain: bool) -> Iterator[Callable[[Replay], None]]:
    if plain:
        yield _plain_progress(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    told = TextColumn("{task.fields[told]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), told, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("publishing", total=total, told="")

        def show(replay: Replay) -> None:
            told = f"{replay.rate:.0f}/s  refused {replay.refused}  failed {replay.failed}"
            bar.update(task, completed=replay.published + replay.refused, told=told)

        yield show


def _plain_progress(total: int) -> Callable[[Replay], None]:
    next_s = 1.0

    def show(replay: Replay) -> None:
        nonlocal next_s
        if replay.seconds >= next_s:
            next_s = replay.seconds + 1.0
            told = f"{replay.rate:.0f}/s, refused {replay.refused}, failed {replay.failed}"
            print(f"{replay.published}/{total} {told}", file=sys.stderr, flush=True)

    return show
