"""Asking the memories what may follow a history: compiled functions on `memory_arrays` that gather candidates and their evidence."""

from typing import Any

import numpy as np

from headrace.online_model.compiled import compiled
from headrace.online_model.evidence import Column
from headrace.online_model.memory_arrays import FOLLOWERS, MOST_CANDIDATES
from headrace.online_model.memory_learning import HALF_LIFE, HEAT_HALF_LIVES

USED_ITEMS = 8
OCCURRENCES = 200
AHEAD_STEPS, BEHIND_STEPS = 6, 4
NEIGHBOURS = 200
NEIGHBOUR_AHEAD, NEIGHBOUR_BEHIND = 12, 8
NEAR_ITEMS = 60
GAP_DECAY, VOTE_DECAY, BEHIND_VOTE = 0.75, 0.7, 0.6
FRESH_HALF_LIFE = 2_000.0
VISIT_HALF_LIFE = 50_000.0

_NEXT, _AHEAD, _BEHIND, _FRESH = int(Column.NEXT), int(Column.AHEAD), int(Column.BEHIND), int(Column.FRESH)
_VOTES, _LIKEST, _ROW, _ROW_LAST = int(Column.VOTES), int(Column.LIKEST), int(Column.ROW), int(Column.ROW_LAST)
_ROW_BEST, _SUPPORT, _LIFT, _TWO_HOPS = int(Column.ROW_BEST), int(Column.SUPPORT), int(Column.LIFT), int(Column.TWO_HOPS)
_OWN_COUNT, _OWN_PLACE, _OWN_AFTER, _RETURN = int(Column.OWN_COUNT), int(Column.OWN_PLACE), int(Column.OWN_AFTER), int(Column.RETURN)
_HEAT_SHORT, _COUNT, _AGE, _SINCE = int(Column.HEAT_SHORT), int(Column.COUNT), int(Column.AGE), int(Column.SINCE)
_LOGIT = int(Column.LOGIT)


@compiled
def own_steps(log: Any, newest: int, out: Any) -> int:
    """Write the items of a shopper's steps, newest first, as far as the log and `out` reach; return how many there are."""
    mask = len(log.item) - 1
    event, steps = newest, 0
    while event >= 0 and event > log.clock[0] - 1 - len(log.item) and steps < len(out):
        out[steps] = log.item[event & mask]
        steps += 1
        event = log.before[event & mask]
    return steps


@compiled
def distinct_of(steps: Any, out: Any) -> int:
    """Write the items of `steps` (newest first) without repetition; return how many there are."""
    count = 0
    for item in steps:
        is_new = True
        for place in range(count):
            if out[place] == item:
                is_new = False
                break
        if is_new:
            out[count] = item
            count += 1
    return count


@compiled
def gather(log: Any, items: Any, room: Any, steps: Any, distinct: Any, visit: int, chances: Any, popular: Any) -> int:
    """Fill `room.candidates` and `room.evidence` for a history; return the number of candidates.

    `steps` are the items newest first, `distinct` the same without repetition, `visit` the shopper's own visit, whose events are no
    neighbours (-1: none), `chances` those of `memory_learning.return_chances`, and `popular` items that are candidates at any rate.
    """
    count = _own(room, steps, distinct)
    used = distinct[:USED_ITEMS]
    count = _walk(log, items, room, used, visit, count)
    for item in popular:
        count = _add(room, item, count)
    count = _near(log, items, room, used, count)
    _describe(log, items, room, distinct, chances, count)
    return count


@compiled
def add_candidates(log: Any, items: Any, room: Any, numbers: Any, chances: Any, count: int) -> int:
    """Add items to the candidates that `gather` found, with what is known of them alone; return the number of all."""
    first = count
    for item in numbers:
        count = _add(room, item, count)
    for row in range(first, count):
        _describe_one(log, items, room, row, chances)
    return count


@compiled
def clear(room: Any, count: int) -> None:
    """Make the room ready for the next question."""
    for row in range(count):
        room.candidate_of[room.candidates[row]] = -1


@compiled
def _add(room: Any, item: int, count: int) -> int:
    """Make the item a candidate if it is none yet and there is room; return the number of candidates."""
    if item >= 0 and room.candidate_of[item] < 0 and count < MOST_CANDIDATES:
        room.candidate_of[item] = count
        room.candidates[count] = item
        room.evidence[count, :] = 0.0
        room.evidence[count, _LOGIT] = np.nan
        return count + 1
    return count


@compiled
def _own(room: Any, steps: Any, distinct: Any) -> int:
    count = 0
    for item in distinct:
        count = _add(room, item, count)
    for place in range(len(distinct)):
        row = room.candidate_of[distinct[place]]
        if row >= 0:
            room.evidence[row, _OWN_PLACE] = place
    for step in range(len(steps)):
        row = room.candidate_of[steps[step]]
        if row >= 0:
            room.evidence[row, _OWN_COUNT] += 1.0
        if step > 0 and steps[step] == steps[0]:
            after = room.candidate_of[steps[step - 1]]
            if after >= 0:
                room.evidence[after, _OWN_AFTER] += 1.0
    return count


@compiled
def _walk(log: Any, items: Any, room: Any, used: Any, visit: int, count: int) -> int:
    """Go to the newest occurrences of each history item: what came around the newest one, and which visits are like this one."""
    mask = len(log.item) - 1
    oldest = log.clock[0] - len(log.item)
    found = np.empty(len(used) * OCCURRENCES, np.int64)
    visits = 0
    for rank in range(len(used)):
        item = used[rank]
        share = 1.0 / (min(items.count[item], OCCURRENCES) + 2.0)
        likeness = np.exp(-0.5 * rank) / (1.0 + 0.3 * np.log(1.0 + items.count[item]))
        event = items.newest[item]
        for _ in range(OCCURRENCES):
            if event < 0 or event < oldest:
                break
            other = log.visit[event & mask]
            if other != visit and other >= oldest:
                place = other & mask
                if room.likeness[place] == 0.0:
                    found[visits] = other
                    visits += 1
                    room.shared[place] = event
                    room.rank[place] = rank
                room.likeness[place] += likeness
                if rank == 0:
                    count = _around(log, room, event, item, share, count)
            event = log.same_item[event & mask]
    return _vote(log, room, found[:visits], count)


@compiled
def _along(log: Any, chain: Any, event: int, out: Any) -> int:
    """Write the items of the events that follow `event` along a chain in the same visit, at most len(out); return their number."""
    mask = len(log.item) - 1
    oldest = log.clock[0] - len(log.item)
    visit = log.visit[event & mask]
    other, steps = chain[event & mask], 0
    while other >= 0 and other >= oldest and steps < len(out) and log.visit[other & mask] == visit:
        out[steps] = log.item[other & mask]
        steps += 1
        other = chain[other & mask]
    return steps


@compiled
def _around(log: Any, room: Any, event: int, item: int, share: float, count: int) -> int:
    """Count what came after and before one occurrence of the newest item, in the same visit."""
    found = np.empty(AHEAD_STEPS, np.int32)
    fresh = 0.5 ** ((log.clock[0] - event) / FRESH_HALF_LIFE)
    gap, weight = 0, 1.0
    for candidate in found[: _along(log, log.after, event, found)]:
        if candidate != item:
            count = _add(room, candidate, count)
            row = room.candidate_of[candidate]
            if row >= 0:
                if gap == 0:
                    room.evidence[row, _NEXT] += share
                room.evidence[row, _AHEAD] += weight * share
                room.evidence[row, _FRESH] += weight * fresh
            weight *= GAP_DECAY
            gap += 1
    weight = 1.0
    for candidate in found[: _along(log, log.before, event, found[:BEHIND_STEPS])]:
        if candidate != item:
            count = _add(room, candidate, count)
            row = room.candidate_of[candidate]
            if row >= 0:
                room.evidence[row, _BEHIND] += weight * share
            weight *= GAP_DECAY
    return count


@compiled
def _vote(log: Any, room: Any, visits: Any, count: int) -> int:
    """Let the most similar visits vote for what is near the item that they share with the history (STAN; Garg et al., SIGIR 2019)."""
    mask = len(log.item) - 1
    weights = np.empty(len(visits), np.float32)
    for number in range(len(visits)):
        place = visits[number] & mask
        age = log.clock[0] - room.shared[place]
        weights[number] = room.likeness[place] * (0.3 + 0.7 * 0.5 ** (age / VISIT_HALF_LIFE))
    least = _least_of_largest(weights, NEIGHBOURS)
    found = np.empty(NEIGHBOUR_AHEAD, np.int32)
    total = 0.0
    for number in range(len(visits)):
        place = visits[number] & mask
        if weights[number] >= least:
            event, likeness = room.shared[place], room.likeness[place]
            vote = weights[number] ** 1.5 * np.exp(-0.4 * room.rank[place])
            ahead = found[: _along(log, log.after, event, found)]
            count, given = _give(room, ahead, vote, likeness, count)
            total += given
            behind = found[: _along(log, log.before, event, found[:NEIGHBOUR_BEHIND])]
            count, given = _give(room, behind, BEHIND_VOTE * vote, likeness, count)
            total += given
        room.likeness[place] = 0.0
    if total > 0.0:
        for row in range(count):
            room.evidence[row, _VOTES] /= total
    return count


@compiled
def _give(room: Any, found: Any, vote: float, likeness: float, count: int) -> tuple[int, float]:
    """Give a vote to each item, the farther the less; return the number of candidates and the sum of what was given."""
    total = 0.0
    for item in found:
        count = _add(room, item, count)
        row = room.candidate_of[item]
        if row >= 0:
            room.evidence[row, _VOTES] += vote
            room.evidence[row, _LIKEST] = max(room.evidence[row, _LIKEST], likeness)
        total += vote
        vote *= VOTE_DECAY
    return count, total


@compiled
def _near(log: Any, items: Any, room: Any, used: Any, count: int) -> int:
    """Read the co-visitation rows of the history, and those of the items that they lead to most."""
    now = log.clock[0]
    reached = np.empty((len(used) + NEAR_ITEMS) * FOLLOWERS, np.int32)
    direct = 0
    for rank in range(len(used)):
        item = used[rank]
        fade = 0.5 ** ((now - items.as_of[item]) / HALF_LIFE)
        total = items.total[item] * fade + 2.0
        for place in range(FOLLOWERS):
            other = items.followers[item, place]
            if other < 0:
                continue
            count = _add(room, other, count)
            if room.near[other] == 0.0:
                reached[direct] = other
                direct += 1
            strength = items.strength[item, place] * fade
            room.near[other] += strength / total / (1.0 + rank)
            row = room.candidate_of[other]
            if row >= 0:
                seen = room.evidence[row]
                if rank == 0:
                    seen[_ROW_LAST] = strength / total
                seen[_ROW_BEST] = max(seen[_ROW_BEST], strength / total)
                seen[_SUPPORT] += 1.0
                seen[_LIFT] += strength / np.sqrt(total * (items.total[other] + 2.0)) / (1.0 + rank)
    all_reached = _far(log, items, room, reached, direct)
    for number in range(all_reached):
        other = reached[number]
        row = room.candidate_of[other]
        if row >= 0:
            # What was reached in both ways stands in the list twice.
            room.evidence[row, _ROW] = max(room.evidence[row, _ROW], room.near[other])
            room.evidence[row, _TWO_HOPS] = max(room.evidence[row, _TWO_HOPS], room.far[other])
        room.near[other] = 0.0
        room.far[other] = 0.0
    return count


@compiled
def _far(log: Any, items: Any, room: Any, reached: Any, direct: int) -> int:
    """Go one co-visitation further from the strongest of what was reached, adding to `reached`; return how many it holds."""
    now = log.clock[0]
    strengths = np.empty(direct, np.float32)
    for number in range(direct):
        strengths[number] = room.near[reached[number]]
    least = _least_of_largest(strengths, NEAR_ITEMS)
    all_reached, expanded = direct, 0
    for number in range(direct):
        if strengths[number] < least or expanded == NEAR_ITEMS:
            continue
        expanded += 1
        item = reached[number]
        fade = 0.5 ** ((now - items.as_of[item]) / HALF_LIFE)
        weight = strengths[number] * fade / (items.total[item] * fade + 2.0)
        for place in range(FOLLOWERS):
            other = items.followers[item, place]
            if other >= 0:
                if room.far[other] == 0.0:
                    reached[all_reached] = other
                    all_reached += 1
                room.far[other] += weight * items.strength[item, place]
    return all_reached


@compiled
def _describe(log: Any, items: Any, room: Any, distinct: Any, chances: Any, count: int) -> None:
    for row in range(count):
        _describe_one(log, items, room, row, chances)
    for place in range(1, len(distinct)):
        row = room.candidate_of[distinct[place]]
        if row >= 0:
            # Place 8 stands for itself and all beyond, of which there are some six.
            room.evidence[row, _RETURN] = chances[min(place, 8)] / (1.0 if place < 8 else 6.0)


@compiled
def _describe_one(log: Any, items: Any, room: Any, row: int, chances: Any) -> None:
    item, now, seen = room.candidates[row], log.clock[0], room.evidence[row]
    seen[_RETURN] = chances[9]
    since = now - items.newest[item]
    if items.count[item] > 0:
        for number, half_life in enumerate(HEAT_HALF_LIVES):
            seen[_HEAT_SHORT + number] = items.heat[item, number] * 0.5 ** (since / half_life)
        seen[_AGE] = now - items.first[item]
        seen[_SINCE] = since
    seen[_COUNT] = items.count[item]


@compiled
def _least_of_largest(values: Any, number: int) -> float:
    """Return the smallest of the `number` largest values; the smallest of all where there are fewer."""
    if len(values) <= number:
        return -1.0
    return float(np.partition(values, len(values) - number)[len(values) - number])


@compiled
def reasons(log: Any, items: Any, distinct: Any, wanted: Any, out: Any) -> None:
    """Write how strongly each history item leads to each of the `wanted` ones, (wanted, distinct), the newer counting more."""
    now = log.clock[0]
    out[:] = 0.0
    for rank in range(len(distinct)):
        before = distinct[rank]
        fade = 0.5 ** ((now - items.as_of[before]) / HALF_LIFE)
        share = fade / (items.total[before] * fade + 2.0) / (1.0 + rank)
        for place in range(FOLLOWERS):
            for row in range(len(wanted)):
                if items.followers[before, place] == wanted[row]:
                    out[row, rank] = items.strength[before, place] * share
