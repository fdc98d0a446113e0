"""The gateway's routes."""

import asyncio
from collections.abc import Callable
from typing import Annotated, cast

from fastapi import APIRouter, Path, Query
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from headrace.schemas.events import GUEST_PREFIX, Event
from headrace.schemas.wire import now_ms
from headrace.streams import gateway_docs as docs
from headrace.streams.gateway_answers import features, prediction, recommendations
from headrace.streams.gateway_events import Refusal, answer, read_events
from headrace.streams.gateway_messages import (
    MOST_ITEMS,
    EventsAnswer,
    FeaturesAnswer,
    Health,
    Prediction,
    PredictRequest,
    Problem,
    Recommendations,
    RefusedEvents,
)
from headrace.streams.gateway_parts import GatewayParts
from headrace.streams.gateway_problems import RETRY_AFTER, read_body, reply
from headrace.streams.settlement import Outcome

PORTION = 50

router = APIRouter()


@router.post(
    "/v1/events",
    status_code=202,
    summary="Publish clicks and purchases",
    description="One event, or up to 1000 as {'events': [...]}; at most 2,000,000 bytes. A bad event spoils no other. "
    "A `traceparent` header is handed on to Kafka.",
    openapi_extra=docs.body(docs.EVENTS_SCHEMA, docs.EVENT_EXAMPLES),
    responses=docs.replies(
        {
            202: (EventsAnswer, "at least one event is acknowledged by all replicas; the outcomes tell of each"),
            400: (Problem, "the body is not JSON"),
            413: (Problem, "the body is too large"),
            422: (RefusedEvents, "no event is valid"),
            503: (EventsAnswer, "Kafka did not take or acknowledge any; send them again after the seconds that Retry-After names"),
        }
    ),
)
async def publish_events(request: Request) -> Response:
    body = await read_body(request)
    read = read_events(body, now_ms())
    events = [event for event in read if not isinstance(event, Refusal)]
    published = await _publish(_parts(request), events, request.headers.get("traceparent"))
    status, told = answer(read, published)
    return reply(told, status, RETRY_AFTER if status == 503 else None)


@router.get(
    "/v1/recommendations/{user_id:path}",
    summary="Recommend items to a shopper",
    description="By the shopper's history in the online store. A shopper without one gets what is popular, and `known` is false; "
    "so does everyone while the online store does not answer, and `degraded` says so.",
    responses=docs.replies(
        {
            200: (Recommendations, "the items, best first"),
            422: (Problem, "a parameter is out of its limits"),
        }
    ),
)
async def recommend(
    request: Request,
    user_id: Annotated[str, Path(min_length=1, max_length=136, description="a user id, or 'session:' and a guest's session id")],
    k: Annotated[int, Query(ge=1, le=MOST_ITEMS, description="how many items are wanted")] = 20,
    session: Annotated[bool, Query(description="whether the id in the path is a guest's session id")] = False,
) -> Response:
    parts = _parts(request)
    return await _in_pool(parts, lambda: recommendations(parts, f"{GUEST_PREFIX}{user_id}" if session else user_id, k))


@router.post(
    "/v1/predict",
    summary="Predict what follows a history",
    description="Nothing is stored. Items may be unknown, and the history may be empty.",
    openapi_extra=docs.body(docs.schema(PredictRequest), docs.PREDICT_EXAMPLES),
    responses=docs.replies(
        {
            200: (Prediction, "the items, best first, and the Transformer's own"),
            400: (Problem, "the body is not JSON"),
            413: (Problem, "the body is too large"),
            422: (Problem, "a field is wrong"),
        }
    ),
)
async def predict(request: Request) -> Response:
    body = await read_body(request)
    parts = _parts(request)
    return await _in_pool(parts, lambda: prediction(parts, body))


@router.get(
    "/v1/features",
    summary="Read the features of a shopper, a visit and an item",
    description="Of those that are named, with the age of each view, and what follows from them now. A session_id without a user_id "
    "names a guest too, as a shopper. What has no row is null with `known` false; what is past its time to live is null with `stale` true.",
    responses=docs.replies(
        {
            200: (FeaturesAnswer, "the features, view by view"),
            422: (Problem, "nothing is named, or a parameter is out of its limits"),
            503: (Problem, "Redis does not answer"),
        }
    ),
)
async def read_features(
    request: Request,
    user_id: Annotated[str | None, Query(min_length=1, max_length=136, description="a user id, or 'session:' and a guest's")] = None,
    session_id: Annotated[str | None, Query(min_length=1, max_length=128, description="the session id of a visit")] = None,
    item_id: Annotated[str | None, Query(min_length=1, max_length=128, description="an item id")] = None,
) -> Response:
    parts = _parts(request)
    return await _in_pool(parts, lambda: features(parts, user_id, session_id, item_id))


@router.get(
    "/healthz",
    summary="Whether the gateway works",
    responses=docs.replies({200: (Health, "it does"), 503: (Health, "it must be started anew")}),
)
async def health(request: Request) -> Response:
    return _health(_parts(request).failures())


@router.get(
    "/readyz",
    summary="Whether the gateway should get requests",
    responses=docs.replies({200: (Health, "it should"), 503: (Health, "not now")}),
)
async def ready(request: Request) -> Response:
    # Not in the pool of the answers: this is asked most when that one is busy.
    parts = _parts(request)
    return await asyncio.to_thread(lambda: _health(parts.missing(), parts.degraded()))


@router.get("/metrics", include_in_schema=False)
async def metrics() -> Response:
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
async def documentation(request: Request) -> Response:
    return HTMLResponse(docs.page(request.app.openapi()))


async def _publish(parts: GatewayParts, events: list[Event], traceparent: str | None) -> list[Outcome]:
    """Publish in portions, so that other requests get their turn between two of them."""
    waiting = []
    for start in range(0, len(events), PORTION):
        portion = events[start : start + PORTION]
        waiting.append(asyncio.create_task(parts.publisher.publish_and_wait(portion, traceparent=traceparent)))
        await asyncio.sleep(0)
    return [outcome for outcomes in await asyncio.gather(*waiting) for outcome in outcomes]


async def _in_pool(parts: GatewayParts, work: Callable[[], Struct]) -> Response:
    with parts.right_of_way:
        return await asyncio.get_running_loop().run_in_executor(parts.pool, lambda: reply(work(), 200))


def _parts(request: Request) -> GatewayParts:
    return cast(GatewayParts, request.app.state.parts)


def _health(reasons: list[str], degraded: list[str] | None = None) -> Response:
    if not reasons and degraded:
        return reply(Health(status="degraded", reasons=degraded), 200)
    return reply(Health(status="unwell" if reasons else "ok", reasons=reasons), 503 if reasons else 200)
