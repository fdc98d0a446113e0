"""Showing how far a long benchmark is: a bar on a terminal, else a plain line each second."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 1.0


class Progress:
    """`tell` says what happens now; `step` says that one of the `total` steps is done."""

    def __init__(self, total: int, show: Callable[[int, str], None]) -> None:
        self._total = total
        self._done = 0
        self._show = show
        self._what = ""

    def begin(self, what: str) -> None:
        """Say which measurement the next messages belong to."""
        self._what = what
        self.tell("")

    def tell(self, text: str) -> None:
        """Show what is going on."""
        self._show(self._done, f"{self._what}: {text}" if text else self._what)

    def step(self) -> None:
        """One step is done."""
        self._done = min(self._total, self._done + 1)
        self.tell("")


@contextmanager
def shown_progress(total: int, *, plain: bool) -> Iterator[Progress]:
    """Show progress on standard error until the block ends."""
    if plain:
        yield Progress(total, _line_shower(total))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield Progress(total, lambda done, text: bar.update(task, completed=done, description=text))


def _line_shower(total: int) -> Callable[[int, str], None]:
    shown_s, shown = 0.0, ""

    def show(done: int, text: str) -> None:
        nonlocal shown_s, shown
        now_s = time.monotonic()
        line = f"{done}/{total} {text}"
        if line != shown and now_s >= shown_s + LINE_EVERY_S:
            shown_s, shown = now_s, line
            print(line, file=sys.stderr, flush=True)

    return show
