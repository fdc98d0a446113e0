"""What the simulated shop sells, what its shoppers like, and how a visit leads from item to item."""

import math
import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

HOUR_MS = 3_600_000
FOLLOW, RETURN, WANDER = 0.62, 0.12, 0.14
MOVED = 0.85
OWN_LIMIT = 20
COLOURS = ("red", "blue", "black", "white", "green", "grey", "yellow", "brown")
# Each with its usual price and the hour at which it is looked at most.
CATEGORIES = (
    ("running-shoes", 90, 7), ("rain-jackets", 120, 8), ("coffee-beans", 14, 9), ("desk-lamps", 45, 20), ("backpacks", 70, 12),
    ("headphones", 150, 21), ("yoga-mats", 30, 18), ("novels", 12, 22), ("board-games", 35, 19), ("tents", 240, 17),
    ("frying-pans", 40, 16), ("garden-chairs", 60, 13), ("bicycles", 700, 15), ("wool-socks", 11, 10), ("watches", 180, 14),
    ("sunglasses", 80, 11), ("tea-pots", 28, 15), ("keyboards", 95, 23), ("suitcases", 130, 20), ("towels", 18, 9),
)  # fmt: skip
_LIKES = (0.62, 0.26, 0.12)


class Shop:
    """Items in categories. In each category a ring tells which item is looked at after which, once before and once after the change."""

    def __init__(self, draw: random.Random, items: int) -> None:
        count = max(2, min(len(CATEGORIES), items // 25))
        self.categories = [name for name, _, _ in CATEGORIES[:count]]
        self.category_of = [number % count for number in range(items)]
        self.names = [_name(number, self.categories[number % count], number // count) for number in range(items)]
        self.prices = [round(max(0.5, CATEGORIES[number % count][1] * math.exp(0.4 * draw.gauss(0.0, 1.0))), 2) for number in range(items)]
        self.shelves = [list(range(category, items, count)) for category in range(count)]
        self.changed = False
        self.worlds = [_World(draw, self.shelves), _World(draw, self.shelves)]
        self._season: dict[int, list[float]] = {}

    def change_taste(self, draw: random.Random, people: "Sequence[Shopper]") -> None:
        """Give most shoppers other liked categories and the other rings."""
        self.changed = True
        for shopper in people:
            if draw.random() < MOVED:
                shopper.world = 1
                shopper.likes = other_likes(draw, len(self.categories), shopper.likes)
                shopper.own.clear()

    def add_world(self, draw: random.Random) -> int:
        """Draw one more set of rings and of what is popular; return its number, for `Shopper.world`."""
        self.worlds.append(_World(draw, self.shelves))
        return len(self.worlds) - 1

    def in_season(self, time_ms: int) -> list[float]:
        """Return each category's weight at the hour: seven times as much at its own hour as twelve hours away."""
        hour = time_ms // HOUR_MS % 24
        if hour not in self._season:
            hours = (peak for _, _, peak in CATEGORIES[: len(self.categories)])
            self._season[hour] = [1.0 + 0.75 * math.cos((hour - peak) * math.pi / 12) for peak in hours]
        return self._season[hour]


class Shopper:
    """A person with up to three liked categories, the most liked first, and a memory of what they looked at."""

    def __init__(self, user_id: str, shop: Shop, draw: random.Random) -> None:
        self.user_id = user_id
        self.world = 0
        self.likes = other_likes(draw, len(shop.categories), ())
        self.own: list[int] = []


class Visit:
    """One walk through the shop. `item` is what was looked at last."""

    def __init__(self, shop: Shop, shopper: Shopper) -> None:
        self.item: int | None = None
        self._shop = shop
        self._shopper = shopper

    def next_item(self, draw: random.Random, time_ms: int) -> int:
        """Return the next item: mostly what follows in its ring, sometimes one's own, another of the shelf, or another category."""
        shop, shopper = self._shop, self._shopper
        world = shop.worlds[shopper.world]
        chance = draw.random()
        if self.item is not None and chance < FOLLOW:
            item = world.follows[self.item]
        elif shopper.own and chance < FOLLOW + RETURN:
            item = draw.choice(shopper.own)
        elif self.item is not None and chance < FOLLOW + RETURN + WANDER:
            item = world.popular(draw, shop.category_of[self.item])
        else:
            item = world.popular(draw, self._liked(draw, time_ms))
        own = shopper.own
        if item not in own:
            own.append(item)
            if len(own) > OWN_LIMIT:
                del own[:-OWN_LIMIT]
        self.item = item
        return item

    def _liked(self, draw: random.Random, time_ms: int) -> int:
        season = self._shop.in_season(time_ms)
        likes = self._shopper.likes
        return draw.choices(likes, [like * season[category] for like, category in zip(_LIKES, likes, strict=False)])[0]


class _World:
    def __init__(self, draw: random.Random, shelves: list[list[int]]) -> None:
        self.follows: dict[int, int] = {}
        self._rings: list[list[int]] = []
        self._cumulated: list[list[float]] = []
        for shelf in shelves:
            ring = draw.sample(shelf, len(shelf))
            self.follows.update(zip(ring, ring[1:] + ring[:1], strict=True))
            # Where one enters the ring follows Zipf's law; popular items lie anywhere on it.
            self._rings.append(draw.sample(ring, len(ring)))
            self._cumulated.append(list(accumulate(rank**-1.3 for rank in range(1, len(ring) + 1))))

    def popular(self, draw: random.Random, category: int) -> int:
        cumulated = self._cumulated[category]
        return self._rings[category][bisect(cumulated, draw.random() * cumulated[-1])]


def intensity(time_ms: int) -> float:
    """Return how busy the shop is, 1 on average over a day: evenings most, nights least, weekends a quarter more."""
    hour = time_ms / HOUR_MS % 24
    # 1970-01-01 was a Thursday.
    weekend = (time_ms // (24 * HOUR_MS) + 3) % 7 >= 5
    return (1.0 + 0.7 * math.cos((hour - 20) * math.pi / 12)) * (1.25 if weekend else 1.0)


def _name(number: int, category: str, place: int) -> str:
    return f"{category}-{COLOURS[place % len(COLOURS)]}-{place // len(COLOURS):02d}"


def other_likes(draw: random.Random, categories: int, likes: Sequence[int]) -> list[int]:
    """Return three liked categories, none of the former first two where there are enough."""
    candidates = [category for category in range(categories) if category not in likes[:2]]
    return draw.sample(candidates, min(3, len(candidates))) if candidates else list(likes)
