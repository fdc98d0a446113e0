"""How a part lives: it runs until it is asked to stop, says what happens in JSON lines, and hands its errors to the log."""

import gc
import json
import logging
import signal
import sys
import threading
from datetime import UTC, datetime
from types import FrameType

from headrace.streams import metrics, tracing

_always: dict[str, str | int] = {}
_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, component, message, and whatever `extra` names.

    Where it has a name of its own, `instance` follows the component; `trace_id` and `span_id` are those of the span that runs in
    the thread, the very ones under which the trace is found; what `tell_always` was given stands in every line.
    """

    def __init__(self, component: str, instance: str = "") -> None:
        super().__init__()
        self._component = component
        self._instance = instance

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "component": self._component,
            "message": record.getMessage(),
        }
        if self._instance:
            line["instance"] = self._instance
        if (ids := tracing.current_ids()) is not None:
            line["trace_id"], line["span_id"] = ids
        line |= _always
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class CountedLines(logging.Handler):
    """Counts warnings and errors, so that a part that complains is seen without anyone reading its log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Count one line."""
        if record.levelno >= logging.WARNING:
            metrics.LOGGED.labels("warning" if record.levelno < logging.ERROR else "error").inc()


def log_as_json(component: str, level: str = "info", instance: str = "") -> None:
    """Send all logging to standard error as JSON lines, and count what is worse than info."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(component, instance))
    for name in ("warning", "error"):
        # From the first scrape on, so that the first error is seen to rise from 0.
        metrics.LOGGED.labels(name)
    logging.basicConfig(handlers=[handler, CountedLines()], level=level.upper(), force=True)


def tell_always(**ids: str | int) -> None:
    """Put these ids, such as `model_version`, into every line of this process from now on."""
    _always.update(ids)


def collect_garbage_seldom() -> None:
    """Set what is loaded by now aside from garbage collection, and let it run seldom from here on.

    Each full collection walks through millions of remembered steps, while requests wait; what is dropped here is freed by
    its reference count alone, since it forms no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 1000)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set, so that a loop may end between two batches."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop
