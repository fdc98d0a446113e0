"""The HTTP gateway: events in, recommendations and predictions out, health and metrics.

It answers with a ranker of its own, which follows the weights and the user rows like the recommender's, so that an answer is one read of
Redis and one scoring, for all who ask at the same time together. Both happen in a small pool of threads: the event loop only takes requests
and waits.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from headrace.schemas.topics import (
    CLICKS,
    MEMORY_REACTIONS,
    MODEL_RELEASES,
    MODEL_UPDATES,
    MODEL_WEIGHTS,
    PURCHASES,
    RELEASE_OUTCOMES,
    USER_FEATURES,
)
from headrace.streams import metrics
from headrace.streams.broker import TopicMissing, require_broker
from headrace.streams.dashboard.dashboard import Dashboard
from headrace.streams.dashboard.routes import router as dashboard_router
from headrace.streams.gateway_docs import with_components
from headrace.streams.gateway_models import router as models_router
from headrace.streams.gateway_parts import COMPONENT, GatewayParts
from headrace.streams.gateway_problems import add_problems
from headrace.streams.gateway_routes import router
from headrace.streams.http_metrics import HttpMetrics
from headrace.streams.lifetime import stop_on_signals
from headrace.streams.model_access import ModelAccess

DRAIN_S = 10
BACKLOG = 2048
# Scoring holds the interpreter for milliseconds; at the usual 5 ms a request would wait for several of such turns.
SWITCH_INTERVAL_S = 0.001


class GatewayFailed(RuntimeError):
    """The gateway ended without being asked to."""


def create_app(bootstrap: str, redis_url: str, device: str, access: ModelAccess | None = None) -> FastAPI:
    """Return the application. Its parts are built when it starts, and it does not start without the broker and its topics."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts = app.state.parts = GatewayParts(bootstrap, redis_url, device, access)
        metrics.tell_build(COMPONENT, lambda: _is_ready(parts))
        metrics.PUBLISHER_WAITING.set_function(lambda: parts.publisher.waiting)
        dashboard = app.state.dashboard = Dashboard(bootstrap, parts)
        parts.start()
        dashboard.start()
        try:
            yield
        finally:
            await asyncio.to_thread(dashboard.stop)
            await asyncio.to_thread(parts.stop)

    app = _Application(
        title="Headrace",
        description="Publish clicks and purchases; ask for recommendations.",
        version=version("headrace"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(router)
    app.include_router(models_router)
    app.include_router(dashboard_router)
    app.add_middleware(HttpMetrics)
    add_problems(app)
    return app


def run_gateway(
    bootstrap: str,
    redis_url: str,
    device: str,
    host: str,
    port: int,
    on_listening: Callable[[int], None] | None = None,
    *,
    access: ModelAccess | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is open and return. `on_listening` is told the port; 0 takes any free one.

    Raises BrokerUnreachable or TopicMissing where there is nothing to serve from, OSError where the address cannot be taken.
    """
    topics = require_broker(bootstrap).topics
    for topic in (CLICKS, PURCHASES, USER_FEATURES, MODEL_UPDATES, MODEL_WEIGHTS, MODEL_RELEASES, MEMORY_REACTIONS, RELEASE_OUTCOMES):
        if topic.name not in topics:
            raise TopicMissing(bootstrap, topic.name)
    # uvicorn hands a signal on once it has ended; without a handler of ours it would end the process as if it was killed.
    stop = stop_on_signals()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with _listen(host, port) as listening:
        if on_listening is not None:
            on_listening(listening.getsockname()[1])
        app = create_app(bootstrap, redis_url, device, access=access)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, http="httptools", timeout_graceful_shutdown=DRAIN_S
        )
        server = _Server(config)
        server.run(sockets=[listening])
    if not server.started or not stop.is_set():
        raise GatewayFailed("the gateway did not start, or ended by itself; the log tells why")


def _is_ready(parts: GatewayParts) -> bool:
    """Whether memories and weights are loaded and followed; unlike /readyz it asks no broker."""
    return parts.live.follower.caught_up.is_set() and parts.memories.caught_up.is_set() and not parts.failures()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); set HEADRACE_GATEWAY_HOST and HEADRACE_GATEWAY_PORT"
        ) from error


class _Server(uvicorn.Server):
    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """End the streams of the dashboard, which would never end by themselves, and then as uvicorn does."""
        state = cast(FastAPI, self.config.app).state
        if (dashboard := getattr(state, "dashboard", None)) is not None:
            dashboard.board.close()
        super().handle_exit(number, frame)


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with the schemas of the messages."""
        if self.openapi_schema is None:
            self.openapi_schema = with_components(super().openapi())
        return self.openapi_schema
