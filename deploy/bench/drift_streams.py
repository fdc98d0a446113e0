"""Streams of a shop in which drift is planted, at known places, or none is: the simulator's shop, changed while it runs."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headrace.schemas.events import Click, shopper_id
from headrace.streams.shop_floor import Shop, Shopper, other_likes
from headrace.streams.simulator import simulate

PlantedKind = Literal["none", "abrupt", "gradual", "recurring", "feature_shift", "many"]
Feature = Literal["price", "gap", "history_length"]
FEATURES: tuple[Feature, ...] = ("price", "gap", "history_length")
KINDS = ("view", "cart", "purchase")

EVENTS_PER_DAY = 5_000
DAY_MS = 86_400_000
TAUGHT_DAYS = 14
CHANGED_SHARE = 0.2
GRADUAL_EVENTS = 20_000
WEEKEND_PRICE = -0.05
SHIFT = 0.5


@dataclass(frozen=True)
class Plan:
    """What is planted: `kind`, at the numbers of events `places`, in a stream of `events`; `feature` is the one that shifts.

    abrupt, gradual: a fifth of the shoppers get other liked categories and other rings of items, at once or within 20,000 events.
    recurring: they do, then return to what they liked, then to the other again, and so on. feature_shift: a feature's mean moves by
    half its standard deviation. many: in turn a change of taste, price up, gap up, price down, gap down, and again.
    """

    kind: PlantedKind
    events: int
    places: tuple[int, ...] = ()
    share: float = CHANGED_SHARE
    feature: Feature = "price"


@dataclass(frozen=True)
class Columns:
    """A stream step by step, arrays of (steps,). Items, categories, shoppers are numbers; prices are those of single items.

    `last` is the shopper's item before, -1 where there is none. `event` is the number of the event that a step belongs to: an
    order with three lines makes three steps.
    """

    times_ms: NDArray[np.int64]
    event: NDArray[np.int64]
    item: NDArray[np.int64]
    last: NDArray[np.int64]
    category: NDArray[np.int64]
    kind: NDArray[np.int64]
    shopper: NDArray[np.int64]
    price: NDArray[np.float64]
    categories: tuple[str, ...]


def planted_stream(
    seed: int, plan: Plan, *, shoppers: int = 2_000, items: int = 1_000, tell: Callable[[int], None] = lambda _: None
) -> Columns:
    """Return a stream of the simulator's shop with hours and weekdays, about 5,000 events a day, in which `plan` is carried out.

    At weekends all prices are 5% lower, beside what the simulator's hours and weekdays do to intensity and categories.
    """
    numbers: dict[str, dict[str, int]] = {"item": {}, "category": {}, "shopper": {}}
    rows: list[tuple[int, int, int, int, int, int, float]] = []
    planting = _Planting(plan)
    stream = simulate(
        seed,
        shoppers=shoppers,
        items=items,
        events=plan.events,
        events_per_s=EVENTS_PER_DAY / 86_400,
        before=planting if plan.kind != "none" and plan.kind != "feature_shift" else None,
    )
    category_of: dict[str, str] = {}
    for number, event in enumerate(stream):
        if number % 20_000 == 0:
            tell(number)
        shopper = _number(numbers["shopper"], shopper_id(event))
        if isinstance(event, Click):
            category = category_of[event.item_id] = event.category or ""
            rows.append(
                (
                    event.event_time_ms,
                    number,
                    _number(numbers["item"], event.item_id),
                    _number(numbers["category"], category),
                    0 if event.action == "view" else 1,
                    shopper,
                    event.price or 0.0,
                )
            )
        else:
            for line in event.lines:
                category = category_of[line.item_id]
                item = _number(numbers["item"], line.item_id)
                rows.append((event.event_time_ms, number, item, _number(numbers["category"], category), 2, shopper, line.unit_price or 0.0))
    times, event_of, item_of, category_numbers, kind, shopper_of, price = (np.array(column) for column in zip(*rows, strict=True))
    weekend = (times // DAY_MS + 3) % 7 >= 5
    price = price * np.exp(WEEKEND_PRICE * weekend)
    columns = Columns(
        times, event_of, item_of, _items_before(shopper_of, item_of), category_numbers, kind, shopper_of, price, tuple(numbers["category"])
    )
    return columns if plan.kind in ("none", "abrupt", "gradual", "recurring") else _shifted(columns, plan)


def _items_before(shoppers: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(shoppers, kind="stable")
    before = np.empty_like(items)
    before[order[1:]] = np.where(shoppers[order[1:]] == shoppers[order[:-1]], items[order[:-1]], -1)
    before[order[0]] = -1
    return before


def _number(known: dict[str, int], name: str) -> int:
    return known.setdefault(name, len(known))


def shifts(plan: Plan, feature: Feature, events: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return by how many standard deviations a feature is moved at each of these events, (n,): up, but histories get shorter."""
    if plan.kind == "feature_shift":
        shift = -SHIFT if feature == "history_length" else SHIFT
        return np.where((events >= plan.places[0]) & (feature == plan.feature), shift, 0.0)
    moved: NDArray[np.float64] = np.zeros(len(events))
    if plan.kind == "many" and feature in ("price", "gap"):
        for number, place in enumerate(plan.places):
            for turn, sign in ((1, 1.0), (3, -1.0)) if feature == "price" else ((2, 1.0), (4, -1.0)):
                moved += sign * SHIFT * (events >= place) * (number % 5 == turn)
    return moved


def _shifted(columns: Columns, plan: Plan) -> Columns:
    """Return the columns with prices whose logarithm's mean moves as planned."""
    told = np.log1p(columns.price)
    return replace(columns, price=np.expm1(told + shifts(plan, "price", columns.event) * told.std()))


def planting(plan: Plan) -> Callable[[int, random.Random, Shop, Sequence[Shopper]], None]:
    """Return what carries out a plan of changes of taste, called before each event as `simulate` does."""
    return _Planting(plan)


class _Planting:
    """Changes the shop's shoppers at the places of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # Of many drifts each fifth is a change of taste.
        self._places = list(plan.places[::5] if plan.kind == "many" else plan.places)
        self._gradual: list[tuple[int, Shopper, int, list[int]]] = []
        self._former: list[tuple[Shopper, int, list[int]]] = []

    def __call__(self, number: int, draw: random.Random, shop: Shop, people: Sequence[Shopper]) -> None:
        while self._gradual and self._gradual[-1][0] <= number:
            _, shopper, world, likes = self._gradual.pop()
            _move(shopper, world, likes)
        if not self._places or number < self._places[0]:
            return
        place = self._places.pop(0)
        if self._plan.kind == "recurring" and self._former:
            # Those who have changed go back to what they liked before, or again to what they liked in between.
            now = [(shopper, shopper.world, shopper.likes) for shopper, _, _ in self._former]
            for shopper, world, likes in self._former:
                _move(shopper, world, likes)
            self._former = now
            return
        changed = [shopper for shopper in people if draw.random() < self._plan.share]
        world = shop.add_world(draw)
        drawn = [(shopper, other_likes(draw, len(shop.categories), shopper.likes)) for shopper in changed]
        if self._plan.kind == "gradual":
            self._gradual = sorted(
                ((place + draw.randrange(GRADUAL_EVENTS), shopper, world, likes) for shopper, likes in drawn), key=lambda each: -each[0]
            )
            return
        self._former = [(shopper, shopper.world, shopper.likes) for shopper in changed]
        for shopper, likes in drawn:
            _move(shopper, world, likes)


def _move(shopper: Shopper, world: int, likes: list[int]) -> None:
    shopper.world, shopper.likes = world, likes
    shopper.own.clear()
