"""The events of a made-up shop for the benchmark: the same for every repeat and every peer, from a seed."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from headrace.schemas import Click, Event, OrderLine, Purchase
from headrace.streams.publisher import EventPublisher

ITEMS = 40_000
PURCHASES_PERCENT, CARTS_PERCENT, PRICED_PERCENT = 5, 10, 70
VISIT_EVENTS = 6
CATEGORIES = 200
TOLD_EVERY = 10_000


@dataclass(frozen=True)
class Shop:
    """What is bought and by whom: shoppers alike often, items as by Zipf's law, one visit each 6 events of a shopper.

    95% of the events are clicks, of which a tenth put an item into the cart; 5% are orders of up to three items. 70% tell a
    price, and clicks of these a category. Event times are `spacing_ms` apart, beginning at `start_ms`.
    """

    events: int
    shoppers: int
    seed: int
    start_ms: int
    spacing_ms: float
    name: str = "u"

    def __iter__(self) -> Iterator[Event]:
        rng = random.Random(self.seed)
        shares = list(accumulate(1 / rank for rank in range(1, ITEMS + 1)))
        ranks = range(ITEMS)
        steps: Counter[int] = Counter()
        for number in range(self.events):
            shopper = rng.randrange(self.shoppers)
            visit, steps[shopper] = steps[shopper] // VISIT_EVENTS, steps[shopper] + 1
            items = rng.choices(ranks, cum_weights=shares, k=1 + rng.randrange(3))
            told = rng.randrange(100) < PRICED_PERCENT
            user_id = f"{self.name}-{shopper:08}"
            common: dict[str, Any] = {
                "event_id": f"{rng.getrandbits(64):016x}",
                "event_time_ms": self.start_ms + int(number * self.spacing_ms),
                "user_id": user_id,
                "session_id": f"{user_id}-{visit}",
            }
            kind = rng.randrange(100)
            if kind < PURCHASES_PERCENT:
                lines = [OrderLine(item_id=f"item-{item:05}", unit_price=_price(item) if told else None) for item in dict.fromkeys(items)]
                yield Purchase(order_id=f"order-{number}", lines=lines, currency="EUR", **common)
            else:
                item = items[0]
                yield Click(
                    item_id=f"item-{item:05}",
                    action="cart" if kind < PURCHASES_PERCENT + CARTS_PERCENT else "view",
                    price=_price(item) if told else None,
                    category=f"category-{item % CATEGORIES}" if told else None,
                    **common,
                )


def publish(shop: Shop, bootstrap: str, tell: Callable[[str], None]) -> Counter[str]:
    """Publish all events as fast as it goes; return how many of each kind. Raises PublishError."""
    kinds: Counter[str] = Counter()
    with EventPublisher(bootstrap, source="bench") as publisher:
        for number, event in enumerate(shop):
            publisher.publish(event)
            kinds["clicks" if isinstance(event, Click) else "purchases"] += 1
            if number % TOLD_EVERY == 0:
                tell(f"publishing {number:,} of {shop.events:,} events")
    return kinds


def _price(item: int) -> float:
    return 1.0 + item * 7919 % 20_000 / 100
