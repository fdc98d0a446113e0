"""What a request that cannot be answered is told: always a Problem, with the right status."""

import logging
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
import redis
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from headrace.schemas import InvalidMessage
from headrace.streams.gateway_docs import JSON
from headrace.streams.gateway_events import NotJson, shown
from headrace.streams.gateway_messages import Problem
from headrace.streams.publisher import PublishError

log = logging.getLogger(__name__)

LARGEST_BODY = 2_000_000
RETRY_AFTER = {"Retry-After": "1"}


class BodyTooLarge(ValueError):
    """A body of more bytes than are read."""


def reply(message: Struct, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return a message as JSON."""
    return Response(msgspec.json.encode(message), status, headers, JSON)


def add_problems(app: FastAPI) -> None:
    """Give every error the same form, a Problem that names field, value and what was expected."""
    told: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        InvalidMessage: _invalid,
        NotJson: _not_json,
        BodyTooLarge: _too_large,
        RequestValidationError: _wrong_parameter,
        HTTPException: _not_found,
        redis.RedisError: _redis_is_away,
        PublishError: _closing,
        ClientDisconnect: _gone,
    }
    for kind, handler in told.items():
        app.add_exception_handler(kind, handler)


async def _invalid(_: Request, error: Exception) -> Response:
    wrong = cast(InvalidMessage, error)
    return reply(Problem(message=str(wrong), field=wrong.field, value=shown(wrong), expected=wrong.expected), 422)


async def _not_json(_: Request, error: Exception) -> Response:
    return reply(Problem(message=str(error), field="$", expected="JSON in UTF-8"), 400)


async def _too_large(_: Request, error: Exception) -> Response:
    return reply(Problem(message=str(error), field="$", expected=f"at most {LARGEST_BODY} bytes"), 413)


async def _wrong_parameter(_: Request, error: Exception) -> Response:
    first = cast(RequestValidationError, error).errors()[0]
    wrong = InvalidMessage(str(first["loc"][-1]), first["input"], first["msg"])
    return await _invalid(_, wrong)


async def _not_found(_: Request, error: Exception) -> Response:
    wrong = cast(HTTPException, error)
    return reply(Problem(message=f"{wrong.detail}; the routes are listed at /docs"), wrong.status_code, dict(wrong.headers or {}))


async def _redis_is_away(_: Request, error: Exception) -> Response:
    log.warning("Redis does not answer", extra={"reason": str(error)})
    return reply(Problem(message="the online store (Redis) does not answer; try again"), 503, RETRY_AFTER)


async def _closing(_: Request, error: Exception) -> Response:
    return reply(Problem(message=str(error)), 503, RETRY_AFTER)


async def _gone(_: Request, error: Exception) -> Response:
    # Nobody is there to read it; the status is for the metrics (nginx's number for a client that went away).
    return Response(status_code=499)


async def read_body(request: Request) -> bytes:
    """Return the body. Raises BodyTooLarge without reading on."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > LARGEST_BODY:
        raise BodyTooLarge(f"the body has {announced} bytes, at most {LARGEST_BODY} are taken; send the events in several requests")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise BodyTooLarge(f"the body has more than {LARGEST_BODY} bytes; send the events in several requests")
    return bytes(body)
