"""What a cheap model that learns step by step makes of a stream, and the features of its steps: the signals for `headrace bench drift`.

The model is a co-visitation memory beside the shopper's own steps, the category and what is popular, mixed by weights that are learned
online: the same parts as `online_model/ranker.py`, without candidates beyond them and without the Transformer, at some microseconds a step.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.deploy.bench.drift_streams import KINDS, Columns, Feature, Plan, shifts
from headrace.online_model.compiled import compiled
from headrace.online_model.watching.signals import EVENT_SIGNALS, LASTING_STEPS, RECENT_STEPS, Batch

FOLLOWERS = 32
HALF_LIFE = 100_000.0
POPULAR_HALF_LIFE = 50_000.0
PARTS = 4
RATE = 0.01
HITS = 20
LONGEST_HISTORY = 50
FLOOR = 1e-5
# The decayed count of all events, once there were many.
EVER = POPULAR_HALF_LIFE * 1.4427
_LOSS, _HIT, _LASTING, _PRICE, _GAP, _LENGTH, _NEW_CATEGORY, _REPEATED, _NEW_ITEM, _NEW_SHOPPER = range(len(EVENT_SIGNALS))


def signals_of(columns: Columns, plan: Plan) -> NDArray[np.float64]:
    """Return the signals of each step, (steps, signals) in the order of `EVENT_SIGNALS`, tested before they are learned.

    A feature that shifts moves by half its standard deviation here, where it does not in the stream itself.
    """
    out = np.full((len(columns.times_ms), len(EVENT_SIGNALS)), np.nan)
    items, shoppers, categories = (int(numbers.max()) + 1 for numbers in (columns.item, columns.shopper, columns.category))
    category = np.zeros(items, np.int64)
    category[columns.item] = columns.category
    shop = _Shop(
        category=category,
        seen=np.zeros(items, np.bool_),
        followers=np.full((items, FOLLOWERS), -1, np.int64),
        strength=np.zeros((items, FOLLOWERS)),
        as_of=np.zeros(items),
        heat=np.zeros((2, max(items, categories))),
        weights=np.full(PARTS, 1.0 / PARTS),
        chances=np.zeros(PARTS),
        scores=np.zeros(items),
    )
    people = _People(
        recent=np.full((shoppers, RECENT_STEPS), -1, np.int64),
        steps=np.zeros(shoppers, np.int64),
        last_ms=np.zeros(shoppers, np.int64),
        losses=np.zeros((shoppers, LASTING_STEPS)),
        surprised=np.zeros(shoppers, np.int64),
    )
    _walk(columns.times_ms, columns.item, columns.shopper, columns.price, shop, people, out)
    others: tuple[Feature, ...] = ("gap", "history_length")
    for feature in others:
        place = EVENT_SIGNALS.index(feature)
        moved = shifts(plan, feature, columns.event) * np.nanstd(out[:, place])
        if feature == "history_length":
            # In proportion, or some would be shorter than nothing.
            out[:, place] *= 1.0 + moved / np.nanmean(out[:, place])
        else:
            out[:, place] += moved
    return out


def batch_of(columns: Columns, signals: NDArray[np.float64], begin: int, end: int) -> Batch:
    """Return the steps from `begin` to before `end` as the learner would hand them over."""
    names = [columns.categories[number] for number in columns.category[begin:end]]
    kinds = [KINDS[number] for number in columns.kind[begin:end]]
    return Batch(
        columns.times_ms[begin:end],
        {name: signals[begin:end, place] for place, name in enumerate(EVENT_SIGNALS)},
        {"kind": kinds, "category": names},
        {"category": names},
        [f"{last}>{item}" for last, item in zip(columns.last[begin:end].tolist(), columns.item[begin:end].tolist(), strict=True)],
    )


class _Shop(NamedTuple):
    """What is known of items, (items, ...). Of heat the first row is that of items, the second that of categories.

    Heat grows by more and more for each event, in place of fading for all items: it counts in units of `2 ** (now / half life)`.
    """

    category: Any
    seen: Any
    followers: Any
    strength: Any
    as_of: Any
    heat: Any
    weights: Any
    chances: Any
    scores: Any


class _People(NamedTuple):
    """What is known of shoppers, (shoppers, ...)."""

    recent: Any
    steps: Any
    last_ms: Any
    losses: Any
    surprised: Any


@compiled
def _walk(times_ms: Any, item_of: Any, shopper_of: Any, price: Any, shop: Any, people: Any, out: Any) -> None:
    for now in range(len(item_of)):
        item, shopper = item_of[now], shopper_of[now]
        made, row = people.steps[shopper], out[now]
        row[_PRICE] = np.log1p(price[now])
        row[_LENGTH] = min(made, LONGEST_HISTORY)
        row[_NEW_ITEM] = 0.0 if shop.seen[item] else 1.0
        row[_NEW_SHOPPER] = 1.0 if made == 0 else 0.0
        if made > 0:
            row[_GAP] = np.log1p((times_ms[now] - people.last_ms[shopper]) / 1000.0)
            _compare(shop, people, shopper, item, row)
            last = people.recent[shopper, (made - 1) % RECENT_STEPS]
            if last != item:
                _test(shop, people, shopper, last, item, now, row)
                _strengthen(shop, last, item, 1.0, now)
                _strengthen(shop, item, last, 0.3, now)
        unit = 2.0 ** (now / POPULAR_HALF_LIFE)
        shop.heat[0, item] += unit
        shop.heat[1, shop.category[item]] += unit
        people.recent[shopper, made % RECENT_STEPS] = item
        people.steps[shopper] = made + 1
        people.last_ms[shopper] = times_ms[now]
        shop.seen[item] = True


@compiled
def _compare(shop: Any, people: Any, shopper: int, item: int, row: Any) -> None:
    """Tell whether category and item are among the shopper's newest steps."""
    row[_NEW_CATEGORY], row[_REPEATED] = 1.0, 0.0
    for place in range(min(people.steps[shopper], RECENT_STEPS)):
        other = people.recent[shopper, place]
        if shop.category[other] == shop.category[item]:
            row[_NEW_CATEGORY] = 0.0
        if other == item:
            row[_REPEATED] = 1.0


@compiled
def _test(shop: Any, people: Any, shopper: int, last: int, item: int, now: int, row: Any) -> None:
    """Tell how well the item was foreseen, and let the parts' weights learn from it (as `online_model/mixture.py` does)."""
    total = shop.strength[last].sum()
    kept = min(people.steps[shopper], RECENT_STEPS)
    own = 0
    for place in range(kept):
        own += people.recent[shopper, place] != last
    near = shop.heat[1, shop.category[last]]
    ever = EVER * 2.0 ** (now / POPULAR_HALF_LIFE)
    _gather(shop, people, shopper, last, kept, total, own, ever)
    chances, weights = shop.chances, shop.weights
    chances[0] = _followed(shop, last, item) / total if total > 0 else 0.0
    chances[1] = row[_REPEATED] / max(own, 1)
    warmth = shop.heat[0, item]
    chances[2] = warmth / near if shop.category[item] == shop.category[last] and near > 0 else 0.0
    chances[3] = warmth / ever
    joint = 0.0
    for part in range(PARTS):
        joint += weights[part] * (chances[part] + FLOOR)
    row[_LOSS] = -np.log(joint)
    better = 0
    for other in range(len(shop.scores)):
        if shop.scores[other] > shop.scores[item] and other != last:
            better += 1
    row[_HIT] = 1.0 if better < HITS else 0.0
    for part in range(PARTS):
        weights[part] += RATE * (weights[part] * (chances[part] + FLOOR) / joint - weights[part])
    if row[_REPEATED] == 0.0:
        people.losses[shopper, people.surprised[shopper] % LASTING_STEPS] = row[_LOSS]
        people.surprised[shopper] += 1
        if people.surprised[shopper] >= LASTING_STEPS:
            row[_LASTING] = people.losses[shopper].min()


@compiled
def _gather(shop: Any, people: Any, shopper: int, last: int, kept: int, total: float, own: int, ever: float) -> None:
    """Write each item's score."""
    scores, weights = shop.scores, shop.weights
    near = shop.heat[1, shop.category[last]]
    by_category = weights[2] / near if near > 0 else 0.0
    for item in range(len(scores)):
        share = weights[3] / ever
        if shop.category[item] == shop.category[last]:
            share += by_category
        scores[item] = share * shop.heat[0, item]
    for place in range(FOLLOWERS):
        follower = shop.followers[last, place]
        if follower >= 0 and total > 0:
            scores[follower] += weights[0] * shop.strength[last, place] / total
    for place in range(kept):
        other = people.recent[shopper, place]
        repeated = False
        for before in range(place):
            repeated = repeated or people.recent[shopper, before] == other
        if other != last and not repeated:
            scores[other] += weights[1] / max(own, 1)


@compiled
def _followed(shop: Any, item: int, follower: int) -> float:
    for place in range(FOLLOWERS):
        if shop.followers[item, place] == follower:
            found: float = shop.strength[item, place]
            return found
    return 0.0


@compiled
def _strengthen(shop: Any, item: int, follower: int, amount: float, now: int) -> None:
    """Add to how strongly `item` leads to `follower`; the weakest of 32 makes room for a new one."""
    followers, strengths = shop.followers[item], shop.strength[item]
    fade = 0.5 ** ((now - shop.as_of[item]) / HALF_LIFE)
    shop.as_of[item] = now
    weakest, found = 0, -1
    for place in range(FOLLOWERS):
        strengths[place] *= fade
        if followers[place] == follower:
            found = place
        if strengths[place] < strengths[weakest]:
            weakest = place
    if found < 0:
        found = weakest
        followers[found] = follower
        strengths[found] = 0.0
    strengths[found] += amount
