"""Counts and times the requests of an ASGI application, by route and status."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from headrace.streams.metrics import LATENCY_BUCKETS

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUESTS = Counter("headrace_http_requests", "Requests answered", ["route", "status"])
REQUEST_TIME = Histogram("headrace_http_request_seconds", "Time from a request to its whole answer", ["route"], buckets=LATENCY_BUCKETS)
IN_PROGRESS = Gauge("headrace_http_requests_in_progress", "Requests that are not wholly answered yet")
UNMATCHED = "none"
ENDLESS = b"text/event-stream"


class HttpMetrics:
    """Wraps an application. Routes are named by their pattern, so that no shopper's id becomes a label."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, and note how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        IN_PROGRESS.inc()
        # What a client sees where the application fails before it answers.
        status = 500
        is_endless = False

        async def observed(message: Message) -> None:
            nonlocal status, is_endless
            if message["type"] == "http.response.start":
                status = message["status"]
                is_endless = any(name == b"content-type" and kind.startswith(ENDLESS) for name, kind in message["headers"])
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            IN_PROGRESS.dec()
            route = getattr(scope.get("route"), "path_format", UNMATCHED)
            REQUESTS.labels(route, str(status)).inc()
            # How long somebody watched says nothing of how fast answers are.
            if not is_endless:
                REQUEST_TIME.labels(route).observe(time.perf_counter() - started_s)
