"""The gateway as its clients see it: a real server before real Kafka and Redis."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import jsonschema
import pytest
import torch
import uvicorn
from confluent_kafka import Message
from fastapi import FastAPI
from prometheus_client import REGISTRY
from weights_chain import Chain

from headrace.features.online_store import OnlineStore, connect
from headrace.online_model import transformer
from headrace.online_model.lanes import Ranked
from headrace.online_model.weights import ModelCopy
from headrace.schemas import Click, HistoryEntry, Purchase, UserRow, encode, wire
from headrace.schemas.topics import CLICKS, PURCHASES, USER_FEATURES, Topic
from headrace.streams import kafka as kafka_client
from headrace.streams.gateway import create_app, run_gateway
from headrace.streams.gateway_parts import PATIENCE_S, GatewayParts
from headrace.streams.live_scorer import Asked
from headrace.streams.publisher import EventPublisher, UndeliveredEvents

NOW_MS = wire.now_ms()
CLICK = {"type": "click", "event_id": "c-1", "event_time_ms": NOW_MS, "item_id": "lamp", "user_id": "ada"}
PURCHASE = {
    "type": "purchase",
    "event_id": "p-1",
    "event_time_ms": NOW_MS,
    "order_id": "o-1",
    "lines": [{"item_id": "tent"}],
    "currency": "EUR",
    "session_id": "s-1",
}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """Serve the application by uvicorn on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30.0) as client:
                until(lambda: server.started or not thread.is_alive())
                assert server.started
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def app(kafka: str, clean_redis: str, fresh_topics: object) -> FastAPI:
    return create_app(kafka, clean_redis, "cpu")


@pytest.fixture
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serving(app) as client:
        yield client


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def is_ready(client: httpx.Client) -> bool:
    return client.get("/readyz").status_code == 200


def records(bootstrap: str, topic: Topic, count: int) -> list[Message]:
    reader = kafka_client.consumer(bootstrap, "test-reader")
    kafka_client.assign_all(reader, [topic])
    found: list[Message] = []
    while len(found) < count:
        record = reader.poll(10.0)
        assert record is not None, f"only {len(found)} of {count} records came"
        found.append(record)
    assert reader.poll(0.3) is None
    reader.close()
    return found


def row(shopper_id: str, *items: str) -> UserRow:
    history = [HistoryEntry(item, "view", NOW_MS - 1000 * (len(items) - place)) for place, item in enumerate(items)]
    return UserRow(shopper_id=shopper_id, history=history, steps=len(items), views=len(items), updated_ms=NOW_MS)


def probabilities(copy: ModelCopy, history: list[tuple[str, str]]) -> dict[str, float]:
    """Every item's probability by the model alone, computed without the scorer."""
    steps = transformer.encode([[HistoryEntry(item, kind, 0) for item, kind in history]], copy.rows, copy.model.shape.length)
    with torch.no_grad():
        vectors = transformer.last_vectors(copy.model, steps)
        shares = (vectors @ copy.model.unit_items(torch.arange(1, len(copy.items))).T).softmax(dim=1)[0]
    return dict(zip(copy.items[1:], shares.tolist(), strict=True))


def assert_made_by(copy: ModelCopy, answer: dict[str, Any], history: list[tuple[str, str]], k: int) -> None:
    assert answer["weights_sha256"] == copy.sha256
    expected = probabilities(copy, history)
    told = {entry["item_id"]: entry["probability"] for entry in answer["transformer"]}
    if not history:
        # The Transformer has nothing to go by, and says nothing.
        assert told == {}
        return
    assert len(told) == min(k, len(expected))
    assert list(told.values()) == sorted(told.values(), reverse=True)
    assert told == {item: pytest.approx(expected[item], rel=1e-4) for item in told}
    assert min(told.values()) >= sorted(expected.values(), reverse=True)[len(told) - 1] * 0.999


def test_a_click_and_a_purchase_are_acknowledged_and_lie_on_their_topics_with_their_headers(client: httpx.Client, kafka: str) -> None:
    answer = client.post("/v1/events", json=CLICK, headers={"traceparent": TRACE})
    assert answer.status_code == 202
    told = answer.json()
    assert told["outcomes"] == [{"event_id": "c-1", "status": "acknowledged"}]
    assert (told["accepted"], told["refused"], told["undelivered"]) == (1, 0, 0)
    assert client.post("/v1/events", json=PURCHASE).status_code == 202
    [click] = records(kafka, CLICKS, 1)
    assert click.key() == b"ada"
    assert wire.decode(Click, click.value(), click.headers()).item_id == "lamp"
    assert wire.header(click.headers(), "traceparent") == TRACE
    assert wire.header(click.headers(), "ce_type") == "headrace.click.v1"
    assert wire.header(click.headers(), "ce_source") == "gateway"
    [bought] = records(kafka, PURCHASES, 1)
    assert bought.key() == b"session:s-1"
    assert wire.decode(Purchase, bought.value()).order_id == "o-1"


def test_of_a_mixed_batch_the_good_events_arrive_in_order_and_the_bad_are_named(client: httpx.Client, kafka: str) -> None:
    clicks = [CLICK | {"event_id": f"c-{number}"} for number in range(300)]
    batch = [*clicks[:150], CLICK | {"event_id": "bad", "item_id": ""}, "rubbish", *clicks[150:], PURCHASE]
    answer = client.post("/v1/events", json={"events": batch})
    assert answer.status_code == 202
    told = answer.json()
    assert (told["accepted"], told["refused"]) == (301, 2)
    assert told["outcomes"][150] == {
        "event_id": "bad",
        "status": "refused",
        "reason": "$.item_id: Expected `str` of length >= 1; the value is ''",
        "field": "$.item_id",
        "value": "''",
        "expected": "Expected `str` of length >= 1",
    }
    assert told["outcomes"][151]["event_id"] is None
    arrived = [wire.decode(Click, record.value()).event_id for record in records(kafka, CLICKS, 300)]
    assert arrived == [f"c-{number}" for number in range(300)]
    records(kafka, PURCHASES, 1)


def test_garbage_of_each_kind_is_answered_with_what_is_wrong_and_never_by_a_server_error(client: httpx.Client, kafka: str) -> None:
    refused = client.post("/v1/events", json=CLICK | {"item_id": 7})
    assert refused.status_code == 422
    assert (refused.json()["field"], refused.json()["value"]) == ("$.item_id", "7")
    assert refused.json()["outcomes"][0]["status"] == "refused"
    late = client.post("/v1/events", json=CLICK | {"event_time_ms": NOW_MS + 10**9})
    assert (late.status_code, late.json()["field"]) == (422, "$.event_time_ms")
    assert client.post("/v1/events", json={"events": [{"type": "x"}, 3]}).status_code == 422
    for route in ("/v1/events", "/v1/predict"):
        for body in (b"", b"not json", b"\xff\x00", b'{"a":', b'{"a":' + b"[" * 200_000):
            answer = client.post(route, content=body)
            assert answer.status_code == 400, (route, body[:20], answer.text)
            assert "the body is not JSON" in answer.json()["message"]
        for value in ([], 3, None, "x", {"mood": 1}):
            answer = client.post(route, content=json.dumps(value))
            assert answer.status_code == 422, (route, value, answer.text)
            assert answer.json()["field"].startswith("$")
    assert client.get("/v1/events").status_code == 405
    assert client.get("/nowhere").status_code == 404
    assert "/docs" in client.get("/nowhere").json()["message"]
    assert "headrace_http_requests_total" in client.get("/metrics").text
    assert 'status="500"' not in client.get("/metrics").text
    assert records(kafka, CLICKS, 0) == []


def test_a_body_of_more_than_two_megabytes_is_not_read(client: httpx.Client, kafka: str) -> None:
    announced = client.post("/v1/events", content=b" " * 2_000_001)
    assert announced.status_code == 413
    assert "2000001 bytes" in announced.json()["message"]
    streamed = client.post("/v1/predict", content=(b" " * 100_000 for _ in range(25)))
    assert streamed.status_code == 413
    padded = json.dumps(CLICK).encode()
    assert client.post("/v1/events", content=padded + b" " * (2_000_000 - len(padded))).status_code == 202
    records(kafka, CLICKS, 1)


def test_recommendations_come_from_the_history_in_the_online_store(client: httpx.Client, kafka: str, clean_redis: str) -> None:
    producer = kafka_client.producer(kafka, "test")
    rows = [row(f"user-{number}", "tent", "stove", "lamp") for number in range(20)]
    rows += [row(f"other-{number}", "book", "pen") for number in range(30)]
    for one in rows:
        producer.produce(USER_FEATURES.name, encode(one), one.shopper_id)
    producer.produce(USER_FEATURES.name, b"no row", "x")
    producer.produce(USER_FEATURES.name, None, "gone")
    producer.flush(10.0)
    store = OnlineStore(connect(clean_redis))
    store.write([row("ada", "tent"), row("session:guest", "book"), row("a/b c", "tent", "stove")], [])

    def best(path: str) -> list[str]:
        return [entry["item_id"] for entry in client.get(path).json()["items"]]

    until(lambda: bool(best("/v1/recommendations/ada")) and best("/v1/recommendations/ada")[0] == "stove")
    told = client.get("/v1/recommendations/ada?k=2").json()
    assert (told["shopper_id"], told["history_length"], told["known"], told["model_version"]) == ("ada", 1, True, 0)
    assert len(told["items"]) == 2
    assert told["items"][0]["part"] in ("covisitation", "neighbours")
    assert told["latency_ms"] > 0
    assert "tent" not in best("/v1/recommendations/ada"), "the last item is not recommended again"
    assert best("/v1/recommendations/session:guest") == best("/v1/recommendations/guest?session=true")
    assert best("/v1/recommendations/session:guest")[0] == "pen"
    assert client.get("/v1/recommendations/a%2Fb%20c").json()["shopper_id"] == "a/b c"
    stranger = client.get("/v1/recommendations/stranger").json()
    assert (stranger["known"], stranger["history_length"]) == (False, 0)
    assert stranger["items"]
    assert {entry["part"] for entry in stranger["items"]} == {"popularity"}


def test_limits_are_told_by_name_and_value(client: httpx.Client) -> None:
    for k in ("0", "101", "-1", "x", "1.5", ""):
        answer = client.get(f"/v1/recommendations/ada?k={k}")
        assert (answer.status_code, answer.json()["field"], answer.json()["value"]) == (422, "k", repr(k))
    assert client.get(f"/v1/recommendations/{'x' * 137}").json()["field"] == "user_id"
    assert client.get("/v1/recommendations/").status_code == 422
    assert client.get("/v1/recommendations/ada?session=perhaps").json()["field"] == "session"
    for body, field in (
        ({"history": [], "k": 0}, "$.k"),
        ({"history": [], "k": 101}, "$.k"),
        ({"history": "lamp"}, "$.history"),
        ({"history": [{"item_id": "a", "kind": "look"}]}, "$.history[0].kind"),
        ({"history": [{"item_id": "a"}, {"item_id": ""}]}, "$.history[...].item_id"),
        ({"history": [], "explain": 1}, "$.explain"),
        ({"history": [{"item_id": "a", "time_ms": -1}]}, "$.history[0].time_ms"),
        ({}, "$"),
    ):
        answer = client.post("/v1/predict", json=body)
        assert answer.status_code == 422
        assert answer.json()["field"].split("[")[0] == field.split("[")[0]
        assert answer.json()["expected"]


def test_predictions_are_made_by_the_weights_that_they_name(client: httpx.Client, kafka: str) -> None:
    empty = client.post("/v1/predict", json={"history": [{"item_id": "item-3"}]}).json()
    assert (empty["model_version"], empty["transformer"]) == (0, [])
    chain = Chain(kafka, items=80)
    chain.snapshot()
    chain.delta("brand-new")
    until(lambda: client.post("/v1/predict", json={"history": []}).json()["model_version"] == 2)
    histories: list[list[tuple[str, str]]] = [
        [("item-3", "view"), ("item-4", "cart"), ("brand-new", "purchase")],
        [("never-seen", "view")],
        [],
        [(f"item-{number % 80}", "view") for number in range(10_000)],
    ]
    for history in histories:
        for k in (1, 20, 100):
            body = {"history": [{"item_id": item, "kind": kind} for item, kind in history], "k": k}
            answer = client.post("/v1/predict", json=body)
            assert answer.status_code == 200
            assert answer.json()["model_version"] == 2
            assert answer.json()["history_length"] == min(50, len(history))
            assert_made_by(chain.copy, answer.json(), history[-50:], k)
            assert len(answer.json()["items"]) <= k
    plain = client.post("/v1/predict", json={"history": [{"item_id": "item-3"}]}).json()
    assert "shares" not in plain["items"][0]
    told = client.post("/v1/predict", json={"history": [{"item_id": "item-3"}], "explain": True}).json()["items"][0]
    assert told["score"] == pytest.approx(sum(told["shares"].values()))
    assert max(told["shares"], key=told["shares"].get) == told["part"]
    assert told["because"] == [{"item_id": "item-3", "kind": "view", "weight": 1.0}]
    assert told["why"] == "because you viewed item-3"
    history = [{"item_id": "nobody knows it"}, {"item_id": "item-3", "price": 9.5, "category": "a category never seen"}]
    assert client.post("/v1/predict", json={"history": history}).json()["unknown_items"] == 1


def test_no_answer_mixes_two_versions_while_weights_are_swapped_under_it(client: httpx.Client, kafka: str) -> None:
    chain = Chain(kafka, items=200)
    chain.snapshot()
    until(lambda: is_ready(client) and client.post("/v1/predict", json={"history": []}).json()["model_version"] == 1)
    stop = threading.Event()
    answers: list[tuple[list[tuple[str, str]], dict[str, Any]]] = []

    def ask(worker: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=30.0) as mine:
            number = worker
            while not stop.is_set():
                number += 4
                history = [(f"item-{(number + step) % 200}", "view") for step in range(1 + number % 7)]
                reply = mine.post("/v1/predict", json={"history": [{"item_id": item} for item, _ in history]})
                assert reply.status_code == 200
                answers.append((history, reply.json()))

    askers = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
    for asker in askers:
        asker.start()
    for number in range(20):
        chain.delta(f"new-{number}")
        if number % 10 == 9:
            chain.snapshot()
        time.sleep(0.03)
    until(lambda: answers[-1][1]["model_version"] == 21)
    stop.set()
    for asker in askers:
        asker.join()
    versions = {answer["model_version"] for _, answer in answers}
    assert len(versions) > 5, f"only versions {versions} answered"
    for version in versions:
        copy = chain.at(version)
        for history, answer in answers:
            if answer["model_version"] == version:
                assert_made_by(copy, answer, history, 20)


def test_who_asks_together_is_answered_as_who_asks_alone(client: httpx.Client, kafka: str) -> None:
    chain = Chain(kafka, items=200)
    chain.snapshot()
    until(lambda: is_ready(client) and client.post("/v1/predict", json={"history": []}).json()["model_version"] == 1)
    draw = random.Random(3)
    histories = [[{"item_id": f"item-{draw.randrange(220)}"} for _ in range(draw.randrange(9))] for _ in range(120)]
    bodies = [{"history": history, "k": draw.choice((1, 20, 100)), "explain": draw.random() < 0.5} for history in histories]
    alone = [client.post("/v1/predict", json=body).json() for body in bodies]
    batches = _batches()
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: client.post("/v1/predict", json=body).json(), bodies))
    assert _batches() - batches < len(bodies), "nobody was answered together"
    for one, other in zip(alone, together, strict=True):
        assert [item["item_id"] for item in other["transformer"]] == [item["item_id"] for item in one["transformer"]]
        assert [item.keys() for item in other["items"]] == [item.keys() for item in one["items"]]
        assert [item["score"] for item in other["items"]] == pytest.approx([item["score"] for item in one["items"]], rel=1e-3)


def test_a_swap_waits_for_who_is_being_answered_but_not_for_ever(client: httpx.Client, app: FastAPI, kafka: str) -> None:
    chain = Chain(kafka, items=20)
    chain.snapshot()
    until(lambda: is_ready(client) and client.post("/v1/predict", json={"history": []}).json()["model_version"] == 1)
    parts = app.state.parts
    asked, may_answer, rank = threading.Event(), threading.Event(), parts.live.rank_one

    def rank_one(wanted: Asked) -> Ranked:
        asked.set()
        assert may_answer.wait(20.0)
        return rank(wanted)

    parts.live.rank_one = rank_one
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: client.post("/v1/predict", json={"history": [{"item_id": "item-1"}]}).json())
        assert asked.wait(20.0)
        began_s = time.monotonic()
        parts.right_of_way.give()
        assert time.monotonic() - began_s >= PATIENCE_S
        chain.delta()
        until(lambda: parts.live.scorer.version == 2)
        may_answer.set()
        assert answer.result(20.0)["model_version"] == 2
    assert parts.right_of_way._is_free.is_set()


def _batches() -> float:
    """How many batches the gateway, which runs in this process, has answered."""
    return REGISTRY.get_sample_value("headrace_asked_together_count") or 0.0


def test_health_readiness_and_metrics_tell_how_it_stands(client: httpx.Client, app: FastAPI) -> None:
    until(lambda: is_ready(client))
    assert client.get("/healthz").json() == {"status": "ok", "reasons": []}
    client.get("/v1/recommendations/some-shopper")
    text = client.get("/metrics").text
    assert 'headrace_http_requests_total{route="/v1/recommendations/{user_id}",status="200"}' in text
    assert 'headrace_http_request_seconds_bucket{le="' in text
    assert "some-shopper" not in text
    parts: GatewayParts = app.state.parts
    parts.memories.failure = RuntimeError("torn cable")
    for route in ("/healthz", "/readyz"):
        answer = client.get(route)
        assert answer.status_code == 503
        assert "torn cable" in answer.json()["reasons"][0]


def test_before_all_is_read_the_gateway_is_not_ready_and_says_what_is_missing(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.streams.memory_follower.MemoryFollower.step", lambda follower, timeout_s: time.sleep(timeout_s))
    with serving(app) as client:
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert any(reason.startswith("memories:") for reason in answer.json()["reasons"])
        assert client.get("/healthz").status_code == 200


@pytest.mark.usefixtures("fresh_topics")
def test_without_redis_shoppers_are_answered_soon_with_a_word_of_what_is_missing(kafka: str) -> None:
    with serving(create_app(kafka, "redis://127.0.0.1:1/0", "cpu")) as client:
        for _ in range(3):
            started_s = time.monotonic()
            answer = client.get("/v1/recommendations/ada")
            assert time.monotonic() - started_s < 3.0
            assert answer.status_code == 200
            assert "Redis" in answer.json()["degraded"]
            assert answer.json()["known"] is False
        readiness = client.get("/readyz")
        assert (readiness.status_code, readiness.json()["status"]) == (200, "degraded")
        assert "Redis" in readiness.json()["reasons"][0]
        assert client.post("/v1/predict", json={"history": []}).status_code == 200


def test_events_that_find_no_room_or_no_answer_are_a_503_that_names_them(client: httpx.Client, app: FastAPI) -> None:
    parts: GatewayParts = app.state.parts
    parts.publisher.close()
    # Nobody listens at port 1: what goes into the buffer of two stays there.
    parts.publisher = EventPublisher("127.0.0.1:1", max_buffered=2, **{"delivery.timeout.ms": 300})
    refused = CLICK | {"event_id": "bad", "item_id": ""}
    answer = client.post("/v1/events", json={"events": [*[CLICK | {"event_id": f"c-{number}"} for number in range(3)], refused]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert [outcome["status"] for outcome in answer.json()["outcomes"]] == ["failed", "failed", "buffer_full", "refused"]
    assert (answer.json()["accepted"], answer.json()["refused"], answer.json()["undelivered"]) == (0, 1, 3)
    with pytest.raises(UndeliveredEvents):
        parts.publisher.close(0.0)
    assert client.post("/v1/events", json=CLICK).status_code == 503, "a gateway that is closing takes no more"


def test_the_openapi_document_describes_the_answers_that_are_given(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        *("/v1/events", "/v1/recommendations/{user_id}", "/v1/predict", "/v1/features"),
        *("/v1/models", "/v1/models/rollback", "/v1/dashboard/stream", "/v1/dashboard/history"),
        *("/healthz", "/readyz"),
    }
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert named <= set(schemas)
    assert "HTTPValidationError" not in schemas
    for route, method, status, answer in (
        ("/v1/events", "post", "202", client.post("/v1/events", json=CLICK)),
        ("/v1/events", "post", "422", client.post("/v1/events", json={})),
        ("/v1/recommendations/{user_id}", "get", "200", client.get("/v1/recommendations/ada")),
        ("/v1/recommendations/{user_id}", "get", "422", client.get("/v1/recommendations/ada?k=0")),
        ("/v1/predict", "post", "200", client.post("/v1/predict", json={"history": []})),
        ("/v1/features", "get", "200", client.get("/v1/features?user_id=ada&item_id=lamp&session_id=s-1")),
        ("/v1/features", "get", "422", client.get("/v1/features")),
        ("/v1/models", "get", "200", client.get("/v1/models")),
        ("/v1/models/rollback", "post", "403", client.post("/v1/models/rollback", json={})),
        ("/healthz", "get", "200", client.get("/healthz")),
    ):
        assert answer.status_code == int(status)
        described = document["paths"][route][method]["responses"][status]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), described | {"components": document["components"]})
    wanted = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]["application/json"]
    for example in wanted["examples"].values():
        jsonschema.validate(example["value"], wanted["schema"] | {"components": document["components"]})
        assert client.post("/v1/events", json=example["value"]).status_code == 202


def test_the_page_of_documentation_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for text in ("/v1/events", "/v1/recommendations/{user_id}", "/v1/predict", "event_time_ms", "weights_sha256"):
        assert text in page.text
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


@pytest.mark.usefixtures("fresh_topics")
def test_sigterm_ends_the_process_in_good_order(kafka: str, clean_redis: str) -> None:
    program = (
        "import sys; from headrace.streams.lifetime import log_as_json; from headrace.streams.gateway import run_gateway\n"
        "log_as_json('gateway'); run_gateway(sys.argv[1], sys.argv[2], 'cpu', '127.0.0.1', 0, lambda port: print(port, flush=True))"
    )
    command = [sys.executable, "-c", program, kafka, clean_redis]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        with httpx.Client(base_url=f"http://127.0.0.1:{int(process.stdout.readline())}", timeout=30.0) as client:
            until(lambda: is_ready(client))
            assert client.post("/v1/events", json=CLICK).status_code == 202
        process.send_signal(signal.SIGTERM)
        log = process.stderr.read()
        assert process.wait(20) == 0, log
    assert all(json.loads(line)["component"] == "gateway" for line in log.splitlines())


@pytest.mark.usefixtures("fresh_topics")
def test_an_address_that_is_taken_is_told_in_plain_words(kafka: str, clean_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.streams.gateway.stop_on_signals", threading.Event)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="HEADRACE_GATEWAY_PORT"):
        run_gateway(kafka, clean_redis, "cpu", "127.0.0.1", taken.getsockname()[1])
