"""The simulated shop: the same each time, like a shop, learnable, and changed at once where told."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice, pairwise

import pytest

from headrace.schemas import Click, Event, Purchase
from headrace.streams.outgoing import outgoing
from headrace.streams.shop_floor import HOUR_MS, intensity
from headrace.streams.simulator import DEFAULT_START_MS, simulate


def next_item_loss(events: Iterable[Event], bucket: int) -> list[float]:
    """Mean surprise, in nats, of a first-order Markov model that is tested before it learns, for each `bucket` of events."""
    follows: dict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str | None, str] = {}
    losses: list[list[float]] = []
    for number, event in enumerate(events):
        if number % bucket == 0:
            losses.append([])
        if not isinstance(event, Click) or event.action != "view":
            continue
        if (before := last.get(event.session_id)) is not None:
            seen = follows[before]
            losses[-1].append(-math.log((seen[event.item_id] + 0.01) / (seen.total() + 0.01 * 300)))
            seen[event.item_id] += 1
        last[event.session_id] = event.item_id
    return [sum(part) / len(part) for part in losses]


def test_the_same_seed_gives_the_same_events_and_another_seed_others() -> None:
    assert list(simulate(1, events=3000, drift_at=1000)) == list(simulate(1, events=3000, drift_at=1000))
    assert list(simulate(1, events=100)) != list(simulate(2, events=100))


def test_a_longer_run_begins_like_a_shorter_one_and_the_change_alters_nothing_before_it() -> None:
    short = list(simulate(3, events=2000))
    assert list(islice(simulate(3), 2000)) == short
    assert list(simulate(3, events=2000, drift_at=1500))[:1500] == short[:1500]


def test_every_event_is_fit_to_be_published_in_order_of_time_with_ids_of_its_own() -> None:
    events = list(simulate(4, shoppers=200, items=300, events=5000))
    for event in events:
        outgoing(event, "simulator", events[-1].event_time_ms)
    assert all(first.event_time_ms <= second.event_time_ms for first, second in pairwise(events))
    assert events[0].event_time_ms == DEFAULT_START_MS
    assert len({event.event_id for event in events}) == 5000


def test_nothing_is_later_than_until() -> None:
    until_ms = DEFAULT_START_MS + HOUR_MS
    events = list(simulate(5, until_ms=until_ms))
    assert until_ms - 60_000 < events[-1].event_time_ms <= until_ms
    assert 2_000 < len(events) < 14_000


def test_it_looks_like_a_shop() -> None:
    events = list(simulate(6, events=40_000))
    kinds = Counter(event.action if isinstance(event, Click) else "purchase" for event in events)
    assert kinds["view"] > 5 * kinds["cart"] > 10 * kinds["purchase"] > 0
    guests = sum(event.user_id is None for event in events) / len(events)
    assert 0.2 < guests < 0.4
    views = Counter(event.item_id for event in events if isinstance(event, Click))
    assert sum(count for _, count in views.most_common(100)) > 0.3 * views.total(), "few items get many of the views"
    for event in events:
        if isinstance(event, Click):
            assert event.price is not None
            assert event.category is not None
            assert event.item_id.startswith(event.category)


def test_what_is_bought_was_put_into_the_cart_in_that_session_before() -> None:
    carts: dict[str | None, list[str]] = defaultdict(list)
    purchases = 0
    for event in simulate(7, events=20_000):
        if isinstance(event, Purchase):
            purchases += 1
            assert Counter({line.item_id: line.quantity for line in event.lines}) == Counter(carts[event.session_id])
            assert event.total == pytest.approx(sum(line.quantity * (line.unit_price or 0) for line in event.lines), abs=0.01)
        elif event.action == "cart":
            carts[event.session_id].append(event.item_id)
    assert purchases > 100


def test_a_model_of_what_follows_what_learns_and_its_loss_jumps_when_taste_changes() -> None:
    steady = next_item_loss(simulate(8, shoppers=500, items=300, events=40_000), 4_000)
    changed = next_item_loss(simulate(8, shoppers=500, items=300, events=40_000, drift_at=24_000), 4_000)
    assert steady[5] < steady[0] - 0.5, "it can be learned"
    assert changed[:6] == steady[:6]
    assert changed[6] > steady[6] + 1.0, "the change is felt at once"
    assert changed[9] < changed[6] - 0.3, "and can be learned again"


def test_evenings_and_weekends_are_busier() -> None:
    monday, saturday = DEFAULT_START_MS, DEFAULT_START_MS + 5 * 24 * HOUR_MS
    assert intensity(monday + 20 * HOUR_MS) > 3 * intensity(monday + 8 * HOUR_MS)
    assert intensity(saturday + 20 * HOUR_MS) == pytest.approx(1.25 * intensity(monday + 20 * HOUR_MS))
    assert sum(intensity(monday + hour * HOUR_MS) for hour in range(24)) / 24 == pytest.approx(1.0)


def test_the_hour_shifts_what_is_looked_at() -> None:
    events = [event for event in simulate(9, items=300, events=200_000, events_per_s=1.0) if isinstance(event, Click)]
    share = {}
    for hours in (range(6, 9), range(18, 21)):
        seen = [event.category for event in events if event.event_time_ms // HOUR_MS % 24 in hours]
        share[hours.start] = seen.count("running-shoes") / len(seen)
    assert share[6] > 1.2 * share[18]


def test_a_shop_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="10 items"):
        next(simulate(1, items=3))
