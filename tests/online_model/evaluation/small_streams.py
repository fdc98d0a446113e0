"""Streams for the tests, written as pairs of shopper and item."""

from collections.abc import Iterable, Sequence

from headrace.online_model.evaluation.prequential import Clock
from headrace.online_model.evaluation.stream_model import StreamModel, StreamStep
from headrace.schemas import HistoryEntry

Pairs = Iterable[tuple[str, str]]


def stream_of(pairs: Pairs, step_ms: int = 1_000) -> list[StreamStep]:
    """Return views, one event each, `step_ms` apart."""
    return [StreamStep(shopper, HistoryEntry(item, "view", number * step_ms), number) for number, (shopper, item) in enumerate(pairs)]


def taught(model: StreamModel, pairs: Pairs, step_ms: int = 1_000) -> dict[str, list[HistoryEntry]]:
    """Teach the model the stream; return the histories at its end."""
    histories: dict[str, list[HistoryEntry]] = {}
    for shopper, entry, _ in stream_of(pairs, step_ms):
        history = histories.setdefault(shopper, [])
        model.learn(shopper, tuple(history), entry)
        history.append(entry)
    return histories


def history_of(*items: str) -> Sequence[HistoryEntry]:
    """Return views a second apart."""
    return [HistoryEntry(item, "view", number * 1_000) for number, item in enumerate(items)]


def ticking(step_ns: int) -> Clock:
    """Return a clock that goes on by the same time at each look."""
    now_ns = 0

    def look() -> int:
        nonlocal now_ns
        now_ns += step_ns
        return now_ns

    return look
