"""Log lines: one JSON object each, with the ids by which other lines, traces and metrics are found."""

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from headrace.streams import lifetime, tracing
from headrace.streams.lifetime import CountedLines, JsonLines, tell_always

FOLLOWED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _ids_of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lifetime, "_always", {})
    yield
    tracing.shut_down()


def line(instance: str = "", level: int = logging.INFO, **extra: object) -> dict[str, Any]:
    record = logging.LogRecord("headrace", level, __file__, 1, "weights %s", ("swapped",), None)
    record.__dict__.update(extra)
    told: dict[str, Any] = json.loads(JsonLines("recommender", instance).format(record))
    return told


def test_a_line_tells_when_how_bad_who_and_what() -> None:
    told = line(level=logging.WARNING, version=7)
    assert told.pop("time").endswith("+00:00")
    assert told == {"level": "warning", "component": "recommender", "message": "weights swapped", "version": 7}


def test_a_part_with_a_name_of_its_own_gives_it() -> None:
    assert line(instance="recommender-1")["instance"] == "recommender-1"


def test_within_a_span_a_line_has_the_ids_under_which_the_trace_is_found() -> None:
    tracing.set_up("recommender", exporter=InMemorySpanExporter())
    with tracing.span("swap", FOLLOWED) as span:
        told = line()
    assert f"00-{told['trace_id']}-{told['span_id']}-01" == tracing.traceparent_of(span)
    assert told["trace_id"] == FOLLOWED.split("-")[1]
    assert "trace_id" not in line()


def test_what_is_always_told_stands_in_every_line_unless_the_line_says_otherwise() -> None:
    tell_always(model_version=3)
    tell_always(model_version=4)
    assert line()["model_version"] == 4
    assert line(model_version=5)["model_version"] == 5


def test_an_error_brings_its_traceback() -> None:
    try:
        raise ValueError("the reason")
    except ValueError:
        record = logging.LogRecord("headrace", logging.ERROR, __file__, 1, "oh", (), sys.exc_info())
    assert "ValueError: the reason" in json.loads(JsonLines("gateway").format(record))["error"]


def test_warnings_and_errors_are_counted_and_news_is_not() -> None:
    def counted(level: str) -> float:
        return REGISTRY.get_sample_value("headrace_log_messages_total", {"level": level}) or 0.0

    before = counted("warning"), counted("error")
    for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        CountedLines().emit(logging.LogRecord("headrace", level, __file__, 1, "x", (), None))
    assert (counted("warning") - before[0], counted("error") - before[1]) == (1, 2)
