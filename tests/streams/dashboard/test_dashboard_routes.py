"""The stream and the history as programs see them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from page_gateway import Gateway, until

from headrace.streams.dashboard.board import Board
from headrace.streams.dashboard.curves import COLUMNS


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=15.0) as client:
        yield client


def frames(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_the_first_frame_holds_all_and_the_next_what_has_changed(client: httpx.Client) -> None:
    with client.stream("GET", "/v1/dashboard/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        found = frames(answer)
        first, second = next(found), next(found)
    assert {"now", "marks", "versions", "releases", "drift", "signals"} <= first.keys()
    assert second["revision"] > first["revision"]
    assert second["now"]["made_ms"] > first["now"]["made_ms"]
    assert "versions" not in second
    assert {source["name"] for source in first["now"]["sources"]} >= {"Kafka offsets", "committed offsets", "recommendations"}


def test_the_history_grows_by_a_point_each_two_seconds(client: httpx.Client) -> None:
    until(lambda: len(client.get("/v1/dashboard/history").json()["rows"]) > 1, "two points are closed")
    told = client.get("/v1/dashboard/history").json()
    assert (told["columns"], told["resolution"], told["step_s"]) == (list(COLUMNS), "fine", 2)
    assert [row[0] for row in told["rows"]] == sorted({row[0] for row in told["rows"]})
    assert client.get("/v1/dashboard/history?resolution=coarse").json()["step_s"] == 60
    refused = client.get("/v1/dashboard/history?resolution=finest")
    assert (refused.status_code, refused.json()["field"]) == (422, "resolution")


def test_more_clients_than_are_served_are_sent_away_and_a_place_that_is_left_is_free(client: httpx.Client, gateway: Gateway) -> None:
    board: Board = gateway.app.state.dashboard.board
    until(lambda: board.clients == 0, "streams of earlier tests have ended")
    board.most_clients = 1
    try:
        with client.stream("GET", "/v1/dashboard/stream") as answer:
            # Kept, since the stream ends with whoever reads it.
            found = frames(answer)
            next(found)
            with httpx.Client(base_url=gateway.url) as other:
                refused = other.get("/v1/dashboard/stream")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "close a page" in refused.json()["message"]
        until(lambda: board.clients == 0, "the place is free again")
    finally:
        board.most_clients = 50


def test_how_long_somebody_watches_is_no_time_of_an_answer(client: httpx.Client) -> None:
    def counted(metric: str) -> float:
        wanted = rf'^{metric}{{route="/v1/dashboard/stream"(?:,status="200")?}} (\S+)$'
        return sum(float(value) for value in re.findall(wanted, client.get("/metrics").text, re.M))

    requests, times = counted("headrace_http_requests_total"), counted("headrace_http_request_seconds_count")
    with client.stream("GET", "/v1/dashboard/stream") as answer:
        next(frames(answer))
    until(lambda: counted("headrace_http_requests_total") == requests + 1, "the request is counted")
    assert counted("headrace_http_request_seconds_count") == times
