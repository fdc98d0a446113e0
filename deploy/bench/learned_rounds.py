"""A shop's events as the learner gets them, round by round, with some shoppers held out who are never learned from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from zlib import crc32

from headrace.features.user_row import entries_of
from headrace.schemas import Event, HistoryEntry, shopper_id
from headrace.streams.readers import open_events
from headrace.streams.simulator import simulate

REAL_FILE = "retailrocket_sessions.csv.gz"
HISTORY = 21
ONE_OF_HELD_OUT = 10

History = list[HistoryEntry]


@dataclass(frozen=True)
class LearnedRound:
    """What the learner is given at once: the histories of `shoppers`, of which the last `fresh` steps are new, and how many events it was.

    `held_out` are the histories, as of now, of those who are not learned from and did something.
    """

    shoppers: list[str]
    histories: list[History]
    fresh: list[int]
    events: int
    held_out: dict[str, History]


def real_or_simulated(data: Path, events: int, seed: int) -> tuple[str, Iterable[Event]]:
    """Return the name of the stream and its first events: RetailRocket's where `data` has it, else a simulated shop's."""
    file = data / REAL_FILE
    if file.exists():
        return REAL_FILE, islice(open_events(file, open_sessions=64, seed=seed), events)
    return "simulator", simulate(seed, events=events)


def learned_rounds(events: Iterable[Event], events_per_round: int) -> Iterator[LearnedRound]:
    """Yield the rounds of a stream; a last one that is not full is left out."""
    histories: dict[str, History] = {}
    fresh: dict[str, int] = {}
    held_out: dict[str, History] = {}
    seen = 0
    for event in events:
        shopper = shopper_id(event)
        entries = entries_of(event)
        histories[shopper] = [*histories.get(shopper, ()), *entries][-HISTORY:]
        if crc32(shopper.encode()) % ONE_OF_HELD_OUT:
            fresh[shopper] = min(HISTORY, fresh.get(shopper, 0) + len(entries))
        else:
            held_out[shopper] = histories[shopper]
        seen += 1
        if seen == events_per_round:
            yield LearnedRound(list(fresh), [histories[one] for one in fresh], list(fresh.values()), seen, held_out)
            fresh, held_out, seen = {}, {}, 0
