"""`headrace demo` in a terminal: the live view or plain lines, then the report."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from headrace.deploy.demo import Demo, DemoOptions, Watcher
from headrace.deploy.demo_report import DemoReport
from headrace.deploy.demo_view import draw, in_words, line
from headrace.deploy.monitor import Picture
from headrace.deploy.parts import DEMO_PARTS
from headrace.deploy.settings import Settings
from headrace.schemas import HistoryEntry

WORDS_EVERY = 5


class BadKill(ValueError):
    """What was given for --kill is no part and time."""


def parse_kill(text: str) -> tuple[str, float]:
    """Return the part and the seconds of 'PART@SECONDS'. Raises BadKill."""
    part, _, seconds = text.partition("@")
    try:
        if part in DEMO_PARTS and float(seconds) >= 0:
            return part, float(seconds)
    except ValueError:
        pass
    raise BadKill(f"--kill: PART@SECONDS was expected, with a part of {', '.join(DEMO_PARTS)}; the value is {text!r}")


def show_demo(options: DemoOptions, settings: Settings, *, plain: bool, json_file: Path | None) -> DemoReport:
    """Run a demo, show it, print its report and write it to `json_file`."""
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    title = f"Headrace, {options.data.name if options.data else 'a simulated shop'}"
    with _plain() if plain else _live(title) as watcher, Demo(options, settings, watcher) as demo:
        report = demo.run()
    print("\n".join(report.lines()))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return report


@contextmanager
def _plain() -> Iterator[Watcher]:
    shown = 0

    def show(picture: Picture, history: Sequence[HistoryEntry]) -> None:
        nonlocal shown
        print(line(picture), flush=True)
        if shown % WORDS_EVERY == 0 and picture.newest is not None:
            print("\n".join(in_words(picture, history)), flush=True)
        shown += 1

    yield Watcher(_said, show)


@contextmanager
def _live(title: str) -> Iterator[Watcher]:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live("starting Kafka, Redis and the parts ...", console=console, refresh_per_second=4) as live:

        def show(picture: Picture, history: Sequence[HistoryEntry]) -> None:
            live.update(draw(picture, history, title))

        say: Callable[[str], None] = live.console.print
        yield Watcher(say, show)


def _said(text: str) -> None:
    print(text, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
