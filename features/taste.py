"""What a shopper's last steps tell: a taste for categories and prices, and the visit that is under way. Pure functions of the history."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from headrace.features.windows import DAY_MS, MINUTE_MS, decay
from headrace.schemas import HistoryEntry

HALF_LIFE_MS = 7 * DAY_MS
KIND_WEIGHTS = {"view": 1.0, "cart": 3.0, "purchase": 5.0}
STAGES = {"view": 0, "cart": 1, "purchase": 2}
PAUSE_MS = 30 * MINUTE_MS


class Taste(NamedTuple):
    """`shares` holds what part of the steps' weight falls on each category, in sum 1. Without a step that told a price, `price`
    (the weighted mean) and `spread` (the weighted standard deviation) are None."""

    shares: dict[str, float]
    price: float | None
    spread: float | None


class Visit(NamedTuple):
    """The steps since the last pause: from the first to the last in seconds, how many, seconds from one moment to the next on
    average (None of a single moment), and the furthest stage, as 0 for views only, 1 with a cart, 2 with a purchase."""

    length_s: float
    steps: int
    mean_dwell_s: float | None
    stage: int | None


NO_VISIT = Visit(0.0, 0, None, None)


def taste_of(history: Sequence[HistoryEntry]) -> Taste:
    """Return the taste that these steps show, each weighted by its kind and halved for every 7 days before the newest.

    All weights fade alike, so the taste does not depend on the time of asking. The lines of an order tell no category: they count
    for the one that another step with the same item has told.
    """
    if not history:
        return Taste({}, None, None)
    newest_ms = history[-1].time_ms
    told = {entry.item_id: entry.category for entry in history if entry.category}
    weights: dict[str, float] = {}
    prices: list[tuple[float, float]] = []
    for entry in history:
        weight = KIND_WEIGHTS[entry.kind] * decay(newest_ms - entry.time_ms, HALF_LIFE_MS)
        category = entry.category or told.get(entry.item_id)
        if category:
            weights[category] = weights.get(category, 0.0) + weight
        if entry.price is not None:
            prices.append((weight, entry.price))
    return Taste(_normalised(weights), *_mean_and_spread(prices))


def visit_of(history: Sequence[HistoryEntry], at_ms: int) -> Visit:
    """Return the visit under way at `at_ms`: the steps after the last pause of more than 30 minutes, none where one is going on."""
    if not history or at_ms - history[-1].time_ms > PAUSE_MS:
        return NO_VISIT
    first = len(history) - 1
    moments = 1
    while first and (gap_ms := history[first].time_ms - history[first - 1].time_ms) <= PAUSE_MS:
        moments += gap_ms > 0
        first -= 1
    steps = history[first:]
    length_s = (steps[-1].time_ms - steps[0].time_ms) / 1000
    return Visit(length_s, len(steps), length_s / (moments - 1) if moments > 1 else None, max(STAGES[entry.kind] for entry in steps))


def _normalised(weights: dict[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    # Where all steps with a category are years older than the newest, nothing of their weights is left.
    return {category: weight / total for category, weight in weights.items()} if total > 0 else {}


def _mean_and_spread(prices: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    total = sum(weight for weight, _ in prices)
    if total <= 0:
        return None, None
    mean = sum(weight * price for weight, price in prices) / total
    return mean, math.sqrt(sum(weight * (price - mean) ** 2 for weight, price in prices) / total)
