"""Delivery schedules: what comes of a chain of updates, in which order, and in which state."""

import random
from dataclasses import dataclass
from typing import Literal

Fate = Literal["whole", "truncated", "damaged", "missing", "late"]
FATES: tuple[Fate, ...] = ("whole", "whole", "whole", "whole", "truncated", "damaged", "missing", "late")
Stored = Literal["no", "whole", "damaged"]


@dataclass(frozen=True)
class Step:
    """One delivery: the place of a link in the chain and what becomes of its bytes. `forged` links bear no good signature.

    `restart` makes the follower begin anew before it, from what is in the log.
    """

    link: int
    fate: Fate = "whole"
    forged: bool = False
    restart: bool = False


@dataclass(frozen=True)
class Schedule:
    """A chain and its delivery. `links` tells how each link is made: whole ('s'), as a delta on the last ('d'), or as a delta on the
    version so many links earlier (a number: a fork). `stored` tells which snapshots lie in a weight store besides.
    """

    links: tuple[Literal["s", "d"] | int, ...]
    steps: tuple[Step, ...]
    stored: tuple[Stored, ...]
    may_fork: bool = False


def random_schedule(draw: random.Random) -> Schedule:
    """Return a schedule: the chain in order, with some links dropped, doubled, moved, replayed, forged or spoilt."""
    links = tuple(_random_link(draw, number) for number in range(draw.randint(2, 14)))
    order = [number for number in range(len(links)) if draw.random() > 0.12]
    for _ in range(draw.randint(0, 4)):
        order.insert(draw.randint(0, len(order)), draw.randrange(len(links)))
    for _ in range(draw.randint(0, 3)):
        if len(order) > 1:
            place = draw.randrange(len(order))
            moved = order.pop(place)
            order.insert(max(0, min(len(order), place + draw.randint(-3, 3))), moved)
    steps = tuple(
        Step(number, draw.choice(FATES), forged=draw.random() < 0.08, restart=place > 0 and draw.random() < 0.04)
        for place, number in enumerate(order)
    )
    stored: tuple[Stored, ...] = tuple(draw.choice(("no", "whole", "damaged")) for _ in links)
    return Schedule(links, steps, stored, draw.random() < 0.3)


def _random_link(draw: random.Random, number: int) -> Literal["s", "d"] | int:
    if number == 0 or draw.random() < 0.2:
        return "s"
    return draw.randint(2, 5) if number > 2 and draw.random() < 0.15 else "d"
