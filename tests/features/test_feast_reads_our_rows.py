"""Feast is held beside the direct way to the online store: it reads what we write, and we read what it writes."""

import math
import os
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from headrace.deploy.feature_repository import UnsuitableRedis, apply, connection_string, open_store, repository_file
from headrace.features.columns import ITEM_VIEW, SESSION_VIEW, SESSIONS, USER_VIEW, View
from headrace.features.columns import ITEMS as ITEM_COLUMNS
from headrace.features.columns import USERS as USER_COLUMNS
from headrace.features.online_store import OnlineStore, connect
from headrace.features.services import FEATURE_SERVICE
from headrace.schemas import Cause, HistoryEntry, ItemRow, Pane, SessionRow, UserRow
from headrace.schemas.feature_rows import Row

NOW_MS = 1_760_000_000_123

USERS = [
    UserRow(
        shopper_id="ada",
        history=[HistoryEntry("lamp", "view", NOW_MS - 7, 19.9, "Möbel"), HistoryEntry("Stühle & more", "cart", NOW_MS, 0.0, "")],
        panes=[Pane(NOW_MS - 123, 2**40, 1, 1, 9.75), Pane(NOW_MS - 23)],
        recent={"clicks/0": b"\x00\xff" * 8},
        cause=Cause(event_id="e", published_ms=1),
        seen_ms=NOW_MS + 5,
        spend=12.25,
        steps=1234,
        views=1000,
        carts=200,
        purchases=34,
        updated_ms=NOW_MS,
        offsets={"clicks/0": 7, "purchases/3": 2**40},
    ),
    UserRow(
        shopper_id="session:guest-7",
        history=[HistoryEntry("lamp", "purchase", NOW_MS)],
        steps=1,
        purchases=1,
        updated_ms=NOW_MS,
        offsets={"purchases/1": 0},
    ),
    UserRow(shopper_id="ünïcode 🛒", updated_ms=NOW_MS),
]
ITEMS = [
    ItemRow(
        item_id="lamp",
        views=3,
        carts=2,
        purchases=1,
        units=5,
        decayed_views=2.718281828459045,
        decayed_purchases=1e-12,
        price=19.9,
        category="Möbel",
        updated_ms=NOW_MS,
        offsets={"clicks/0": 7},
    ),
    ItemRow(item_id="chair", views=1, decayed_views=1.0, updated_ms=NOW_MS),
    ItemRow(item_id="gift", price=0.0, category="", updated_ms=NOW_MS),
]

Opened = Callable[[str], Any]


@pytest.fixture
def client(clean_redis: str) -> redis.Redis:
    return connect(clean_redis)


def columns(view: View, row: Row | None) -> dict[str, Any]:
    names = [column.name for column in view.columns]
    return dict.fromkeys(names) if row is None else dict(zip(names, view.values(row), strict=True))


def comparable(value: Any) -> Any:
    """Return a value in which NaN equals itself."""
    if isinstance(value, list):
        return [comparable(part) for part in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def user_columns(row: UserRow | None) -> dict[str, Any]:
    return {name: comparable(value) for name, value in columns(USER_COLUMNS, row).items()}


def item_columns(row: ItemRow | None) -> dict[str, Any]:
    return columns(ITEM_COLUMNS, row)


def all_hashes(client: redis.Redis) -> dict[Any, Any]:
    return {key: client.hgetall(key) for key in client.scan_iter()}


def as_feast_reads(store: Any, view: str, key: str, values: list[str], names: list[str]) -> list[dict[str, Any]]:
    features = [f"{view}:{name}" for name in names]
    found = store.get_online_features(features=features, entity_rows=[{key: value} for value in values]).to_dict()
    assert found[key] == values
    return [{name: comparable(found[name][place]) for name in names} for place in range(len(values))]


def test_feast_reads_the_users_that_we_write(feast_store: Opened, client: redis.Redis, clean_redis: str) -> None:
    OnlineStore(client).write(USERS, [])
    keys = [row.shopper_id for row in USERS]
    expected = [user_columns(row) for row in USERS]
    assert as_feast_reads(feast_store(clean_redis), USER_VIEW, "user_id", keys, list(expected[0])) == expected


def test_feast_reads_the_items_that_we_write(feast_store: Opened, client: redis.Redis, clean_redis: str) -> None:
    OnlineStore(client).write([], ITEMS)
    keys = [row.item_id for row in ITEMS]
    expected = [item_columns(row) for row in ITEMS]
    assert as_feast_reads(feast_store(clean_redis), ITEM_VIEW, "item_id", keys, list(expected[0])) == expected


def test_nobody_has_no_row_for_feast_and_none_for_us(feast_store: Opened, client: redis.Redis, clean_redis: str) -> None:
    ours = OnlineStore(client)
    ours.write(USERS[:1], ITEMS[:1])
    names = list(user_columns(USERS[0]))
    known, unknown = as_feast_reads(feast_store(clean_redis), USER_VIEW, "user_id", ["ada", "nobody"], names)
    assert known == user_columns(USERS[0])
    assert unknown == dict.fromkeys(names)
    assert ours.read_users(["nobody", "ada"]) == [None, USERS[0]]
    assert ours.read_items(["nothing", "lamp"]) == [None, ITEMS[0]]


def test_the_feature_service_names_all_columns_of_both_views(feast_store: Opened, client: redis.Redis, clean_redis: str) -> None:
    OnlineStore(client).write(USERS[:1], ITEMS[:1])
    store = feast_store(clean_redis)
    service = store.get_feature_service(FEATURE_SERVICE)
    rows = [{"user_id": "ada", "item_id": "lamp"}]
    found = store.get_online_features(features=service, entity_rows=rows, full_feature_names=True).to_dict()
    del found["user_id"], found["item_id"]
    found = {name: comparable(value) for name, value in found.items()}
    users = {f"{USER_VIEW}__{name}": [value] for name, value in user_columns(USERS[0]).items()}
    assert found == users | {f"{ITEM_VIEW}__{name}": [value] for name, value in item_columns(ITEMS[0]).items()}


def test_feast_reads_the_visits_that_we_write(feast_store: Opened, client: redis.Redis, clean_redis: str) -> None:
    visit = SessionRow(
        session_id="s-1", views=3, spend=1.5, first_ms=NOW_MS - 9, updated_ms=NOW_MS, seen_ms=NOW_MS, offsets={"clicks/0": 1}
    )
    OnlineStore(client).write(sessions=[visit])
    expected = columns(SESSIONS, visit)
    assert as_feast_reads(feast_store(clean_redis), SESSION_VIEW, "session_id", ["s-1"], list(expected)) == [expected]
    assert OnlineStore(client).read_sessions(["s-1", "s-2"]) == [visit, None]


def test_both_leave_the_same_keys_and_the_same_bytes(feast_store: Opened, client: redis.Redis, clean_redis: str) -> None:
    user = msgspec.structs.replace(USERS[0], last_purchase_ms=5)
    OnlineStore(client).write([user], [])
    ours = all_hashes(client)
    client.flushall()
    told = {name: [value] for name, value in columns(USER_COLUMNS, user).items()}
    at = [datetime.fromtimestamp(user.seen_ms / 1000, UTC)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        feast_store(clean_redis).write_to_online_store(
            USER_VIEW, inputs={"user_id": ["ada"], "event_timestamp": at, "created_timestamp": at} | told
        )
    theirs = all_hashes(client)
    assert theirs.keys() == ours.keys()
    for key, fields in theirs.items():
        # Ours holds the whole row besides, from which a worker goes on.
        assert {name: value for name, value in ours[key].items() if name != f"_row:{USER_VIEW}".encode()} == fields


def test_rows_come_back_as_they_were(client: redis.Redis) -> None:
    ours = OnlineStore(client)
    ours.write(USERS, ITEMS)
    assert ours.read_users([user.shopper_id for user in USERS]) == USERS
    assert ours.read_items([item.item_id for item in ITEMS]) == ITEMS
    assert ours.read_users([]) == []


def test_what_is_known_no_more_does_not_linger(client: redis.Redis) -> None:
    ours = OnlineStore(client)
    ours.write(USERS[:1], ITEMS[:1])
    emptied = UserRow(shopper_id="ada", updated_ms=NOW_MS + 1)
    plain = ItemRow(item_id="lamp", updated_ms=NOW_MS + 1)
    ours.write([emptied], [plain])
    assert ours.read_users(["ada"]) == [emptied]
    assert ours.read_items(["lamp"]) == [plain]


def test_applying_twice_gives_one_repository(feast_store: Opened, clean_redis: str, tmp_path: Path) -> None:
    feast_store(clean_redis)
    registry = tmp_path / "deeper" / "registry.db"
    assert apply(registry, clean_redis) == apply(registry, clean_redis)
    store = open_store(registry, clean_redis)
    assert sorted(view.name for view in store.list_feature_views()) == [ITEM_VIEW, SESSION_VIEW, USER_VIEW]
    assert store.project == "headrace"


def test_feasts_own_command_finds_the_repository_by_its_file(
    feast_store: Opened, client: redis.Redis, clean_redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feast_store(clean_redis)
    apply(tmp_path / "registry.db", clean_redis)
    OnlineStore(client).write(USERS[:1], [])
    monkeypatch.setenv("FEAST_REGISTRY", os.fspath(tmp_path / "registry.db"))
    monkeypatch.setenv("FEAST_REDIS", connection_string(clean_redis))
    from feast import FeatureStore

    store = FeatureStore(fs_yaml_file=repository_file())
    assert as_feast_reads(store, USER_VIEW, "user_id", ["ada"], ["steps"]) == [{"steps": 1234}]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:6379/0", "127.0.0.1:6379,db=0"),
        ("redis://shop", "shop:6379,db=0"),
        ("redis://shop:1/5", "shop:1,db=5"),
        ("rediss://shop/2", "shop:6379,db=2,ssl=true"),
        ("redis://:1234@shop/0", 'shop:6379,db=0,password="1234"'),
        ("redis://ann:a%2Cb%40c%3D%22@shop/0", 'shop:6379,db=0,username="ann",password="a\\u002cb@c=\\""'),
    ],
)
def test_a_redis_url_is_told_to_feast_in_its_own_words(url: str, expected: str) -> None:
    assert connection_string(url) == expected


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("unix:///run/redis.sock", "unix socket"),
        ("redis://[::1]:6379/0", "IPv6"),
        ("http://shop", "a URL such as redis://127.0.0.1:6379/0 was expected"),
        ("redis://shop/first", "number of a database"),
        ("redis://shop/0?ssl_cert_reqs=none", "leave out"),
    ],
)
def test_a_redis_that_feast_cannot_reach_is_told_without_the_password(url: str, told: str) -> None:
    with pytest.raises(UnsuitableRedis, match=told):
        connection_string(url)
    with pytest.raises(UnsuitableRedis) as caught:
        connection_string(url.replace("//", "//:secret@", 1))
    assert "secret" not in str(caught.value)


def test_feast_reads_back_the_password_that_was_meant(feast_store: Opened, clean_redis: str) -> None:
    feast_store(clean_redis)
    from feast.infra.online_stores.redis import RedisOnlineStore

    nodes, words = RedisOnlineStore._parse_connection_string(connection_string("redis://ann:a%2Cb%40c%3D%22@shop:1/3"))
    assert nodes == [{"host": "shop", "port": "1"}]
    assert words == {"db": 3, "username": "ann", "password": 'a,b@c="'}
    assert RedisOnlineStore._parse_connection_string(connection_string("redis://:1234@shop"))[1]["password"] == "1234"
