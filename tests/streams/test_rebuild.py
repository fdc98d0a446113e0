"""Emptying the online store and filling it again from a real Kafka."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from row_runs import all_read, bodies, differences, publish, values, work, working

from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import Click, UserRow, encode
from headrace.schemas.topics import CLICKS, USER_FEATURES
from headrace.streams import kafka as clients
from headrace.streams.readers import open_events
from headrace.streams.rebuild import WorkersRunning, members, rebuild
from headrace.streams.restore import DEFINITIONS_HEADER, restore, tail_start

COMMAND = [sys.executable, "-m", "headrace.deploy.cli", "features", "rebuild", "--plain"]
DIGINETICA = "diginetica_clicks_purchases.csv.gz"
EVENTS = 3000


@pytest.fixture
def store(clean_redis: str) -> OnlineStore:
    return OnlineStore(connect(clean_redis))


@pytest.fixture
def published(fresh_topics: str, shop_data: Callable[[str], Path]) -> str:
    publish(fresh_topics, islice(open_events(shop_data(DIGINETICA)), EVENTS))
    return fresh_topics


def test_rows_after_a_rebuild_are_those_of_before_to_the_byte(published: str, store: OnlineStore, clean_redis: str, tmp_path: Path) -> None:
    work(published, store)
    before, all_before = bodies(store), values(store)
    assert len(before) > 1000
    report = tmp_path / "report.json"
    command = [*COMMAND, "--yes", "--kafka", published, "--redis", clean_redis, "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert bodies(store) == before
    assert differences(all_before, values(store)) == []
    told = json.loads(report.read_text())
    assert told["by"] == "this command"
    assert told["before"] == told["after"]
    assert told["to_go"] == 0
    assert members(published) == 0


def test_workers_that_run_restore_the_rows_while_the_rebuild_watches(published: str, store: OnlineStore) -> None:
    work(published, store)
    before = bodies(store)
    with working(published, store) as worker:
        done = rebuild(published, store)
        assert done.by == "running workers"
        assert not worker.done()
        assert bodies(store) == before
        with pytest.raises(WorkersRunning, match=r"1 feature workers run, .* leave out --from-events"):
            rebuild(published, store, from_events=True)


def test_a_rebuild_asks_before_it_empties_the_database(published: str, store: OnlineStore, clean_redis: str) -> None:
    store.write([UserRow(shopper_id="ann")])
    command = [*COMMAND, "--kafka", published, "--redis", clean_redis]
    done = subprocess.run(command, input="n\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "which holds 1 keys" in done.stdout
    assert store.read_users(["ann"]) != [None]


def test_all_retained_events_are_read_again_where_that_is_asked_for(published: str, store: OnlineStore) -> None:
    two_days_later_ms = 2 * 24 * 3600 * 1000 + 5_000_000_000_000
    work(published, store)
    reader = clients.consumer(published, "test-tail", group="feature-worker")
    place = TopicPartition(CLICKS.name, 0)
    low, high = clients.watermarks(reader, CLICKS.name, 0)
    assert tail_start(reader, place, two_days_later_ms) == high
    assert tail_start(reader, place, two_days_later_ms, everything=True) == low
    reader.close()


def test_a_partition_without_news_is_not_restored_again_each_time(published: str, store: OnlineStore) -> None:
    two_days_later_ms = 2 * 24 * 3600 * 1000 + 5_000_000_000_000
    work(published, store)
    before = bodies(store)
    store.client.flushdb()
    with working(published, store, clock=lambda: two_days_later_ms):
        assert all_read(published, store)
    assert bodies(store) == before


def test_rows_of_other_definitions_are_not_brought_back_and_all_events_are_read_in_their_place(published: str, store: OnlineStore) -> None:
    work(published, store, definitions="0" * 16)
    before = bodies(store)
    store.client.flushdb()
    restored = [restore(published, store, number, definitions="1" * 16) for number in range(CLICKS.partitions)]
    assert [part.rows for part in restored] == [0, 0, 0, 0]
    assert sum(part.passed_over for part in restored) == len(before)
    assert store.client.dbsize() == 0
    two_days_later_ms = 2 * 24 * 3600 * 1000 + 5_000_000_000_000
    work(published, store, definitions="1" * 16, clock=lambda: two_days_later_ms)
    assert bodies(store).keys() == before.keys()


def test_rows_that_do_not_say_who_made_them_are_taken_and_deleted_ones_are_not(fresh_topics: str, store: OnlineStore) -> None:
    producer = clients.producer(fresh_topics, "test")
    old, new, gone = (UserRow(shopper_id=name, views=1, offsets={"clicks/0": 1}) for name in ("old", "new", "gone"))
    producer.produce(USER_FEATURES.name, encode(old), "old", partition=0)
    producer.produce(USER_FEATURES.name, encode(new), "new", partition=0, headers=[(DEFINITIONS_HEADER, b"ours")])
    producer.produce(USER_FEATURES.name, encode(gone), "gone", partition=0)
    producer.produce(USER_FEATURES.name, None, "gone", partition=0)
    producer.produce(USER_FEATURES.name, b"{another layout", "other", partition=0, headers=[(DEFINITIONS_HEADER, b"theirs")])
    producer.produce(USER_FEATURES.name, b"{another layout", "new", partition=0, headers=[(DEFINITIONS_HEADER, b"theirs")])
    producer.flush()
    restored = restore(fresh_topics, store, 0, definitions="ours")
    assert (restored.rows, restored.passed_over) == (2, 1)
    assert store.read_users(["old", "new", "gone", "other"]) == [old, new, None, None]


def test_a_transaction_mark_at_the_end_does_not_keep_a_rebuild_waiting(fresh_topics: str, store: OnlineStore) -> None:
    producer = clients.producer(fresh_topics, "test", **{"transactional.id": "shop", "transaction.timeout.ms": 130_000})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(CLICKS.name, encode(Click(event_id="e", event_time_ms=1_700_000_000_000, item_id="i", user_id="u")), "u")
    producer.commit_transaction()
    done = rebuild(fresh_topics, store)
    assert done.after is not None
    assert (done.after.users, done.after.items) == (1, 1)
