"""Traces: who is followed, what is handed on, and that nothing is made where nobody asked for it."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.schemas.wire import new_traceparent
from headrace.streams import tracing

FOLLOWED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
NOT_FOLLOWED = FOLLOWED[:-2] + "00"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.set_up("test", "test-0", share=0.0, exporter=exporter)
    yield exporter
    tracing.shut_down()


def test_without_an_endpoint_nothing_is_made() -> None:
    assert not tracing.set_up("test", share=1.0, variables={})
    assert not tracing.is_on()
    assert tracing.begin("publish", None) is None
    assert tracing.start("fold", FOLLOWED) is None
    assert tracing.note("fold", FOLLOWED, 1, 2) is None
    assert tracing.current_ids() is None
    with tracing.span("learn", FOLLOWED) as span:
        assert span is None


def test_without_an_endpoint_what_makes_spans_is_not_loaded() -> None:
    program = (
        "import sys; from headrace.streams import tracing, publisher, feature_worker; tracing.set_up('x', share=1.0, variables={}); "
        "tracing.begin('publish', None); print('opentelemetry.sdk.trace' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "traceparent", [None, "", "nonsense", NOT_FOLLOWED, f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01"]
)
def test_what_is_not_sampled_or_no_trace_at_all_is_not_followed(spans: InMemorySpanExporter, traceparent: str | None) -> None:
    assert not tracing.is_followed(traceparent)
    assert tracing.start("fold", traceparent) is None
    assert spans.get_finished_spans() == ()


def test_a_new_trace_of_ours_is_not_sampled_unless_it_is_drawn(spans: InMemorySpanExporter) -> None:
    assert not tracing.is_followed(new_traceparent())
    assert tracing.begin("publish", None) is None
    tracing.set_up("test", share=1.0, exporter=spans)
    begun = tracing.begin("publish", None)
    assert begun is not None
    assert tracing.is_followed(tracing.traceparent_of(begun))


def test_the_flag_of_who_came_before_decides_whatever_our_own_share_is(spans: InMemorySpanExporter) -> None:
    assert tracing.begin("publish", FOLLOWED) is not None
    tracing.set_up("test", share=1.0, exporter=spans)
    assert tracing.begin("publish", NOT_FOLLOWED) is None


def test_a_span_lies_below_what_is_handed_on_with_links_and_times(spans: InMemorySpanExporter) -> None:
    handed_on = tracing.note("fold", FOLLOWED, 1000, 3000, kind="consumer", links=[OTHER, NOT_FOLLOWED], attributes={"records": 2})
    [span] = spans.get_finished_spans()
    assert span.name == "fold"
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == tuple(FOLLOWED.split("-")[1:3])
    assert (span.start_time, span.end_time) == (1000, 3000)
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [OTHER.split("-")[1]]
    assert dict(span.attributes or {}) == {"records": 2}
    assert handed_on == f"00-{FOLLOWED.split('-')[1]}-{own_id(span)}-01"
    assert span.resource.attributes["service.name"] == "headrace-test"
    assert span.resource.attributes["service.instance.id"] == "test-0"


def test_an_error_within_a_span_is_noted_and_goes_on(spans: InMemorySpanExporter) -> None:
    def fail_within_a_span() -> None:
        with tracing.span("gate", FOLLOWED) as span:
            assert tracing.current_ids() == (FOLLOWED.split("-")[1], str(tracing.traceparent_of(span)).split("-")[2])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within_a_span()
    [done] = spans.get_finished_spans()
    assert not done.status.is_ok
    assert tracing.current_ids() is None


def own_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def test_spans_arrive_at_the_collector_that_is_named() -> None:
    arrived: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert tracing.set_up("gateway", share=1.0, variables={tracing.ENDPOINT: f"http://127.0.0.1:{server.server_address[1]}/"})
    tracing.end(tracing.begin("publish", None))
    tracing.shut_down()
    server.shutdown()
    server.server_close()
    [(path, body)] = arrived
    assert path == "/v1/traces"
    told = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
    assert [span.name for span in told.resource_spans[0].scope_spans[0].spans] == ["publish"]
    assert ("service.name", "headrace-gateway") in [(one.key, one.value.string_value) for one in told.resource_spans[0].resource.attributes]
