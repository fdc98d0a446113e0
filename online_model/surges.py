"""Items that far more shoppers touch at once than before: they are not learned from until what is usual has caught up.

Whoever wants an item to be shown sends clicks on it from many made-up shoppers. A round cannot tell these from a real rush, but it
can tell that there is one: so how many shoppers of an item are believed may grow 1.5 times and by a small allowance, not more. What is
beyond is told apart from the rest before it teaches anything. A real rush is learned a little later; the memories show it at once.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from headrace.online_model.gate_state import MOST_USUAL_ITEMS, SurgeState


@dataclass(frozen=True)
class SurgePlan:
    """An item surges where its shoppers in a round are more than `growth` times what is usual and an allowance.

    The allowance is `allowed` shoppers, or `allowed_share` of the round's where that is more; over `window` rounds together it is
    `window_allowed` and `window_share`. What is usual is a mean that forgets within `memory` rounds; nothing surges within the first
    `settle` rounds, in which all is new. An item that has surged is left alone for `rest` rounds more.
    """

    growth: float = 1.5
    allowed: float = 6.0
    allowed_share: float = 0.04
    window: int = 8
    window_allowed: float = 12.0
    window_share: float = 0.015
    memory: int = 64
    settle: int = 16
    rest: int = 8


class ItemSurges:
    """Counts, round by round, the shoppers of each item; `suspended` items are to be left out."""

    def __init__(self, plan: SurgePlan | None = None) -> None:
        self.plan = plan or SurgePlan()
        self._round = 0
        # By item: the usual number of shoppers per round, as of the round beside it.
        self._usual: dict[str, tuple[float, int]] = {}
        self._window: deque[tuple[Counter[str], int]] = deque(maxlen=self.plan.window)
        self._in_window: Counter[str] = Counter()
        self._until: dict[str, int] = {}

    @property
    def suspended(self) -> Set[str]:
        """The items to be left out of this round."""
        return self._until.keys()

    def suspend(self, items: Iterable[str]) -> None:
        """Leave items out for the next rounds, for whatever reason."""
        for item in items:
            self._until[item] = self._round + self.plan.rest

    def notice(self, touched: Sequence[Iterable[str]]) -> list[str]:
        """Take in a round, the items that each of its shoppers touched; return the items that have begun to surge in it."""
        self._round += 1
        self._until = {item: until for item, until in self._until.items() if until >= self._round}
        counts = Counter(item for items in touched for item in set(items))
        self._remember(counts, len(touched))
        shoppers = sum(size for _, size in self._window)
        allowed = max(self.plan.allowed, self.plan.allowed_share * len(touched))
        allowed_in_window = max(self.plan.window_allowed, self.plan.window_share * shoppers)
        begun = []
        for item, count in counts.items():
            usual = self._usual_of(item)
            in_window = usual * len(self._window)
            # The roots are for chance: counts of shoppers who come on their own spread as widely as that.
            limit = allowed + self.plan.growth * usual + 2.0 * usual**0.5
            limit_in_window = allowed_in_window + self.plan.growth * in_window + 2.0 * in_window**0.5
            surges = count > limit or self._in_window[item] > limit_in_window
            if surges and self._round > self.plan.settle:
                if item not in self._until:
                    begun.append(item)
                self._until[item] = self._round + self.plan.rest
            believed = min(float(count), limit) if self._round > self.plan.settle else float(count)
            self._usual[item] = (usual + believed / min(self.plan.memory, self._round), self._round)
        if self._round % self.plan.memory == 0:
            self._usual = {item: known for item, known in self._usual.items() if self._usual_of(item) > 1e-3}
        return begun

    def state(self) -> SurgeState:
        """Return what is known, of usual numbers the largest."""
        usual = sorted(self._usual.items(), key=lambda known: self._usual_of(known[0]), reverse=True)[:MOST_USUAL_ITEMS]
        return SurgeState(self._round, dict(usual), [(dict(counts), size) for counts, size in self._window], dict(self._until))

    def restore(self, state: SurgeState) -> None:
        """Go on from a state."""
        self._round, self._usual, self._until = state.round, dict(state.usual), dict(state.until)
        self._window.clear()
        self._in_window.clear()
        for counts, shoppers in state.window:
            self._remember(Counter(counts), shoppers)

    def _remember(self, counts: Counter[str], shoppers: int) -> None:
        if len(self._window) == self._window.maxlen:
            self._in_window.subtract(self._window[0][0])
            self._in_window = +self._in_window
        self._window.append((counts, shoppers))
        self._in_window.update(counts)

    def _usual_of(self, item: str) -> float:
        """Return the usual number of an item's shoppers before this round: a mean over the rounds so far, later one that forgets."""
        level, since = self._usual.get(item, (0.0, self._round))
        memory = self.plan.memory
        # The factors 1 - 1 / n of the rounds n since then, n being the memory at most.
        level *= min(since, memory) / min(self._round, memory)
        return level * (1.0 - 1.0 / memory) ** max(0, self._round - max(since, memory))
