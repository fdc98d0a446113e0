"""Features of the time of asking: Feast's on-demand views and our own reader tell the same, column by column."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from headrace.features.asked import ITEM_NOW, SESSION_NOW, USER_ITEM, USER_NOW
from headrace.features.columns import ITEM_VIEW, ITEMS, SESSION_VIEW, SESSIONS, USER_VIEW, USERS
from headrace.features.item_row import changes_of, fold_item
from headrace.features.online_store import OnlineStore, connect
from headrace.features.place import Place
from headrace.features.reader import EntityMissing, FeatureReader, Features
from headrace.features.services import NEXT_ITEM, RANKING, SERVICES, VISIT, Service, all_of
from headrace.features.session_row import fold_session
from headrace.features.user_row import fold_user
from headrace.features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from headrace.schemas import Click, Event, InvalidMessage, ItemRow, OrderLine, Purchase, SessionRow, UserRow, check_event
from headrace.schemas.wire import MAX_FUTURE_MS

NOW_MS = 1_760_000_000_123
Opened = Callable[[str], Any]
ASKED = {
    "at once": NOW_MS,
    "a second before its row": NOW_MS - 1000,
    "within the visit": NOW_MS + 10 * MINUTE_MS,
    "after a pause": NOW_MS + 31 * MINUTE_MS,
    "after three hours": NOW_MS + 3 * HOUR_MS,
    "after two days": NOW_MS + 2 * DAY_MS,
    "just within 30 days": NOW_MS + 30 * DAY_MS,
    "beyond 30 days": NOW_MS + 30 * DAY_MS + 1,
    "beyond 90 days": NOW_MS + 91 * DAY_MS,
}


def click(number: int, item_id: str, ago_ms: int, **told: Any) -> Click:
    return Click(event_id=f"c-{number}", event_time_ms=NOW_MS - ago_ms, item_id=item_id, user_id="ada", session_id="s-1", **told)


EVENTS: list[Event] = [
    click(0, "stool", 9 * DAY_MS, price=30.0, category="chairs"),
    click(1, "lamp", 6 * DAY_MS, price=20.0, category="Möbel & mehr"),
    click(2, "lamp", 2 * DAY_MS, price=25.0, category="Möbel & mehr", action="cart"),
    click(3, "rug", 2 * HOUR_MS),
    click(4, "lamp", 20 * MINUTE_MS, price=22.0, category="Möbel & mehr"),
    click(5, "stool", 12 * MINUTE_MS, price=28.0, category="chairs", action="cart"),
    Purchase(
        event_id="p-1",
        event_time_ms=NOW_MS - 2 * MINUTE_MS,
        order_id="o-1",
        lines=[OrderLine(item_id="lamp", quantity=2, unit_price=21.0), OrderLine(item_id="rug")],
        currency="EUR",
        user_id="ada",
        session_id="s-1",
    ),
]


def folded(events: Sequence[Event] = EVENTS) -> tuple[UserRow, dict[str, ItemRow], SessionRow]:
    """Return the rows that these events make, the newest of which was published at NOW_MS."""
    user, items, visit = UserRow(shopper_id="ada"), dict[str, ItemRow](), SessionRow(session_id="s-1")
    for offset, event in enumerate(events):
        topic = "clicks/0" if isinstance(event, Click) else "purchases/0"
        place = Place(topic, offset, NOW_MS)
        user, visit = fold_user(user, event, place), fold_session(visit, event, place)
        for change in changes_of(event, place):
            items[change.item_id] = fold_item(items.get(change.item_id, ItemRow(item_id=change.item_id)), change)
    return user, items, visit


@pytest.fixture
def client(clean_redis: str) -> redis.Redis:
    return connect(clean_redis)


@pytest.fixture
def stored(client: redis.Redis) -> OnlineStore:
    """A store with a shopper of some steps, one whose only event was an order, one without any event, their items and a visit."""
    user, items, visit = folded()
    buyer, _, _ = folded([Purchase(event_id="p", event_time_ms=NOW_MS, order_id="o", lines=[OrderLine(item_id="cup")], currency="EUR")])
    store = OnlineStore(client)
    store.write(
        [user, replace(buyer, shopper_id="session:guest"), UserRow(shopper_id="nothing yet", seen_ms=NOW_MS)],
        [*items.values(), ItemRow(item_id="cup", price=5.0, lowest_price=5.0, highest_price=5.0, seen_ms=NOW_MS)],
        [visit, SessionRow(session_id="s-2", views=1, first_ms=NOW_MS, updated_ms=NOW_MS, seen_ms=NOW_MS, offsets={"clicks/1": 7})],
    )
    return store


def comparable(value: Any) -> Any:
    """Return a value in which NaN equals itself."""
    if isinstance(value, list):
        return [comparable(part) for part in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def by_feast(store: Any, service: Service, entities: Sequence[dict[str, str]], asked_ms: int) -> list[dict[str, Any]]:
    asked = [entity | {"asked_ms": asked_ms} for entity in entities]
    found = store.get_online_features(
        features=store.get_feature_service(service.name), entity_rows=asked, full_feature_names=True
    ).to_dict()
    return [{name: comparable(found[name][place]) for name in service.columns} for place in range(len(entities))]


def by_us(store: OnlineStore, service: Service, entities: Sequence[dict[str, str]], asked_ms: int) -> list[Features]:
    return FeatureReader(store).read(service, entities, asked_ms)


def told(features: Features) -> dict[str, Any]:
    return {name: comparable(value) for name, value in features.items()}


SHOPPERS_AND_ITEMS = [
    {"user_id": user, "item_id": item}
    for user in ("ada", "session:guest", "nothing yet", "nobody")
    for item in ("lamp", "rug", "stool", "cup", "nothing")
]
VISITS = [{"session_id": name} for name in ("s-1", "nowhere", "s-2")]


@pytest.mark.parametrize("asked_ms", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(("service", "entities"), [(RANKING, SHOPPERS_AND_ITEMS), (VISIT, VISITS)], ids=["ranking", "visit"])
def test_feast_and_our_reader_tell_the_same_of_every_column(
    feast_store: Opened, stored: OnlineStore, clean_redis: str, service: Service, entities: list[dict[str, str]], asked_ms: int
) -> None:
    theirs = by_feast(feast_store(clean_redis), service, entities, asked_ms)
    assert len(theirs[0]) == len(service.columns)
    for entity, feast, ours in zip(entities, theirs, by_us(stored, service, entities, asked_ms), strict=True):
        for view in service.views:
            if ours.stale(view):
                # Feast enforces no time to live on a stored view when it reads online.
                feast |= {name: None for name in feast if name.startswith(f"{view.name}__")}
        assert told(ours) == feast, entity


def test_a_row_past_its_time_to_live_is_served_by_feasts_stored_view_but_by_no_other(
    feast_store: Opened, stored: OnlineStore, clean_redis: str
) -> None:
    asked_ms = NOW_MS + USERS.ttl_s * 1000 + 1
    entities = [{"user_id": "ada", "item_id": "lamp"}]
    [feast] = by_feast(feast_store(clean_redis), RANKING, entities, asked_ms)
    assert feast[f"{USER_VIEW}__steps"] == 8
    assert feast["user_now__age_s"] is None
    assert feast["user_item__seen_before"] is None
    assert feast["item_now__age_s"] is not None
    [ours] = by_us(stored, RANKING, entities, asked_ms)
    assert ours[f"{USER_VIEW}__steps"] is None
    assert ours[f"{ITEM_VIEW}__views"] == 2
    assert (ours.known(USERS), ours.stale(USERS), ours.age_ms(USERS)) == (True, True, asked_ms - NOW_MS)
    assert (ours.known(ITEMS), ours.stale(ITEMS)) == (True, False)
    assert (ours.stale(USER_ITEM), ours.stale(USER_NOW), ours.stale(ITEM_NOW)) == (True, True, False)


def test_a_visit_is_stale_a_day_after_its_last_event(stored: OnlineStore) -> None:
    for late_ms, stale in ((0, False), (1, True)):
        [visit] = by_us(stored, VISIT, VISITS[:1], NOW_MS + DAY_MS + late_ms)
        assert visit.stale(SESSIONS) is visit.stale(SESSION_NOW) is stale
        assert (visit[f"{SESSION_VIEW}__views"] is None) is stale
        assert (visit["session_now__idle_s"] is None) is stale


def test_of_an_entity_without_a_row_everything_is_none_and_not_stale(stored: OnlineStore) -> None:
    [nobody] = by_us(stored, RANKING, [{"user_id": "nobody", "item_id": "nothing"}], NOW_MS)
    assert set(nobody.values()) == {None}
    for view in (*RANKING.views, *RANKING.asked):
        assert (nobody.known(view), nobody.stale(view), nobody.age_ms(view)) == (False, False, None)


def test_two_updates_of_the_same_instant_both_count(
    feast_store: Opened, stored: OnlineStore, client: redis.Redis, clean_redis: str
) -> None:
    """Feast's own write keeps the first of two rows with the same event time, and the second event would be lost."""
    for service, entity in ((RANKING, {"user_id": "ada", "item_id": "lamp"}), (VISIT, {"session_id": "s-1"})):
        events = [click(20 + number, "lamp", 0) for number in range(2)]
        before = by_us(stored, service, [entity], NOW_MS)[0]
        for number in range(2):
            user, items, visit = folded([*EVENTS, *events[: number + 1]])
            stored.write([user], items.values(), [visit])
        [ours], [feast] = by_us(stored, service, [entity], NOW_MS), by_feast(feast_store(clean_redis), service, [entity], NOW_MS)
        names = [name for name in service.columns if name.endswith("activity__views")]
        assert names
        assert [ours[name] for name in names] == [before[name] + 2 for name in names] == [feast[name] for name in names]
        stored.write([folded()[0]], folded()[1].values(), [folded()[2]])


def test_a_far_future_event_is_refused_before_it_could_freeze_its_key() -> None:
    """Feast keeps the row with the newest time for ever, so one from the future would hide all that follow."""
    check_event(click(1, "lamp", -MAX_FUTURE_MS), NOW_MS)
    with pytest.raises(InvalidMessage, match="in the future") as caught:
        check_event(click(1, "lamp", -365 * DAY_MS), NOW_MS)
    assert caught.value.field == "$.event_time_ms"


def test_an_event_a_little_ahead_freezes_nothing(feast_store: Opened, stored: OnlineStore, clean_redis: str) -> None:
    ahead = [*EVENTS, click(30, "cup", -MAX_FUTURE_MS)]
    for events in (ahead, [*ahead, click(31, "rug", 0)]):
        user, items, _ = folded(events)
        stored.write([user], items.values())
        entities = [{"user_id": "ada", "item_id": "cup"}]
        [ours] = by_us(stored, RANKING, entities, NOW_MS)
        assert told(ours) == by_feast(feast_store(clean_redis), RANKING, entities, NOW_MS)[0]
        assert ours[f"{USER_VIEW}__steps"] == len(events) + 1
        assert (ours["user_now__idle_s"], ours["user_now__age_s"]) == (0.0, 0.0)


def test_all_columns_of_a_row_are_written_at_once(client: redis.Redis, stored: OnlineStore) -> None:
    """Feast cannot push some columns of a view; here no write ever names only some."""
    user = folded()[0]
    fields = client.hkeys(stored.users.key("ada"))
    assert set(fields) == {*stored.users.field_names.values(), stored.users.row_field, f"_ts:{USER_VIEW}".encode()}
    assert set(stored.users.fields(replace(user, history=[], last_purchase_ms=None))[0::2]) == set(fields)


def test_one_shopper_beside_many_items_is_read_in_the_order_asked(stored: OnlineStore) -> None:
    entities = [{"user_id": "ada", "item_id": item} for item in ("rug", "lamp", "rug", *(f"none-{number}" for number in range(600)))]
    found = by_us(stored, RANKING, entities, NOW_MS)
    assert [features["user_item__seen_before"] for features in found] == [2, 4, 2] + [0] * 600
    assert [features.known(ITEMS) for features in found] == [True] * 3 + [False] * 600
    assert FeatureReader(stored).read(RANKING, [], NOW_MS) == []


def test_a_server_that_was_started_anew_is_told_the_script_again(stored: OnlineStore, client: redis.Redis) -> None:
    entity = {"user_id": "ada", "item_id": "lamp"}
    before = told(by_us(stored, RANKING, [entity], NOW_MS)[0])
    client.script_flush()
    assert told(by_us(stored, RANKING, [entity], NOW_MS)[0]) == before


def test_an_entity_without_its_join_key_is_told(stored: OnlineStore) -> None:
    with pytest.raises(EntityMissing, match="without 'item_id'; give user_id, item_id"):
        by_us(stored, NEXT_ITEM, [{"user_id": "ada"}], NOW_MS)


def test_short_names_are_refused_where_feast_would_mix_up_two_views(feast_store: Opened, stored: OnlineStore, clean_redis: str) -> None:
    store = feast_store(clean_redis)
    rows = [{"user_id": "ada", "item_id": "lamp", "asked_ms": NOW_MS}]
    with pytest.raises(ValueError, match="full_feature_names=True"):
        store.get_online_features(features=["user_item:affinity"], entity_rows=rows)
    found = store.get_online_features(features=["user_now:age_s", "user_now:taste_categories"], entity_rows=rows).to_dict()
    assert (found["age_s"], found["taste_categories"]) == ([0.0], [["Möbel & mehr", "chairs"]])


def test_feast_knows_the_services_with_all_their_columns(feast_store: Opened, clean_redis: str) -> None:
    store = feast_store(clean_redis)
    for service in SERVICES:
        found = store.get_feature_service(service.name)
        names = [f"{part.name}__{feature.name}" for part in found.feature_view_projections for feature in part.features]
        assert sorted(names) == sorted(service.columns)
        assert found.description == service.description


def test_all_that_is_known_follows_from_the_keys_given() -> None:
    assert [view.name for view in all_of(["item_id", "user_id"]).asked] == ["user_now", "item_now", "user_item"]
    assert [view.name for view in all_of(["session_id"]).asked] == ["session_now"]
    assert all_of([]).columns == ()
