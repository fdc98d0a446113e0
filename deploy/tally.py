"""Counting what went in, to compare it with what the features say: no event lost, none counted twice."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from headrace.features.item_row import changes_of
from headrace.features.place import Place
from headrace.features.user_row import entries_of
from headrace.schemas import Click, Event, ItemRow, UserRow, shopper_id

K = TypeVar("K")

NOWHERE = Place("clicks/0", 0, 0)


@dataclass
class Tally:
    """Events by shopper and kind, item touches by item and kind, and each shopper's steps."""

    shoppers: Counter[tuple[str, str]] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    items: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, event: Event) -> None:
        """Count an event."""
        shopper = shopper_id(event)
        self.shoppers[shopper, event.action if isinstance(event, Click) else "purchase"] += 1
        self.steps[shopper] += len(entries_of(event))
        for change in changes_of(event, NOWHERE):
            self.items[change.item_id, change.kind] += 1
            if change.kind == "purchase":
                self.items[change.item_id, "units"] += change.quantity

    def events(self, kind: str | None = None) -> int:
        """Return how many events there are, of one kind where it is given."""
        return sum(count for (_, found), count in self.shoppers.items() if kind in (None, found))

    def add_rows(self, users: Iterable[UserRow | None], items: Iterable[ItemRow | None]) -> None:
        """Count what rows say."""
        for user in users:
            if user is not None:
                for kind, count in (("view", user.views), ("cart", user.carts), ("purchase", user.purchases)):
                    self.shoppers[user.shopper_id, kind] += count
                self.steps[user.shopper_id] += user.steps
        for item in items:
            if item is not None:
                for kind, count in (("view", item.views), ("cart", item.carts), ("purchase", item.purchases), ("units", item.units)):
                    self.items[item.item_id, kind] += count


@dataclass(frozen=True)
class Difference:
    """What is missing and what is too much, of events by shopper and of touches by item."""

    lost: int
    double: int
    item_touches_lost: int
    item_touches_double: int


def difference(published: Tally, before: Tally, after: Tally) -> Difference:
    """Compare what was published with what the rows have gained, shopper by shopper, kind by kind and item by item."""
    lost, double = _compare(published.shoppers, before.shoppers, after.shoppers)
    steps_lost, steps_double = _compare(published.steps, before.steps, after.steps)
    item_lost, item_double = _compare(published.items, before.items, after.items)
    # Where a row's counters and its history disagree, the worse of the two is told.
    return Difference(max(lost, steps_lost), max(double, steps_double), item_lost, item_double)


def _compare(published: Mapping[K, int], before: Mapping[K, int], after: Mapping[K, int]) -> tuple[int, int]:
    gained = {key: after.get(key, 0) - before.get(key, 0) for key in {*published, *after}}
    lost = sum(max(0, published.get(key, 0) - count) for key, count in gained.items())
    double = sum(max(0, count - published.get(key, 0)) for key, count in gained.items())
    return lost, double
