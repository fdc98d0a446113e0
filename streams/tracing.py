"""Traces: OpenTelemetry spans that follow one event from its publishing to the swap of the weights that learned from it.

Whoever publishes an event draws, by `HEADRACE_TRACE_SAMPLE`, whether it is followed; the flag `sampled` of its `traceparent`
(W3C Trace Context, section 3.2.2.5) then tells every part behind. So one share bounds the cost of all, and a part makes
spans for followed events only. Spans go, in batches, to the collector that `OTEL_EXPORTER_OTLP_ENDPOINT` names. Without it
nothing is made, what makes spans is not even loaded, and each function here costs the look at one variable.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from os import environ
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, Span, Tracer

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
MOST_LINKS = 64
Kind = Literal["internal", "producer", "consumer"]
Attributes = Mapping[str, object]

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])")
_tracer: "Tracer | None" = None
_share = 0.0
_stop: Callable[[], None] | None = None


def set_up(
    component: str,
    instance: str = "",
    *,
    share: float = 0.0,
    exporter: "SpanExporter | None" = None,
    variables: Mapping[str, str] = environ,
) -> bool:
    """Begin to trace, as the part `component`, where an endpoint is set in `variables` or an `exporter` is given.

    `share` of the events that this process publishes, and that come without a trace of their own, are followed. Returns
    whether spans are made. The variables of OpenTelemetry's OTLP exporter (headers, time-out, certificate) are honoured.
    """
    global _tracer, _share, _stop
    shut_down()
    # As OpenTelemetry's specification of the OTLP exporter has it: the endpoint of traces is taken as it is.
    endpoint = variables.get(TRACES_ENDPOINT) or (f"{variables[ENDPOINT].rstrip('/')}/v1/traces" if variables.get(ENDPOINT) else "")
    if exporter is None and not endpoint:
        return False
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

    identity = {"service.name": f"headrace-{component}", "service.namespace": "headrace", "service.version": version("headrace")}
    if instance:
        identity["service.instance.id"] = instance
    # Roots are drawn by `begin`, for a fraction of what the library's own sampler costs.
    provider = TracerProvider(resource=Resource.create(identity), sampler=ParentBased(ALWAYS_ON), shutdown_on_exit=True)
    provider.add_span_processor(_processor(exporter, endpoint))
    _tracer, _share, _stop = provider.get_tracer("headrace"), share, provider.shutdown
    return True


def shut_down() -> None:
    """Send what waits to be sent, and trace no more."""
    global _tracer, _stop
    stop, _tracer, _stop = _stop, None, None
    if stop is not None:
        stop()


def is_on() -> bool:
    """Whether this process makes spans at all."""
    return _tracer is not None


def is_followed(traceparent: str | None) -> bool:
    """Whether this process makes spans, and what carries this `traceparent` is followed."""
    if _tracer is None or traceparent is None:
        return False
    match = _TRACEPARENT.fullmatch(traceparent)
    return match is not None and int(match[3], 16) & 1 == 1


def begin(name: str, traceparent: str | None, attributes: Attributes | None = None) -> "Span | None":
    """Return a started span at the beginning of an event's way: below `traceparent` where one is given, else by `share`.

    None where the event is not followed.
    """
    if _tracer is None:
        return None
    if traceparent is not None:
        return start(name, traceparent, kind="producer", attributes=attributes) if is_followed(traceparent) else None
    if random.random() >= _share:
        return None
    return _start(_tracer, name, None, "producer", None, (), attributes)


def start(
    name: str,
    parent: str | None,
    *,
    kind: Kind = "internal",
    start_ns: int | None = None,
    links: Iterable[str] = (),
    attributes: Attributes | None = None,
) -> "Span | None":
    """Return a started span below `parent`, to be ended by its `end`; None where `parent` is not followed.

    `start_ns` is when it began, in nanoseconds since 1970, if not now. `links` are the `traceparent`s of other events that it
    works on, of which the first 64 are noted.
    """
    if _tracer is None or not is_followed(parent):
        return None
    return _start(_tracer, name, parent, kind, start_ns, links, attributes)


@contextmanager
def span(
    name: str,
    parent: str | None,
    *,
    kind: Kind = "internal",
    start_ns: int | None = None,
    links: Iterable[str] = (),
    attributes: Attributes | None = None,
) -> Iterator["Span | None"]:
    """Run a block within a span below `parent`, which log lines then name; an error that leaves the block is noted in it.

    Gives None, and costs next to nothing, where `parent` is not followed.
    """
    started = start(name, parent, kind=kind, start_ns=start_ns, links=links, attributes=attributes)
    if started is None:
        yield None
        return
    from opentelemetry.trace import use_span

    with use_span(started, end_on_exit=True):
        yield started


def note(
    name: str,
    parent: str | None,
    start_ns: int,
    end_ns: int,
    *,
    kind: Kind = "internal",
    links: Iterable[str] = (),
    attributes: Attributes | None = None,
) -> str | None:
    """Note a span that is over already, and return its `traceparent` for what follows; None where `parent` is not followed."""
    done = start(name, parent, kind=kind, start_ns=start_ns, links=links, attributes=attributes)
    if done is None:
        return None
    done.end(end_ns)
    return traceparent_of(done)


def traceparent_of(span: "Span | None") -> str | None:
    """Return the `traceparent` that hands a span on, or None for no span."""
    if span is None:
        return None
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def end(span: "Span | None", error: str | None = None) -> None:
    """End a span, if there is one; an `error` tells why what it stands for has failed."""
    if span is None:
        return
    if error is not None:
        from opentelemetry.trace import StatusCode

        span.set_status(StatusCode.ERROR, error)
    span.end()


def current_ids() -> tuple[str, str] | None:
    """Return the trace id and span id, in hexadecimal digits, of the span that runs now in this thread; None where none does."""
    if _tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


def _processor(exporter: "SpanExporter | None", endpoint: str) -> "SpanProcessor":
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    if exporter is not None:
        return SimpleSpanProcessor(exporter)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter(endpoint))


def _start(
    tracer: "Tracer",
    name: str,
    parent: str | None,
    kind: Kind,
    start_ns: int | None,
    links: Iterable[str],
    attributes: Attributes | None,
) -> "Span":
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context

    # A context of its own: what happens to run in this thread is not this span's parent.
    context = Context()
    if parent is not None:
        context = set_span_in_context(NonRecordingSpan(_context(parent)), context)
    kinds = {"internal": SpanKind.INTERNAL, "producer": SpanKind.PRODUCER, "consumer": SpanKind.CONSUMER}
    return tracer.start_span(
        name,
        context=context,
        kind=kinds[kind],
        start_time=start_ns,
        links=_links(links),
        attributes=cast(dict[str, Any], dict(attributes or {})),
    )


def _links(traceparents: Iterable[str]) -> "list[Link]":
    from opentelemetry.trace import Link

    followed = [traceparent for traceparent in traceparents if is_followed(traceparent)]
    return [Link(_context(traceparent)) for traceparent in followed[:MOST_LINKS]]


def _context(traceparent: str) -> Any:
    """Return what OpenTelemetry makes of a `traceparent` that is known to be one."""
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
