"""Taking one step into the memories: compiled functions on `memory_arrays`."""

from typing import Any

import numpy as np

from headrace.online_model.compiled import compiled
from headrace.online_model.memory_arrays import FOLLOWERS, PATTERN_STEPS, RETURN_PLACES, RETURN_ROWS

REACH = 8
GAP_DECAY = 0.75
BACKWARDS = 0.5
ACROSS_VISITS = 0.3
HALF_LIFE = 400_000.0
HEAT_HALF_LIVES = (300.0, 3_000.0, 20_000.0)
RETURN_PRIOR = 12.0


@compiled
def append(log: Any, items: Any, item: int, before: int, is_new_visit: bool) -> int:
    """Add an event to the log, to its item's count and heat, and to the co-visitation of the up to 8 steps before; return its number.

    A step adds 1, 0.75, 0.75^2, ... to the strength with which the items before it lead to its item, and half as much the
    other way round; three tenths of that where a new visit lies between. Strengths halve every 400,000 events of the shop.
    """
    mask = len(log.item) - 1
    now: int = log.clock[0]
    place = now & mask
    log.clock[0] = now + 1
    if before >= 0 and before <= now - len(log.item):
        before = -1
    log.item[place] = item
    log.visit[place] = now if before < 0 or is_new_visit else log.visit[before & mask]
    log.before[place] = before
    log.after[place] = -1
    log.same_item[place] = items.newest[item]
    if before >= 0:
        log.after[before & mask] = now
    _warm(items, item, now)
    weight = 1.0
    event, gap = before, 0
    while event >= 0 and event > now - len(log.item) and gap < REACH:
        other = log.item[event & mask]
        if other != item:
            strength = weight if log.visit[event & mask] == log.visit[place] else ACROSS_VISITS * weight
            strengthen(items, other, item, strength, now)
            strengthen(items, item, other, BACKWARDS * strength, now)
        weight *= GAP_DECAY
        gap += 1
        event = log.before[event & mask]
    return now


@compiled
def _warm(items: Any, item: int, now: int) -> None:
    if items.first[item] < 0:
        items.first[item] = now
    since = now - items.newest[item]
    for number, half_life in enumerate(HEAT_HALF_LIVES):
        items.heat[item, number] = items.heat[item, number] * 0.5 ** (since / half_life) + 1.0
    items.count[item] += 1
    items.newest[item] = now


@compiled
def strengthen(items: Any, item: int, follower: int, strength: float, now: int) -> None:
    """Add to how strongly `item` leads to `follower`; the weakest of 64 makes room for a new one (Metwally et al., ICDT 2005)."""
    followers, strengths = items.followers[item], items.strength[item]
    fade = 0.5 ** ((now - items.as_of[item]) / HALF_LIFE)
    items.as_of[item] = now
    items.total[item] = items.total[item] * fade + strength
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
    strengths[found] += strength


@compiled
def pattern_rows(steps: Any, distinct: Any, out: Any) -> None:
    """Write the rows of the table of returns that belong to the last 1, 2, ... 6 steps, told by their places in the history alone.

    `steps` are items, newest first, `distinct` the same without repetition. A, B, A and C, D, C are the same pattern: 0, 1, 0.
    """
    hashed = np.int64(1469598103)
    for step in range(PATTERN_STEPS):
        letter = 15
        if step < len(steps):
            letter = 9
            for place in range(min(len(distinct), 8)):
                if distinct[place] == steps[step]:
                    letter = place
                    break
        hashed = (hashed * np.int64(1099511) + letter + 1) & np.int64(0x7FFFFFFFFFFF)
        out[step] = (hashed * np.int64(2654435) >> 7) & (RETURN_ROWS - 1)


@compiled
def return_chances(returns: Any, rows: Any, out: Any) -> None:
    """Write the chance of a step to each place of the history, 1 to 8 (8: there and beyond), and at 9 that of something new.

    Longer patterns rest on shorter ones, as in interpolated n-gram models (Witten and Bell, 1991; here with a constant prior).
    """
    out[:] = 1.0 / RETURN_PLACES
    for row in rows:
        total = 0.0
        for place in range(RETURN_PLACES):
            total += returns[row, place]
        for place in range(RETURN_PLACES):
            out[place] = (returns[row, place] + RETURN_PRIOR * out[place]) / (total + RETURN_PRIOR)


@compiled
def learn_return(returns: Any, rows: Any, place: int) -> None:
    """Take in that after these patterns the shopper went to `place` of the history, 1 to 8, or 9 for something new."""
    for row in rows:
        returns[row, min(place, RETURN_PLACES - 1)] += 1.0
        if returns[row, min(place, RETURN_PLACES - 1)] > 20_000.0:
            for other in range(RETURN_PLACES):
                returns[row, other] *= 0.5
