"""How far a long command has come: a bar on a terminal, a plain line each second elsewhere, both on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[int, int, str], None]


@contextmanager
def counting(what: str, plain: bool) -> Iterator[Show]:
    """Give a function that is told what is done, of how many, and what else is worth a word."""
    if plain:
        yield _plain(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, told="")
        yield lambda done, total, told: bar.update(task, completed=done, total=total, told=told)


def _plain(what: str) -> Show:
    started_s = time.monotonic()
    next_s = started_s + 1.0

    def show(done: int, total: int, told: str) -> None:
        nonlocal next_s
        now_s = time.monotonic()
        if now_s >= next_s:
            next_s = now_s + 1.0
            eta = f", {(now_s - started_s) * (total - done) / done:.0f} s to go" if 0 < done < total else ""
            print(f"{what}: {done}/{total}{eta}{f', {told}' if told else ''}", file=sys.stderr, flush=True)

    return show
