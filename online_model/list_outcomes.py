"""What became of lists: whether the shopper's next step was foreseen, and whether events name the list as where they came from."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from headrace.online_model.lane_evidence import Counted
from headrace.schemas import UserRow, VersionOutcome
from headrace.schemas.model_releases import Lane

LISTS_KEPT = 50_000


@dataclass(frozen=True)
class MadeList:
    """A list as it is remembered: what made it, after how many of the shopper's steps, and its items, the best first.

    `sequence` is that of the decision by which it was made.
    """

    recommendation_id: str
    version: int
    lane: Lane
    steps: int
    last_item: str
    items: tuple[str, ...]
    sequence: int = 0

    @property
    def maker(self) -> "Maker":
        """What made it, as outcomes are counted by."""
        return self.version, self.lane, self.sequence


Maker = tuple[int, Lane, int]


class ListOutcomes:
    """Remembers the newest list of each of up to `kept` shoppers, and of as many lists who made them. Any thread may call it."""

    def __init__(self, kept: int = LISTS_KEPT) -> None:
        self._kept = kept
        self._lists: OrderedDict[str, MadeList] = OrderedDict()
        self._makers: OrderedDict[str, Maker] = OrderedDict()
        self._counts: dict[Maker, Counted] = {}
        self._lock = threading.Lock()

    def remember(self, shopper: str, made: MadeList) -> None:
        """Remember a list, in place of an older one for the same shopper."""
        with self._lock:
            self._lists.pop(shopper, None)
            self._lists[shopper] = made
            if len(self._lists) > self._kept:
                self._lists.popitem(last=False)
        self.made(made.recommendation_id, made.maker)

    def made(self, recommendation_id: str, maker: Maker) -> None:
        """Remember only who made a list, for the events that name it."""
        with self._lock:
            self._makers[recommendation_id] = maker
            if len(self._makers) > self._kept:
                self._makers.popitem(last=False)

    def meet(self, row: UserRow) -> None:
        """Compare a shopper's list with the first step after it that goes to another item than the one before; each list once."""
        with self._lock:
            made = self._lists.get(row.shopper_id)
            if made is None or row.steps <= made.steps:
                return
            fresh = row.history[-(row.steps - made.steps) :] if row.steps - made.steps <= len(row.history) else ()
            step = next((entry.item_id for entry in fresh if entry.item_id != made.last_item), None)
            if step is None and fresh:
                return
            del self._lists[row.shopper_id]
            if step is None:
                # So much has happened since that the first step is not in the row any more.
                return
            count = self._counts.setdefault(made.maker, Counted())
            count.answered += 1
            if step in made.items:
                count.hits += 1
                reciprocal = 1.0 / (1 + made.items.index(step))
                count.reciprocal_ranks += reciprocal
                count.squared_ranks += reciprocal * reciprocal

    def clicked(self, recommendation_id: str) -> bool:
        """Count an event that names a list; return whether the list is one of those that are remembered."""
        with self._lock:
            maker = self._makers.get(recommendation_id)
            if maker is not None:
                self._counts.setdefault(maker, Counted()).clicks += 1
            return maker is not None

    def take(self) -> list[VersionOutcome]:
        """Return what was counted since the last call."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return [
            VersionOutcome(
                version=version,
                lane=lane,
                answered=count.answered,
                hits=count.hits,
                reciprocal_ranks=round(count.reciprocal_ranks, 4),
                clicks=count.clicks,
                sequence=sequence,
                squared_ranks=round(count.squared_ranks, 4),
            )
            for (version, lane, sequence), count in sorted(counts.items())
        ]
