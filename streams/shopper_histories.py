"""What the learner remembers of shoppers between rounds, so that new steps are learned as what follows the earlier ones."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.schemas import HistoryEntry, UserRow
from headrace.streams.training_buffer import Example


@dataclass(frozen=True)
class NewSteps:
    """The history of a shopper, oldest step first, whose last `fresh` steps are new.

    `surfaces` says where on the shop's pages each new step came from, (fresh,), None where that is not told; empty where none is.
    """

    shopper_id: str
    history: list[HistoryEntry]
    fresh: int
    surfaces: Sequence[str | None] = ()


class ShopperHistories:
    """The last steps of each shopper, oldest first; for one not seen yet, what the online store has from before."""

    def __init__(self, read: Callable[[Sequence[str]], list[UserRow | None]], length: int = 21, shoppers: int = 200_000) -> None:
        self._read = read
        self._length = length
        self._shoppers = shoppers
        self._histories: OrderedDict[str, list[HistoryEntry]] = OrderedDict()

    def extend(self, examples: Sequence[Example]) -> list[NewSteps]:
        """Add the examples and return the history of each shopper who is in them, once."""
        first = {example.shopper_id: example for example in reversed(examples)}
        missing = [shopper for shopper in first if shopper not in self._histories]
        for shopper, row in zip(missing, self._read(missing) if missing else [], strict=True):
            # The feature worker may be ahead of us: the row may hold the very events that are to be learned.
            earlier = row.history if row is not None else []
            self._histories[shopper] = [entry for entry in earlier if entry.time_ms < first[shopper].time_ms]
        surfaces: dict[str, list[str | None]] = {}
        for example in examples:
            history = [*self._histories[example.shopper_id], *example.steps][-self._length :]
            self._histories[example.shopper_id] = history
            self._histories.move_to_end(example.shopper_id)
            surfaces.setdefault(example.shopper_id, []).extend([example.surface] * len(example.steps))
        newest = [
            NewSteps(shopper, self._histories[shopper], min(len(told), self._length), told[-self._length :] if any(told) else ())
            for shopper, told in surfaces.items()
        ]
        while len(self._histories) > self._shoppers:
            self._histories.popitem(last=False)
        return newest
