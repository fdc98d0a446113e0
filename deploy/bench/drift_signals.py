"""What a cheap model that learns step by step makes of a stream, and the features of its steps: the signals for `headrace bench drift`.

The model is a co-visitation memory beside the shopper's own steps, the category and what is popular, mixed by weights that are learned
online: the same parts as `online_model/ranker.py`, without candidates beyond them and without the Transformer, at 3 us a step.
"""

from typing import Any

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


def signals_of(columns: Columns, plan: Plan) -> NDArray[np.float64]:
    """Return the signals of each step, (steps, signals) in the order of `EVENT_SIGNALS`, tested before they are learned.

    A feature that shifts moves by half its standard deviation here, where it does not in the stream itself.
    """
    out = np.full((len(columns.times_ms), len(EVENT_SIGNALS)), np.nan)
    items, shoppers = int(columns.item.max()) + 1, int(columns.shopper.max()) + 1
    category_of = np.zeros(items, np.int64)
    category_of[columns.item] = columns.category
    _walk(
        columns.times_ms,
        columns.item,
        columns.shopper,
        columns.price,
        category_of,
        int(columns.category.max()) + 1,
        np.full((items, FOLLOWERS), -1, np.int64),
        np.zeros((items, FOLLOWERS)),
        np.zeros(items),
        np.zeros(items),
        np.zeros(items),
        np.full((shoppers, RECENT_STEPS), -1, np.int64),
        np.zeros(shoppers, np.int64),
        np.zeros(shoppers, np.int64),
        np.zeros((shoppers, LASTING_STEPS)),
        np.zeros(shoppers, np.int64),
        out,
    )
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


@compiled
def _walk(  # noqa: C901
    times_ms: Any,
    item_of: Any,
    shopper_of: Any,
    price: Any,
    category_of: Any,
    categories: int,
    followers: Any,
    strength: Any,
    as_of: Any,
    heat: Any,
    heat_as_of: Any,
    recent: Any,
    steps: Any,
    last_ms: Any,
    lasting: Any,
    foreseen: Any,
    out: Any,
) -> None:
    items = len(category_of)
    scores = np.zeros(items)
    touched = np.empty(FOLLOWERS + RECENT_STEPS + items, np.int64)
    in_category = np.zeros(categories)
    in_category_as_of = np.zeros(categories)
    seen_item = np.zeros(items, np.bool_)
    weights = np.full(PARTS, 1.0 / PARTS)
    chances = np.empty(PARTS)
    for now in range(len(item_of)):
        item, shopper = item_of[now], shopper_of[now]
        category = category_of[item]
        made = steps[shopper]
        row = out[now]
        row[3] = np.log1p(price[now])
        row[5] = min(made, LONGEST_HISTORY)
        row[8] = 0.0 if seen_item[item] else 1.0
        row[9] = 1.0 if made == 0 else 0.0
        last = -1
        if made > 0:
            kept = min(made, RECENT_STEPS)
            last = recent[shopper, (made - 1) % RECENT_STEPS]
            row[4] = np.log1p((times_ms[now] - last_ms[shopper]) / 1000.0)
            row[6], row[7] = 1.0, 0.0
            for place in range(kept):
                other = recent[shopper, place]
                if category_of[other] == category:
                    row[6] = 0.0
                if other == item:
                    row[7] = 1.0
            if last != item:
                # The chance that each part gives to the item that came.
                total = 0.0
                found = 0.0
                for place in range(FOLLOWERS):
                    total += strength[last, place]
                    if followers[last, place] == item:
                        found = strength[last, place]
                chances[0] = found / total if total > 0 else 0.0
                own = 0
                for place in range(kept):
                    own += recent[shopper, place] != last
                chances[1] = row[7] / max(own, 1)
                near = category_of[last]
                near_total = in_category[near] * 0.5 ** ((now - in_category_as_of[near]) / POPULAR_HALF_LIFE)
                warm = heat[item] * 0.5 ** ((now - heat_as_of[item]) / POPULAR_HALF_LIFE)
                chances[2] = warm / near_total if near == category and near_total > 0 else 0.0
                chances[3] = warm / (POPULAR_HALF_LIFE * 1.4427)
                chance = 1e-5
                for part in range(PARTS):
                    chance += weights[part] * chances[part]
                row[0] = -np.log(chance)
                if row[7] == 0.0:
                    lasting[shopper, foreseen[shopper] % LASTING_STEPS] = row[0]
                    foreseen[shopper] += 1
                    if foreseen[shopper] >= LASTING_STEPS:
                        row[2] = lasting[shopper].min()
                # How many items have a higher score than the one that came.
                count = 0
                for place in range(FOLLOWERS):
                    other = followers[last, place]
                    if other >= 0 and total > 0:
                        if scores[other] == 0.0:
                            touched[count] = other
                            count += 1
                        scores[other] += weights[0] * strength[last, place] / total
                for place in range(kept):
                    other = recent[shopper, place]
                    if other != last:
                        if scores[other] == 0.0:
                            touched[count] = other
                            count += 1
                        scores[other] += weights[1] / max(own, 1)
                target = scores[item] + weights[2] * chances[2] + weights[3] * chances[3]
                better = 0
                for other in range(items):
                    score = scores[other]
                    if score < target:
                        warmth = heat[other] * 0.5 ** ((now - heat_as_of[other]) / POPULAR_HALF_LIFE)
                        score += weights[3] * warmth / (POPULAR_HALF_LIFE * 1.4427)
                        if category_of[other] == near and near_total > 0:
                            score += weights[2] * warmth / near_total
                    if score > target and other != last:
                        better += 1
                        if better >= HITS:
                            break
                row[1] = 1.0 if better < HITS else 0.0
                for place in range(count):
                    scores[touched[place]] = 0.0
                joint = 0.0
                for part in range(PARTS):
                    joint += weights[part] * (chances[part] + 1e-5)
                for part in range(PARTS):
                    weights[part] += RATE * (weights[part] * (chances[part] + 1e-5) / joint - weights[part])
                _strengthen(followers, strength, as_of, last, item, 1.0, now)
                _strengthen(followers, strength, as_of, item, last, 0.3, now)
        heat[item] = heat[item] * 0.5 ** ((now - heat_as_of[item]) / POPULAR_HALF_LIFE) + 1.0
        heat_as_of[item] = now
        in_category[category] = in_category[category] * 0.5 ** ((now - in_category_as_of[category]) / POPULAR_HALF_LIFE) + 1.0
        in_category_as_of[category] = now
        recent[shopper, made % RECENT_STEPS] = item
        steps[shopper] = made + 1
        last_ms[shopper] = times_ms[now]
        seen_item[item] = True


@compiled
def _strengthen(followers: Any, strength: Any, as_of: Any, item: int, follower: int, amount: float, now: int) -> None:
    fade = 0.5 ** ((now - as_of[item]) / HALF_LIFE)
    as_of[item] = now
    weakest, found = 0, -1
    for place in range(FOLLOWERS):
        strength[item, place] *= fade
        if followers[item, place] == follower:
            found = place
        if strength[item, place] < strength[item, weakest]:
            weakest = place
    if found < 0:
        found = weakest
        followers[item, found] = follower
        strength[item, found] = 0.0
    strength[item, found] += amount
