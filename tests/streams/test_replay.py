"""Replaying history into a shadow store, and switching over to it, on a real Kafka and a real Redis."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from row_runs import all_read, bodies, database, differences, publish, values, wait_until, work, working

from headrace.deploy.local_redis import find_redis
from headrace.deploy.processes import ChildProcess, accepts, free_port
from headrace.features.online_store import OnlineStore, RowWrite, StoreExchanged, connect
from headrace.features.shadow import NoSuchDatabase, Shadow, database_of, open_database, read_shadow, with_database, write_shadow
from headrace.schemas import Click, Event, UserRow, encode
from headrace.schemas.topics import CLICKS
from headrace.streams import kafka as clients
from headrace.streams.feature_worker import DefinitionsChanged, FeatureWorker
from headrace.streams.publisher import EventPublisher
from headrace.streams.readers import open_events
from headrace.streams.replay import ShadowInUse, replay
from headrace.streams.restore import restore
from headrace.streams.switch import NotReadyToSwitch, switch

COMMAND = [sys.executable, "-m", "headrace.deploy.cli"]
DIGINETICA = "diginetica_clicks_purchases.csv.gz"
OTHER_DEFINITIONS = "0123456789abcdef"


@pytest.fixture
def events(shop_data: Callable[[str], Path]) -> list[Event]:
    return list(islice(open_events(shop_data(DIGINETICA)), 6000))


@pytest.fixture
def live(clean_redis: str) -> OnlineStore:
    return OnlineStore(connect(clean_redis))


@pytest.fixture
def shadow(clean_redis: str) -> Iterator[OnlineStore]:
    store = database(clean_redis, 1)
    yield store
    store.client.flushdb()


@pytest.fixture
def reference(clean_redis: str) -> Iterator[OnlineStore]:
    """Another shadow, of a single run over all events."""
    store = database(clean_redis, 2)
    yield store
    store.client.flushdb()


def test_a_replay_of_all_gives_the_rows_of_the_live_store(
    fresh_topics: str, events: list[Event], live: OnlineStore, shadow: OnlineStore
) -> None:
    publish(fresh_topics, events)
    work(fresh_topics, live)
    told: list[int] = []
    done = replay(fresh_topics, shadow, progress=lambda so_far: told.append(so_far.events))
    assert (done.events, done.total, done.counted, done.refused) == (len(events), len(events), len(events), 0)
    assert told == sorted(told)
    assert told[-1] == len(events)
    ours, theirs = bodies(shadow, sessions=True), bodies(live, sessions=True)
    assert ours.keys() == theirs.keys()
    same = sum(ours[key] == theirs[key] for key in ours)
    assert same > 0.9 * len(ours), f"{same} of {len(ours)} are the same bytes"
    assert differences(values(shadow), values(live)) == []
    made = read_shadow(shadow)
    assert made is not None
    assert made.finished_ms is not None
    assert made.events == len(events)


def test_a_replay_from_the_middle_folds_only_what_was_published_since(fresh_topics: str, events: list[Event], shadow: OnlineStore) -> None:
    publish(fresh_topics, events[:500])
    time.sleep(0.01)
    middle_ms = time.time_ns() // 1_000_000
    time.sleep(0.01)
    publish(fresh_topics, events[500:800])
    later_ms = time.time_ns() // 1_000_000 + 10
    time.sleep(0.02)
    publish(fresh_topics, events[800:900])
    done = replay(fresh_topics, shadow, from_ms=middle_ms, to_ms=later_ms)
    assert done.events == 300
    rows = list(shadow.scan_users())
    assert sum(row.views + row.carts + row.purchases for row in rows) == 300
    assert min(row.seen_ms for row in rows) >= middle_ms
    assert sum(row.views + row.purchases for row in shadow.scan_items()) >= 300
    with pytest.raises(NotReadyToSwitch, match="ends at --to"):
        switch(fresh_topics, shadow, shadow, 1)


def test_events_that_were_refused_are_refused_again(fresh_topics: str, shadow: OnlineStore) -> None:
    producer = clients.producer(fresh_topics, "test")
    producer.produce(CLICKS.name, b"{nonsense", "u")
    producer.produce(CLICKS.name, None, "u")
    future_ms = time.time_ns() // 1_000_000 + 3_600_000
    producer.produce(CLICKS.name, b'{"event_id":"e","event_time_ms":%d,"item_id":"i","user_id":"u"}' % future_ms, "u")
    producer.flush()
    publish(fresh_topics, [Click(event_id="good", event_time_ms=1, item_id="i", user_id="u")])
    done = replay(fresh_topics, shadow)
    assert (done.events, done.counted, done.refused) == (4, 1, 3)


def test_a_shadow_is_made_in_an_empty_database_that_is_not_the_live_one(fresh_topics: str, clean_redis: str, shadow: OnlineStore) -> None:
    shadow.client.set("somebody", "else's")
    with pytest.raises(ShadowInUse, match="not empty"):
        replay(fresh_topics, shadow)
    assert shadow.client.get("somebody") == b"else's"
    with pytest.raises(NoSuchDatabase, match="database 0 is the live one"):
        open_database(clean_redis, 0)
    with pytest.raises(NoSuchDatabase, match="no database 99"):
        open_database(clean_redis, 99)


def test_the_commands_replay_and_switch(
    fresh_topics: str, events: list[Event], live: OnlineStore, shadow: OnlineStore, clean_redis: str, tmp_path: Path
) -> None:
    publish(fresh_topics, events[:1000])
    work(fresh_topics, live)
    before = values(live)
    shadow.client.set("somebody", "else's")
    where = ["--kafka", fresh_topics, "--redis", clean_redis, "--plain", "--json", str(tmp_path / "report.json")]

    def headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*COMMAND, *arguments, *where], capture_output=True, text=True, timeout=120, check=False)

    refused = headrace("replay", "--into", "1")
    assert refused.returncode == 1
    assert "let --yes empty it" in refused.stderr
    done = headrace("replay", "--into", "1", "--yes")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["events"] == report["counted"] == 1000
    assert "1000 events replayed into database 1" in done.stdout
    switched = headrace("features", "switch", "1")
    assert switched.returncode == 0, switched.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["before"] == report["after"]
    assert report["behind"] == 0
    assert differences(values(live), before) == []
    assert values(shadow) == before
    unusable = headrace("replay", "--from", "yesterday")
    assert unusable.returncode == 1
    assert "headrace: --from: a time such as 2026-01-31" in unusable.stderr
    assert "the value is 'yesterday'" in unusable.stderr
    backwards = headrace("replay", "--from", "2026-02-01", "--to", "2026-01-31T00:00+01:00", "--yes")
    assert "--to: a time after --from" in backwards.stderr


def test_a_switch_under_a_running_worker_loses_nothing_and_counts_nothing_twice(
    fresh_topics: str, events: list[Event], live: OnlineStore, shadow: OnlineStore, reference: OnlineStore
) -> None:
    publish(fresh_topics, events[:2000])
    with working(fresh_topics, live) as worker:
        wait_until(lambda: all_read(fresh_topics, live), "the first events are read")
        with EventPublisher(fresh_topics) as publisher:
            for number, event in enumerate(events[2000:]):
                publisher.publish(event)
                time.sleep(0.002)
                if number == 500:
                    replay(fresh_topics, shadow)
                if number in (1500, 2500, 3500):
                    # To the shadow, back to the old rows, and to the shadow again.
                    switch(fresh_topics, live, shadow, 1)
        wait_until(lambda: all_read(fresh_topics, live), "the rest is read")
        time.sleep(0.8)
        wait_until(lambda: all_read(fresh_topics, live), "the rest is read")
        assert not worker.done()
    replay(fresh_topics, reference)
    assert differences(values(live), values(reference)) == []


def test_rows_that_were_made_of_the_old_ones_are_not_written_into_the_new_ones(
    fresh_topics: str, events: list[Event], live: OnlineStore, shadow: OnlineStore
) -> None:
    publish(fresh_topics, events[:100])
    work(fresh_topics, live)
    replay(fresh_topics, shadow)
    writer = OnlineStore(live.client)
    writer.take_up()
    [row] = islice(live.scan_users(), 1)
    switch(fresh_topics, live, shadow, 1)
    # The offsets are those of the new row too, and would pass for it.
    write = RowWrite(live.users, row, UserRow(shopper_id=row.shopper_id, views=999), encode(UserRow(shopper_id=row.shopper_id, views=999)))
    with pytest.raises(StoreExchanged):
        writer.compare_and_set([write], {})
    assert live.read_users([row.shopper_id]) != [write.after]


def test_a_changed_definition_asks_for_a_replay_and_a_switch_and_runs_then(
    fresh_topics: str, events: list[Event], live: OnlineStore, shadow: OnlineStore
) -> None:
    publish(fresh_topics, events[:1000])
    with working(fresh_topics, live) as old_worker:
        wait_until(lambda: all_read(fresh_topics, live), "all is read")
        with pytest.raises(DefinitionsChanged, match=r"headrace replay --into 1, and then: headrace features switch 1"):
            FeatureWorker(fresh_topics, live, definitions=OTHER_DEFINITIONS)
        replay(fresh_topics, shadow)
        with pytest.raises(NotReadyToSwitch, match=f"this version makes {OTHER_DEFINITIONS}"):
            switch(fresh_topics, live, shadow, 1, definitions=OTHER_DEFINITIONS)
        shadow.client.flushdb()
        replay(fresh_topics, shadow, definitions=OTHER_DEFINITIONS)
        switched = switch(fresh_topics, live, shadow, 1, definitions=OTHER_DEFINITIONS)
        assert switched.definitions == OTHER_DEFINITIONS
        assert switched.definitions_before != OTHER_DEFINITIONS
        wait_until(old_worker.done, "the worker of the old definitions ends")
        assert isinstance(old_worker.exception(), DefinitionsChanged)
    rows = values(live)
    publish(fresh_topics, events[1000:1100])
    work(fresh_topics, live, definitions=OTHER_DEFINITIONS)
    assert values(live).keys() >= rows.keys()
    # A later restore brings the rows of the new definitions, and knows all of them.
    before = bodies(live)
    live.client.flushdb()
    live.take_up()
    restored = [restore(fresh_topics, live, number, definitions=OTHER_DEFINITIONS) for number in range(CLICKS.partitions)]
    assert [part.passed_over for part in restored] == [0, 0, 0, 0]
    assert bodies(live) == before


def test_rows_from_before_a_shadow_that_begins_later_do_not_come_back(
    fresh_topics: str, events: list[Event], live: OnlineStore, shadow: OnlineStore
) -> None:
    publish(fresh_topics, events[:500])
    time.sleep(0.01)
    middle_ms = time.time_ns() // 1_000_000
    publish(fresh_topics, events[500:1000])
    work(fresh_topics, live)
    users_before = {row.shopper_id for row in live.scan_users()}
    replay(fresh_topics, shadow, from_ms=middle_ms)
    switched = switch(fresh_topics, live, shadow, 1)
    rows = bodies(live)
    assert switched.users_left_behind == len(users_before - {row.shopper_id for row in live.scan_users()}) > 0
    live.client.flushdb()
    live.take_up()
    for number in range(CLICKS.partitions):
        restore(fresh_topics, live, number)
    assert bodies(live) == rows


def test_a_shadow_that_is_not_whole_or_too_far_behind_is_not_switched_to(
    fresh_topics: str, events: list[Event], live: OnlineStore, shadow: OnlineStore
) -> None:
    publish(fresh_topics, events[:300])
    work(fresh_topics, live)
    rows = bodies(live)
    with pytest.raises(NotReadyToSwitch, match="holds no shadow store; make one with: headrace replay --into 1"):
        switch(fresh_topics, live, shadow, 1)
    write_shadow(shadow, Shadow(begun_ms=1))
    with pytest.raises(NotReadyToSwitch, match="was not finished"):
        switch(fresh_topics, live, shadow, 1)
    shadow.client.flushdb()
    replay(fresh_topics, shadow)
    publish(fresh_topics, events[300:350])
    with pytest.raises(NotReadyToSwitch, match=r"50 events have come since .* --max-behind 50"):
        switch(fresh_topics, live, shadow, 1, max_behind=49)
    assert bodies(live) == rows
    assert switch(fresh_topics, live, shadow, 1, max_behind=50).behind == 50


@pytest.mark.parametrize(
    ("url", "number", "expected"),
    [
        ("redis://h:1/0", 3, "redis://h:1/3"),
        ("rediss://u:p%40@h:1", 1, "rediss://u:p%40@h:1/1"),
        ("redis://h:1?db=2&protocol=2", 3, "redis://h:1/3?protocol=2"),
        ("unix:///run/redis.sock?db=2", 1, "unix:///run/redis.sock?db=1"),
    ],
)
def test_the_number_of_a_database_is_set_in_any_url(url: str, number: int, expected: str) -> None:
    assert with_database(url, number) == expected
    assert database_of(expected) == number


def test_redis_cluster_is_told_to_have_one_database_only(tmp_path: Path) -> None:
    # The members of a cluster talk to each other 10,000 ports higher.
    port = next(port for port in iter(free_port, None) if port < 55_000)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--dir", str(tmp_path)]
    server = ChildProcess([str(find_redis()), *options], tmp_path / "redis.log")
    try:
        server.wait_until(lambda: accepts(port), "Redis", 30.0)
        with pytest.raises(NoSuchDatabase, match="this is Redis Cluster, which has one database only"):
            open_database(f"redis://127.0.0.1:{port}", 1)
    finally:
        server.stop(10.0)
