"""A made-up shop whose shoppers have taste: a stream of events that a model can learn, with one sudden change of taste.

Pure: the same arguments give the same events, on any machine. Sessions arrive as a Poisson process whose intensity follows
the hour and the weekday; each walks through the shop (`shop_floor`), and they overlap as real ones do.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from headrace.schemas.events import Click, Event, OrderLine, Purchase
from headrace.streams.shop_floor import Shop, Shopper, Visit, intensity

DEFAULT_START_MS = 1_736_121_600_000
CURRENCY = "EUR"
GUESTS = 0.3
EVENTS_PER_SESSION = 7.0
CART, BUY = 0.10, 0.45
READING_S = 25.0


@dataclass
class _Session:
    session_id: str
    shopper: Shopper
    is_guest: bool
    visit: Visit
    steps_left: int
    basket: list[int] = field(default_factory=list)


def simulate(
    seed: int,
    *,
    shoppers: int = 2_000,
    items: int = 1_000,
    drift_at: int | None = None,
    events: int | None = None,
    start_ms: int = DEFAULT_START_MS,
    until_ms: int | None = None,
    events_per_s: float = 2.0,
    before: Callable[[int, random.Random, Shop, Sequence[Shopper]], None] | None = None,
) -> Iterator[Event]:
    """Yield events in the order of their times, from `start_ms` (2025-01-06T00:00Z, a Monday), about `events_per_s` of event time.

    Before the event of number `drift_at` (the first is 0) most shoppers' liked categories, and for them which item follows
    which and which are popular, are drawn anew at once. `before` is called before each event with its number, the stream's random
    source, the shop and its shoppers; what it changes there, changes what comes. The stream ends after `events` events, or before
    the first one later than `until_ms` (set it to the clock where events must not lie in the future), or never.

    Raises ValueError where a size is too small: at least 10 items and 1 shopper.
    """
    if shoppers < 1 or items < 10 or events_per_s <= 0:
        raise ValueError(f"at least 1 shopper, 10 items and a rate above 0 were expected, not {shoppers}, {items}, {events_per_s:g}")
    draw = random.Random(seed)
    shop = Shop(draw, items)
    people = [Shopper(f"shopper-{number:05d}", shop, draw) for number in range(shoppers)]
    sessions_per_ms = events_per_s / EVENTS_PER_SESSION / 1000
    # Each entry is (time, a number that settles ties, the session; None stands for the next arrival).
    agenda: list[tuple[int, int, _Session | None]] = [(start_ms, 0, None)]
    ties = itertools.count(1)
    number = 0
    while events is None or number < events:
        time_ms, _, session = heapq.heappop(agenda)
        if until_ms is not None and time_ms > until_ms:
            return
        if session is None:
            session = _arrival(draw, shop, people, next(ties))
            gap_ms = draw.expovariate(sessions_per_ms * intensity(time_ms))
            heapq.heappush(agenda, (time_ms + 1 + int(gap_ms), next(ties), None))
        if number == drift_at and not shop.changed:
            shop.change_taste(draw, people)
        if before is not None:
            before(number, draw, shop, people)
        yield _step(draw, shop, session, f"sim-{seed}-{number}", time_ms)
        number += 1
        if session.steps_left > 0 or session.basket:
            heapq.heappush(agenda, (time_ms + _reading_ms(draw), next(ties), session))


def _arrival(draw: random.Random, shop: Shop, people: list[Shopper], number: int) -> _Session:
    # The square makes some shoppers come far more often than others.
    shopper = people[int(len(people) * draw.random() ** 2)]
    steps = 1 + int(draw.expovariate(1 / (EVENTS_PER_SESSION - 1.5)))
    return _Session(f"s-{number:07d}", shopper, draw.random() < GUESTS, Visit(shop, shopper), steps)


def _step(draw: random.Random, shop: Shop, session: _Session, event_id: str, time_ms: int) -> Event:
    """Return the session's next event: a view, sometimes the viewed item put into the cart, at the end perhaps a purchase."""
    user_id = None if session.is_guest else session.shopper.user_id
    if session.steps_left <= 0:
        lines = [
            OrderLine(item_id=shop.names[item], quantity=count, unit_price=shop.prices[item])
            for item, count in ((item, session.basket.count(item)) for item in dict.fromkeys(session.basket))
        ]
        session.shopper.own += session.basket
        session.basket = []
        total = round(sum((line.unit_price or 0.0) * line.quantity for line in lines), 2)
        return Purchase(
            event_id=event_id,
            event_time_ms=time_ms,
            order_id=f"order-{event_id}",
            lines=lines,
            currency=CURRENCY,
            total=total,
            user_id=user_id,
            session_id=session.session_id,
        )
    last = session.visit.item
    to_cart = last is not None and draw.random() < CART
    item = last if last is not None and to_cart else session.visit.next_item(draw, time_ms)
    if to_cart:
        session.basket.append(item)
    session.steps_left -= 1
    if session.steps_left == 0 and session.basket and draw.random() > BUY:
        session.basket = []
    return Click(
        event_id=event_id,
        event_time_ms=time_ms,
        item_id=shop.names[item],
        user_id=user_id,
        session_id=session.session_id,
        action="cart" if to_cart else "view",
        price=shop.prices[item],
        category=shop.categories[shop.category_of[item]],
    )


def _reading_ms(draw: random.Random) -> int:
    return 1000 + int(1000 * READING_S * math.exp(0.8 * draw.gauss(0.0, 1.0)))
