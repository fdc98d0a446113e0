"""Reading metrics: restarts, labels and quantiles."""

import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from headrace.deploy.monitor import HitRate, Moment, hit_rate
from headrace.deploy.scrape import Readings, quantile
from headrace.streams.metrics import LATENCY_BUCKETS, MetricsServer


def shown(clicks: int, purchases: int, latencies_s: list[float]) -> str:
    registry = CollectorRegistry()
    counter = Counter("headrace_events", "Events", ["topic"], registry=registry)
    counter.labels("clicks").inc(clicks)
    counter.labels("purchases").inc(purchases)
    histogram = Histogram("headrace_wait_seconds", "Wait", buckets=LATENCY_BUCKETS, registry=registry)
    for latency_s in latencies_s:
        histogram.observe(latency_s)
    return generate_latest(registry).decode()


def test_counters_go_on_where_a_part_was_started_again() -> None:
    readings = Readings()
    readings.take("worker", 0, shown(10, 1, []))
    readings.take("worker", 0, shown(20, 2, []))
    readings.take("worker", 1, shown(5, 0, []))
    # The second life may count further than the first did: the number alone would not tell.
    readings.take("worker", 1, shown(30, 4, []))
    readings.take("other", 0, shown(100, 0, []))
    assert readings.total("headrace_events_total", "worker", topic="clicks") == 50
    assert readings.total("headrace_events_total", "worker") == 56
    assert readings.total("headrace_events_total") == 156


def test_quantiles_over_both_lives_are_right_to_a_bucket() -> None:
    draw = random.Random(1)
    first, second = ([draw.expovariate(50) for _ in range(2000)] for _ in range(2))
    readings = Readings()
    readings.take("worker", 0, shown(0, 0, first))
    readings.take("worker", 1, shown(0, 0, second))
    exact = sorted([*first, *second])
    for share in (0.5, 0.9, 0.99):
        assert readings.quantile("headrace_wait_seconds", share) == pytest.approx(exact[int(share * len(exact))], rel=0.2)


def test_a_quantile_of_nothing_is_nothing_and_one_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0.0, float("inf"): 0.0}, 0.5) is None
    assert quantile({1.0: 1.0, float("inf"): 100.0}, 0.99) == 1.0


def test_the_hit_rate_is_that_of_the_last_third() -> None:
    moments = [Moment(0, 0, 0, 0, 0), Moment(1, 200, 100, 0, 50), Moment(2, 300, 150, 40, 55)]
    assert hit_rate(moments) == HitRate(40 / 50, 5 / 50, 50)
    assert hit_rate([]) == HitRate(None, None, 0)


def test_a_parts_own_server_shows_what_is_scraped() -> None:
    from headrace.deploy.scrape import scrape

    server = MetricsServer("test", "127.0.0.1", 0)
    text = scrape(server.port)
    assert text is not None
    assert "headrace_feature_events" in text
    assert scrape(1) is None
