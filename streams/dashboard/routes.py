"""The page at `/`, its files, the stream of what is new, and the curves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Annotated, cast

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from headrace.streams import gateway_docs as docs
from headrace.streams.dashboard.assets import PAGE, assets
from headrace.streams.dashboard.board import Board, TooManyClients
from headrace.streams.dashboard.dashboard import Dashboard
from headrace.streams.dashboard.messages import Frame, History, Resolution
from headrace.streams.gateway_messages import Problem
from headrace.streams.gateway_problems import RETRY_AFTER, reply

router = APIRouter()


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    return _file(request, PAGE)


@router.get("/dashboard/{name}", include_in_schema=False)
async def file(request: Request, name: str) -> Response:
    return _file(request, name)


@router.get(
    "/v1/dashboard/stream",
    summary="Watch how it goes",
    description="Server-sent events. Each message is a Frame as JSON with what has changed since the client's last one, about one a "
    "second; the first holds all. While there is no news an event `heartbeat` comes each three seconds. A client that reads slowly "
    "misses what is overtaken, and nothing else.",
    response_class=StreamingResponse,
    responses={
        200: {"description": "an endless stream of frames", "content": {"text/event-stream": {"schema": docs.schema(Frame)}}},
        **docs.replies({503: (Problem, "as many clients as are served watch already")}),
    },
)
async def stream(request: Request) -> Response:
    board = _dashboard(request).board
    try:
        place = board.reserve()
    except TooManyClients as error:
        return reply(Problem(message=str(error)), 503, RETRY_AFTER)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_frames(board, place), headers=headers, media_type="text/event-stream")


@router.get(
    "/v1/dashboard/history",
    summary="Read the curves since the gateway started",
    description="`fine`: the last half hour, a point each two seconds. `coarse`: the last day, a point each minute.",
    responses=docs.replies({200: (History, "the points, oldest first"), 422: (Problem, "a parameter is out of its limits")}),
)
async def history(request: Request, resolution: Annotated[Resolution, Query(description="how close the points lie")] = "fine") -> Response:
    return reply(_dashboard(request).curves.history(resolution), 200, {"Cache-Control": "no-store"})


async def _frames(board: Board, place: AbstractContextManager[asyncio.Event]) -> AsyncIterator[bytes]:
    with place as changed:
        if board.clients > board.most_clients:
            # They came at the same moment, before any of them was counted.
            return
        async for event in board.frames(changed):
            yield event


def _file(request: Request, name: str) -> Response:
    asset = assets().get(name)
    if asset is None:
        return reply(Problem(message=f"there is no file {name!r}; the routes are listed at /docs"), 404)
    packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = asset.headers(packed)
    if asset.is_known(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(asset.packed if packed else asset.body, headers=headers, media_type=asset.kind)


def _dashboard(request: Request) -> Dashboard:
    return cast(Dashboard, request.app.state.dashboard)
