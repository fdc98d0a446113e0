"""How a part lives: it runs until it is asked to stop, says what happens in JSON lines, and hands its errors to the log."""

import gc
import json
import logging
import signal
import sys
import threading
from datetime import UTC, datetime
from types import FrameType

_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, component, message, and whatever `extra` names."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "component": self._component,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json(component: str, level: str = "info") -> None:
    """Send all logging to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(component))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


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
