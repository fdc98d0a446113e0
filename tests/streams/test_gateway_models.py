"""Versions over HTTP: which there are, clicks on lists counted for who made them, and rollbacks for administrators alone."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from test_gateway import serving
from weights_chain import Chain

from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import HistoryEntry, UserRow, wire
from headrace.streams.gateway import create_app
from headrace.streams.model_access import ModelAccess
from headrace.streams.release_requests import ReleaseRequests
from headrace.streams.signing import SigningKey

NOW_MS = wire.now_ms()
TOKEN = "let me in"
HISTORY = [{"item_id": f"item-{number}"} for number in range(3)]


@pytest.fixture
def chain(fresh_topics: str) -> Chain:
    made = Chain(fresh_topics)
    made.snapshot()
    ReleaseRequests(fresh_topics, "test").promote(1, "the first")
    made.delta()
    return made


@pytest.fixture
def client(fresh_topics: str, clean_redis: str, tmp_path: Path, chain: Chain) -> Iterator[httpx.Client]:
    SigningKey.create(tmp_path)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    row = UserRow(shopper_id="ada", history=[HistoryEntry("item-1", "view", NOW_MS)], steps=1, updated_ms=NOW_MS, seen_ms=NOW_MS)
    OnlineStore(connect(clean_redis)).write([row], [], [])
    access = ModelAccess(signing_key=tmp_path / "signing.pem", admin_token_file=tmp_path / "token")
    with serving(create_app(fresh_topics, clean_redis, "cpu", access=access)) as client:
        until(lambda: len(made_by(client)) == 2)
        yield client


def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def made_by(client: httpx.Client) -> set[tuple[str, int]]:
    """Return the lanes and versions that answer forty shoppers."""
    told = [client.post("/v1/predict", json={"history": HISTORY, "shopper_id": f"shopper-{number}"}).json() for number in range(40)]
    return {(answer["lane"], answer["model_version"]) for answer in told}


def test_versions_and_decisions_are_listed_and_shoppers_split(client: httpx.Client) -> None:
    until(lambda: made_by(client) == {("stable", 1), ("trial", 2)})
    found = client.get("/v1/models").json()
    assert (found["stable_version"], found["newest_version"], found["trial_share"], found["pinned"]) == (1, 2, 0.9, False)
    assert [(one["version"], one["standing"]) for one in found["versions"]] == [(2, "newest"), (1, "stable")]
    assert found["decisions"][0]["reason"] == "the first"


def test_a_click_that_names_a_list_counts_for_the_version_that_made_it(client: httpx.Client) -> None:
    made = client.get("/v1/recommendations/ada").json()
    click = {"type": "click", "event_id": "c-1", "event_time_ms": NOW_MS, "item_id": made["items"][0]["item_id"], "user_id": "ada"}
    named = click | {"event_id": "c-2", "attribution": {"recommendation_id": made["recommendation_id"]}}
    forged = click | {"event_id": "c-3", "attribution": {"recommendation_id": "nobody made it"}}
    assert client.post("/v1/events", json={"events": [click, named, forged]}).status_code == 202

    def clicks() -> list[tuple[int, str, int]]:
        versions = client.get("/v1/models").json()["versions"]
        return [(one["version"], seen["lane"], seen["clicks"]) for one in versions for seen in one["outcomes"]]

    until(lambda: bool(clicks()))
    assert clicks() == [(made["model_version"], made["lane"], 1)]


def test_only_who_has_the_token_may_roll_back(client: httpx.Client, chain: Chain) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}):
        assert client.post("/v1/models/rollback", json={}, headers=headers).status_code == 403
    admin = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/v1/models/rollback", json={"to": "one"}, headers=admin).status_code == 422
    assert client.post("/v1/models/rollback", content=b"{", headers=admin).status_code == 400
    answer = client.post("/v1/models/rollback", json={"reason": "hits fell"}, headers=admin)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["stable_version"], answer.json()["withdrawn_to"], answer.json()["reason"]) == (1, 2, "hits fell")
    assert answer.json()["key_id"]
    until(lambda: {version for _, version in made_by(client)} == {1})
    again = client.post("/v1/models/rollback", json={"to": 2}, headers=admin)
    assert again.status_code == 409
    assert [one["standing"] for one in client.get("/v1/models").json()["versions"]] == ["withdrawn", "stable"]
