"""The gateway's routes about the model's versions: which there are, and going back to the stable one."""

import logging
from typing import cast

from confluent_kafka import KafkaException
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from headrace.schemas import ModelRelease, decode
from headrace.streams import gateway_docs as docs
from headrace.streams.gateway_events import read_object
from headrace.streams.gateway_messages import Problem, RollbackRequest
from headrace.streams.gateway_parts import COMPONENT, GatewayParts
from headrace.streams.gateway_problems import read_body, reply
from headrace.streams.model_list import ModelList, read_models
from headrace.streams.release_log import ReleaseVoid
from headrace.streams.release_requests import NotDecidable, ReleaseRequests
from headrace.streams.signing import KeyProblem

log = logging.getLogger(__name__)

router = APIRouter()


@router.get(
    "/v1/models",
    summary="List the model's versions",
    description="The newest versions with what they learned and how their lists did, who is answered by which, and the newest decisions.",
    responses=docs.replies({200: (ModelList, "the newest first"), 503: (Problem, "Kafka does not answer")}),
)
async def list_models(request: Request) -> Response:
    parts = _parts(request)
    try:
        found = await run_in_threadpool(read_models, parts.bootstrap, parts.access.trusted)
    except KafkaException as error:
        return reply(Problem(message=f"Kafka does not answer: {error}"), 503)
    return reply(found, 200)


@router.post(
    "/v1/models/rollback",
    summary="Go back to the stable version",
    description="All shoppers are answered by it at once, later versions are withdrawn, and learning goes on from there. For whoever bears "
    "the token in the file that HEADRACE_ADMIN_TOKEN_FILE names, as `Authorization: Bearer TOKEN`; where it names none, for nobody.",
    openapi_extra=docs.body(docs.schema(RollbackRequest), {"reason": {"summary": "with a reason", "value": {"reason": "hits fell"}}}),
    responses=docs.replies(
        {
            200: (ModelRelease, "the decision, which counts"),
            400: (Problem, "the body is not JSON"),
            403: (Problem, "the token is not the right one, or rollbacks are switched off here"),
            409: (Problem, "there is nothing to go back from, or another decision was made at the same moment"),
            422: (Problem, "a field is wrong"),
            503: (Problem, "Kafka does not answer, or the gateway has no key to sign decisions"),
        }
    ),
)
async def roll_back(request: Request) -> Response:
    parts = _parts(request)
    if parts.access.admin_token_file is None:
        return reply(Problem(message="rollbacks are switched off here: HEADRACE_ADMIN_TOKEN_FILE names no file"), 403)
    try:
        admitted = await run_in_threadpool(parts.access.admits, request.headers.get("authorization", ""))
    except OSError as error:
        log.exception("the admin token cannot be read")
        return reply(Problem(message=f"the file of HEADRACE_ADMIN_TOKEN_FILE cannot be read: {error.strerror}"), 503)
    if not admitted:
        return reply(Problem(message="the header Authorization must be `Bearer` and the token of this gateway's administrators"), 403)
    body = await read_body(request)
    read_object(body)
    asked = decode(RollbackRequest, body)
    return await run_in_threadpool(_roll_back, parts, asked)


def _roll_back(parts: GatewayParts, asked: RollbackRequest) -> Response:
    try:
        requests = ReleaseRequests(parts.bootstrap, COMPONENT, parts.access.key(), parts.access.trusted)
        release = requests.rollback(asked.reason or "asked for over HTTP", asked.to)
    except (NotDecidable, ReleaseVoid) as error:
        return reply(Problem(message=str(error)), 409)
    except (KeyProblem, KafkaException) as error:
        return reply(Problem(message=str(error)), 503)
    log.warning("rolled back as asked over HTTP", extra={"version": release.stable_version, "withdrawn_to": release.withdrawn_to})
    return reply(release, 200)


def _parts(request: Request) -> GatewayParts:
    return cast(GatewayParts, request.app.state.parts)
