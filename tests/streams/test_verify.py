"""Verification on a real Kafka and a real Redis: right rows pass, and each kind of damage is found and named."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from msgspec import Struct
from msgspec.structs import replace

from headrace.features.feast_layout import RowTable
from headrace.features.online_store import POSITION_KEY, OnlineStore, connect
from headrace.features.shadow import open_database
from headrace.schemas import Click, Event, OrderLine, Purchase, encode, shopper_id
from headrace.schemas.topics import CLICKS, ITEM_CHANGES, PURCHASES
from headrace.schemas.wire import now_ms
from headrace.streams import kafka as clients
from headrace.streams.feature_worker import FeatureWorker
from headrace.streams.publisher import EventPublisher
from headrace.streams.readers import open_events
from headrace.streams.replay import replay
from headrace.streams.verify import VerifyReport, verify

EVENTS = 400
TIMEOUT_S = 60.0


@pytest.fixture
def store(clean_redis: str) -> OnlineStore:
    return OnlineStore(connect(clean_redis))


@pytest.fixture
def events(shop_data: Callable[[str], Path]) -> list[Event]:
    """Real clicks and purchases, one in ten sent twice, some with prices, and a regular who comes back over two weeks."""
    real = list(islice(open_events(shop_data("diginetica_clicks_purchases.csv.gz")), EVENTS))
    priced = [replace(event, price=number / 4) if isinstance(event, Click) and number % 3 else event for number, event in enumerate(real)]
    twice = [event for number, event in enumerate(priced) for event in [event] * (1 + (number % 10 == 0))]
    return [*twice, *_regular(priced[0].event_time_ms)]


def _regular(start_ms: int) -> Iterator[Event]:
    hour_ms = 3_600_000
    for visit in range(40):
        time_ms = start_ms + visit * 8 * hour_ms - (13 * hour_ms if visit % 7 == 6 else 0)
        told: dict[str, Any] = {"user_id": "regular", "session_id": f"visit-{visit // 4}", "event_time_ms": max(0, time_ms)}
        for step in range(3):
            yield Click(event_id=f"r{visit}-{step}", item_id=f"item-{step}", category="garden", price=2.5, **told)
        if visit % 5 == 0:
            lines = [OrderLine(item_id="item-0", quantity=2, unit_price=2.25), OrderLine(item_id="item-1")]
            yield Purchase(event_id=f"o{visit}", order_id=f"o{visit}", lines=lines, currency="EUR", **told)


@pytest.fixture
def drained(fresh_topics: str, store: OnlineStore, events: list[Event]) -> str:
    """The address of a Kafka whose events have all been taken in."""
    with EventPublisher(fresh_topics) as publisher:
        for event in events:
            publisher.publish(event)
    take_in_all(fresh_topics, store)
    return fresh_topics


def take_in_all(bootstrap: str, store: OnlineStore) -> None:
    worker = FeatureWorker(bootstrap, store)
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_drained(bootstrap, store, worker):
        worker.step(0.1)
        assert time.monotonic() < deadline_s, "the worker has not taken in all events"
    worker.commit()
    worker.close()


def is_drained(bootstrap: str, store: OnlineStore, worker: FeatureWorker) -> bool:
    worker.commit()
    client = clients.consumer(bootstrap, "test-watermarks")
    ends = {
        f"{topic.name}/{number}": clients.watermarks(client, topic.name, number)[1]
        for topic in (CLICKS, PURCHASES, ITEM_CHANGES)
        for number in clients.partitions(client, topic)
    }
    client.close()
    return all((-1 if at is None else at) == ends[source] - 1 for source, at in store.positions(list(ends)).items())


def found(report: VerifyReport) -> set[tuple[str, str]]:
    return {(difference.entity, difference.column) for difference in report.shown}


def body(table: RowTable[Any], store: OnlineStore, entity: str) -> Any:
    row = table.row(store.client.hget(table.key(entity), table.row_field))  # type: ignore[arg-type]
    assert row is not None
    return row


def damage_json(table: RowTable[Any], store: OnlineStore, entity: str, **changed: Any) -> None:
    """Change the row's JSON alone."""
    store.client.hset(table.key(entity), table.row_field, encode(replace(body(table, store, entity), **changed)))


def damage(table: RowTable[Any], store: OnlineStore, row: Struct) -> None:
    """Write a row over the one that is there, JSON and Feast's fields."""
    parts = table.fields(row)
    store.client.hset(table.key(table.key_of(row)), mapping=dict(zip(parts[::2], parts[1::2], strict=True)))


def test_rows_made_by_the_worker_pass_with_all_of_them_compared(drained: str, store: OnlineStore, events: list[Event]) -> None:
    seen: list[tuple[str, int, int]] = []
    report = verify(drained, store, progress=lambda *told: seen.append(told))
    assert report.shown == []
    assert (report.differences, report.unverifiable, report.events) == (0, 0, len(events))
    assert report.users == len({shopper_id(event) for event in events})
    assert report.sessions == len({event.session_id for event in events} - {None})
    assert report.items == len(
        {item for event in events for item in ([event.item_id] if isinstance(event, Click) else [line.item_id for line in event.lines])}
    )
    assert {"reading events", "comparing user_activity"} <= {stage for stage, _, _ in seen}
    regular = body(store.users, store, "regular")
    assert regular.late > 0
    assert sum(pane.views for pane in regular.panes) > 0
    assert any(row.repeated for row in store.scan_users())


def test_every_kind_of_damage_is_found_and_named(drained: str, store: OnlineStore, events: list[Event]) -> None:
    users, items, sessions = store.users, store.items, store.sessions
    regular = body(users, store, "regular")
    # One count, in the JSON and in Feast's field.
    damage(items, store, replace(body(items, store, "item-0"), views=7))
    # One pane.
    panes = [replace(pane, views=pane.views + 1) if pane is regular.panes[0] else pane for pane in regular.panes]
    damage_json(users, store, "regular", panes=panes)
    # A row that is gone.
    gone, others = events[0], [shopper_id(event) for event in events[1:EVENTS] if shopper_id(event) != shopper_id(events[0])]
    store.client.delete(users.key(shopper_id(gone)))
    # One of Feast's fields alone, and one that is gone.
    store.client.hset(sessions.key("visit-0"), sessions.field_names["views"], b"\x20\x01")
    store.client.hdel(sessions.key("visit-1"), sessions.field_names["carts"])
    # A row of nobody's events.
    damage(users, store, replace(regular, shopper_id="stranger", offsets={"clicks/0": 1}))
    # A row that is no row.
    store.client.hset(users.key(others[0]), users.row_field, b"{")
    # The time that Feast reads.
    store.client.hset(sessions.key("visit-2"), b"_ts:session_activity", b"\x08\x01")
    report = verify(drained, store)
    assert found(report) == {
        ("item-0", "_row:views"),
        ("item-0", "views"),
        ("regular", "_row:pane_views"),
        (shopper_id(gone), "_row"),
        ("visit-0", "views"),
        ("visit-1", "carts"),
        ("stranger", "_row"),
        (others[0], "_row"),
        ("visit-2", "_ts"),
    }
    assert (report.differences, report.unverifiable) == (9, 0)
    assert all(difference.column in difference.line() for difference in report.shown)


@pytest.mark.parametrize("kind", ["users", "items", "sessions"])
def test_a_row_that_was_rolled_back_whole_is_found(fresh_topics: str, store: OnlineStore, events: list[Event], kind: str) -> None:
    table: RowTable[Any] = getattr(store, kind)
    entity = {"users": "regular", "items": "item-1", "sessions": "visit-9"}[kind]
    with EventPublisher(fresh_topics) as publisher:
        for event in events[:-1]:
            publisher.publish(event)
    take_in_all(fresh_topics, store)
    before = body(table, store, entity)
    with EventPublisher(fresh_topics) as publisher:
        publisher.publish(replace(events[-1], item_id="item-1"))
    take_in_all(fresh_topics, store)
    assert verify(fresh_topics, store).differences == 0
    assert body(table, store, entity).offsets != before.offsets
    damage(table, store, before)
    assert found(verify(fresh_topics, store)) == {(entity, "offsets")}


def test_a_store_that_lost_everything_or_its_positions_is_told(drained: str, store: OnlineStore) -> None:
    store.client.delete(f"{POSITION_KEY}clicks/0")
    assert found(verify(drained, store)) == {("clicks/0", "position")}
    store.client.flushdb()
    report = verify(drained, store)
    assert report.users == 0
    assert report.differences > 0
    assert {column for _, column in found(report)} == {"position"}


def test_rows_whose_events_kafka_no_longer_has_are_counted_as_unverifiable(
    drained: str, store: OnlineStore, admin: AdminClient, events: list[Event]
) -> None:
    whole = verify(drained, store)
    ends = [TopicPartition(CLICKS.name, number, 20) for number in range(4)]
    for outcome in admin.delete_records(ends).values():
        outcome.result()
    report = verify(drained, store, limit=1000)
    assert report.shown == []
    assert report.unverifiable > 20
    assert (report.users, report.items) == (whole.users, whole.items)
    # A shopper who came later is checked as before.
    damage_json(store.users, store, "regular", carts=5)
    # What Feast's fields say is held to the row's JSON, whatever Kafka has.
    old = next(row for row in store.scan_users() if all(source[:6] == "clicks" and offset < 20 for source, offset in row.offsets.items()))
    store.client.hset(store.users.key(old.shopper_id), store.users.field_names["views"], b"\x20\x7f")
    assert found(verify(drained, store)) == {("regular", "_row:carts"), (old.shopper_id, "views")}


def test_rows_are_compared_at_their_own_offsets_while_events_wait(drained: str, store: OnlineStore) -> None:
    with EventPublisher(drained) as publisher:
        for number in range(50):
            publisher.publish(Click(event_id=f"n{number}", event_time_ms=now_ms(), item_id="item-0", user_id="regular"))
        # Refused by the worker, and by us.
    producer = clients.producer(drained, "test")
    producer.produce(CLICKS.name, b"{}", "regular")
    far = Click(event_id="far", event_time_ms=now_ms() + 10_000_000, item_id="item-0", user_id="regular")
    producer.produce(CLICKS.name, encode(far), "regular")
    producer.flush(10.0)
    assert verify(drained, store).shown == []
    take_in_all(drained, store)
    assert verify(drained, store).shown == []


def test_an_event_that_was_refused_for_its_time_stays_refused_when_that_time_has_come(fresh_topics: str, store: OnlineStore) -> None:
    time_ms = now_ms() - 30_000_000
    clicks = [Click(event_id=f"e{n}", event_time_ms=time_ms + n * 10_000_000, item_id="lamp", user_id="ada") for n in range(3)]
    producer = clients.producer(fresh_topics, "test")
    for click in clicks:
        producer.produce(CLICKS.name, encode(click), "ada", timestamp=time_ms)
    producer.flush(10.0)
    worker = FeatureWorker(fresh_topics, store, clock=lambda: time_ms)
    while not is_drained(fresh_topics, store, worker):
        worker.step(0.1)
    worker.close()
    assert body(store.users, store, "ada").views == 1
    assert verify(fresh_topics, store).shown == []


def test_a_shadow_store_is_held_to_the_events_that_were_replayed_into_it(drained: str, clean_redis: str, store: OnlineStore) -> None:
    middle_ms = now_ms() + 1
    time.sleep(0.05)
    with EventPublisher(drained) as publisher:
        for event in islice(_regular(1_500_000_000_000), 60):
            publisher.publish(replace(event, event_id=f"again-{event.event_id}"))
    for number, (from_ms, users) in enumerate([(None, verify(drained, store).users), (middle_ms, 1)], start=1):
        shadow = open_database(clean_redis, number)
        shadow.client.flushdb()
        replay(drained, shadow, from_ms=from_ms)
        report = verify(drained, shadow, group=None)
        assert report.shown == []
        assert (report.users, report.unverifiable) == (users, 0)
        shadow.client.delete(shadow.items.key("item-1"))
        damage_json(shadow.sessions, shadow, "visit-1", spend=1.5)
        assert found(verify(drained, shadow, group=None)) == {("item-1", "_row"), ("visit-1", "_row:spend")}
        shadow.client.flushdb()


def test_rows_are_right_while_a_worker_takes_events_in(drained: str, clean_redis: str, store: OnlineStore) -> None:
    stop, ready = threading.Event(), threading.Event()
    worker = FeatureWorker(drained, OnlineStore(connect(clean_redis)))
    with ThreadPoolExecutor(2) as threads:
        working = threads.submit(worker.run, stop, ready)
        publishing = threads.submit(_publish_until, stop, drained)
        try:
            assert ready.wait(TIMEOUT_S)
            reports = [verify(drained, store) for _ in range(3)]
        finally:
            stop.set()
        working.result()
        assert publishing.result() > 0
    assert [report.shown for report in reports] == [[], [], []]
    assert reports[0].events < reports[2].events


def _publish_until(stop: threading.Event, bootstrap: str) -> int:
    published = 0
    with EventPublisher(bootstrap) as publisher:
        while not stop.is_set():
            for number in range(published, published + 20):
                # Every third event is sent three times.
                told = {"event_id": f"flow{number - number % 3}", "user_id": f"user-{number // 3 % 7}"}
                publisher.publish(Click(event_time_ms=now_ms(), item_id=f"item-{number % 5}", **told))
            published += 20
            time.sleep(0.02)
    return published
