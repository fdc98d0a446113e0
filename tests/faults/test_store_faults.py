"""The online store is emptied, loses its newest writes, or refuses them, in full flight: no event is lost, and the rows are right again."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from fleet import Feed, Fleet, drain, untidy, until, verify

from headrace.deploy.local_redis import LocalRedis
from headrace.features.online_store import POSITION_KEY, OnlineStore, connect
from headrace.schemas import Event
from headrace.streams.simulator import simulate

SEED = random.SystemRandom().randrange(1_000_000)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis for this test alone, which may be hurt."""
    server = LocalRedis(tmp_path / "redis", tmp_path / "redis.log")
    server.wait_until_ready()
    yield server
    server.stop()


def stream() -> Iterator[Event]:
    print(f"seed {SEED}")
    return untidy(simulate(SEED, shoppers=300, items=200), SEED)


def test_a_store_that_is_emptied_in_full_flight_is_whole_again(fresh_topics: str, clean_redis: str, tmp_path: Path) -> None:
    with Fleet(fresh_topics, clean_redis, tmp_path) as fleet, redis.Redis.from_url(clean_redis) as client:
        fleet.start("a", instance="")
        fleet.start("b", instance="")

        def logs() -> str:
            return fleet.log("a") + fleet.log("b")

        def noticed() -> float:
            return sum(fleet.metric(name, "headrace_feature_store_behind_total") for name in ("a", "b"))

        feed = Feed(fresh_topics, stream(), 800)
        for _ in range(2):
            time.sleep(4.0)
            until(lambda: client.exists(f"{POSITION_KEY}clicks/0") == 1, "rows are written", told=logs)
            before = noticed()
            client.flushall()
            until(lambda before=before: noticed() > before, "the loss is noticed", told=logs)
        time.sleep(2.0)
        feed.stop()
        drain(fresh_topics, told=logs)
    report = verify(fresh_topics, clean_redis, tmp_path)
    assert report["differences"] == 0, (SEED, report)


def test_an_idle_worker_notices_that_its_store_was_emptied(fresh_topics: str, clean_redis: str, tmp_path: Path) -> None:
    store = OnlineStore(connect(clean_redis))
    with Fleet(fresh_topics, clean_redis, tmp_path) as fleet:
        fleet.start("a")
        Feed(fresh_topics, simulate(SEED, shoppers=50, items=50, events=2000), 5000).join()
        drain(fresh_topics, told=lambda: fleet.log("a"))
        before = {row.shopper_id: row for row in store.scan_users()}
        store.client.flushall()
        until(lambda: {row.shopper_id: row for row in store.scan_users()} == before, "the rows are back", 30.0, lambda: fleet.log("a"))


def test_a_store_that_was_killed_and_lost_the_end_of_its_log_is_made_whole(
    fresh_topics: str, own_redis: LocalRedis, tmp_path: Path
) -> None:
    server = own_redis
    with Fleet(fresh_topics, server.url, tmp_path) as fleet:
        fleet.start("a")
        feed = Feed(fresh_topics, stream(), 800)
        time.sleep(4.0)
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        [log] = [path for path in (tmp_path / "redis").rglob("*.aof") if "base" not in path.name]
        whole = log.stat().st_size
        os.truncate(log, whole - min(whole // 4, 2_000_000))
        again = LocalRedis(tmp_path / "redis", tmp_path / "redis-2.log")
        try:
            again.wait_until_ready()
            assert again.url == server.url
            time.sleep(3.0)
            feed.stop()
            drain(fresh_topics, told=lambda: fleet.log("a"))
            assert fleet.workers["a"].poll() is None
            assert fleet.metric("a", "headrace_feature_store_behind_total") >= 1
            report = verify(fresh_topics, again.url, tmp_path)
        finally:
            again.stop()
    assert report["differences"] == 0, (SEED, report)


def test_a_full_store_holds_the_stream_up_and_loses_nothing(fresh_topics: str, own_redis: LocalRedis, tmp_path: Path) -> None:
    with Fleet(fresh_topics, own_redis.url, tmp_path) as fleet, redis.Redis.from_url(own_redis.url) as client:
        fleet.start("a")
        feed = Feed(fresh_topics, stream(), 800)
        time.sleep(3.0)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", str(client.info("memory")["used_memory"]))
        until(lambda: not fleet.is_ready("a"), "the worker says that it cannot store", 20.0, lambda: fleet.log("a"))
        assert fleet.metric("a", "headrace_feature_store_down") == 1
        # What is there can still be read.
        assert next(OnlineStore(connect(own_redis.url)).scan_users()).steps > 0
        time.sleep(2.0)
        client.config_set("maxmemory", "0")
        until(lambda: fleet.is_ready("a"), "the worker stores again", 20.0, lambda: fleet.log("a"))
        feed.stop()
        drain(fresh_topics, told=lambda: fleet.log("a"))
        assert fleet.workers["a"].poll() is None
        report = verify(fresh_topics, own_redis.url, tmp_path)
    assert report["differences"] == 0, (SEED, report)
