"""Features over HTTP: with ages and staleness, from a real server before real Kafka and Redis."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from test_gateway import serving

from headrace.features.columns import ITEMS, USERS
from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import HistoryEntry, ItemRow, Pane, SessionRow, UserRow, wire
from headrace.streams.gateway import create_app

NOW_MS = wire.now_ms()
AGE_MS = 5000
DAY_MS = 24 * 3600 * 1000
ADA = UserRow(
    shopper_id="ada",
    history=[HistoryEntry("lamp", "view", NOW_MS - AGE_MS, 20.0, "lamps"), HistoryEntry("rug", "cart", NOW_MS - AGE_MS)],
    steps=2,
    views=1,
    carts=1,
    panes=[Pane(NOW_MS - AGE_MS, 1, 1)],
    updated_ms=NOW_MS - AGE_MS,
    seen_ms=NOW_MS - AGE_MS,
)
LAMP = ItemRow(item_id="lamp", views=4, purchases=1, price=10.0, category="lamps", updated_ms=NOW_MS, seen_ms=NOW_MS)
VISIT = SessionRow(session_id="s-1", views=2, first_ms=NOW_MS - 60_000, updated_ms=NOW_MS, seen_ms=NOW_MS)


@pytest.fixture
def client(kafka: str, clean_redis: str, fresh_topics: object) -> Iterator[httpx.Client]:
    OnlineStore(connect(clean_redis)).write([ADA, replace(ADA, shopper_id="session:s-1")], [LAMP], [VISIT])
    with serving(create_app(kafka, clean_redis, "cpu")) as client:
        yield client


def views(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {view["view"]: view for view in answer.json()["views"]}


def test_a_shopper_an_item_and_a_visit_are_told_with_what_follows_from_them_now(client: httpx.Client) -> None:
    answer = client.get("/v1/features", params={"user_id": "ada", "item_id": "lamp", "session_id": "s-1"})
    told = views(answer)
    stored, computed = ["user_activity", "item_activity", "session_activity"], ["user_now", "item_now", "session_now", "user_item"]
    assert list(told) == [*stored, *computed]
    assert all(view["known"] and not view["stale"] for view in told.values())
    assert told["user_activity"]["features"]["history_items"] == ["lamp", "rug"]
    assert told["user_activity"]["features"]["history_prices"] == [20.0, None]
    assert told["user_now"]["features"]["views_1h"] == 1
    assert told["user_now"]["features"]["taste_categories"] == ["lamps"]
    assert told["user_now"]["age_ms"] == answer.json()["asked_ms"] - ADA.seen_ms >= AGE_MS
    assert told["item_now"]["features"]["conversion"] == 0.25
    assert told["item_now"]["age_ms"] < told["user_now"]["age_ms"] == told["user_item"]["age_ms"]
    assert told["session_now"]["features"]["length_s"] == 60.0
    assert told["user_item"]["entity"] == {"user_id": "ada", "item_id": "lamp"}
    assert told["user_item"]["features"] == {"affinity": 1.0, "price_fit": 0.5, "seen_before": 1}


def test_what_was_not_asked_for_is_not_told(client: httpx.Client) -> None:
    assert list(views(client.get("/v1/features?item_id=lamp"))) == ["item_activity", "item_now"]
    assert list(views(client.get("/v1/features?user_id=ada"))) == ["user_activity", "user_now"]


def test_a_session_without_a_user_is_that_of_a_guest(client: httpx.Client) -> None:
    told = views(client.get("/v1/features?session_id=s-1"))
    assert list(told) == ["user_activity", "session_activity", "user_now", "session_now"]
    assert told["user_activity"]["entity"] == {"user_id": "session:s-1"}
    assert told["user_activity"]["features"]["steps"] == 2


def test_of_nobody_all_features_are_null_and_it_says_that_nobody_is_known(client: httpx.Client) -> None:
    told = views(client.get("/v1/features?user_id=nobody&item_id=lamp"))
    for name in ("user_activity", "user_now", "user_item"):
        assert (told[name]["known"], told[name]["stale"], told[name]["age_ms"]) == (False, False, None)
        assert set(told[name]["features"].values()) == {None}
    assert told["item_activity"]["known"]


def test_a_row_past_its_time_to_live_is_not_told_but_its_age_is(client: httpx.Client, clean_redis: str) -> None:
    old_ms = NOW_MS - USERS.ttl_s * 1000 - 1
    OnlineStore(connect(clean_redis)).write([replace(ADA, seen_ms=old_ms)], [replace(LAMP, seen_ms=old_ms)])
    told = views(client.get("/v1/features?user_id=ada&item_id=lamp"))
    for name in ("user_activity", "user_now", "user_item"):
        assert (told[name]["known"], told[name]["stale"]) == (True, True)
        assert told[name]["age_ms"] > USERS.ttl_s * 1000
        assert set(told[name]["features"].values()) == {None}
    assert ITEMS.ttl_s > USERS.ttl_s
    assert (told["item_activity"]["stale"], told["item_activity"]["features"]["views"]) == (False, 4)


@pytest.mark.parametrize(
    ("query", "field"),
    [("", "user_id"), ("?user_id=", "user_id"), (f"?item_id={'x' * 129}", "item_id"), (f"?session_id={'x' * 129}", "session_id")],
)
def test_a_question_that_names_nothing_is_refused(client: httpx.Client, query: str, field: str) -> None:
    answer = client.get(f"/v1/features{query}")
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert answer.json()["expected"]


def test_without_redis_it_says_so(kafka: str, fresh_topics: object) -> None:
    with serving(create_app(kafka, "redis://127.0.0.1:1/0", "cpu")) as client:
        answer = client.get("/v1/features?user_id=ada")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "Redis" in answer.json()["message"]
