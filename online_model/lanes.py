"""Two lanes of weights: the stable version answers some shoppers, the newest of the chain, on trial, the others.

Each lane is a left-right pair (`scorer.Scorer`), so two lanes hold the weights four times: with a table of 1,000,000 items of 64 numbers
that is 1 GiB for the tables and as much for their unit vectors, in place of half of it. Memories, mixture and ranking network are shared.

The trial lane takes every update at once. The stable lane follows with delay: the deltas since the stable version are kept, up to
`kept_bytes`, and applied when a later one is promoted; where they are not all there, or are more than the weights, the promoted version is
loaded whole.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.online_model.ranker import Foreseen, History, RankedItem, Ranker
from headrace.online_model.release_state import ReleaseState, is_on_trial
from headrace.online_model.scorer import Scorer
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import BadUpdate, ModelCopy
from headrace.schemas import ModelUpdate, UserRow
from headrace.schemas.model_releases import Lane

KEPT_BYTES = 256 << 20
EARLY_BYTES = 64 << 20

Link = tuple[ModelUpdate, bytes]
# Returns the weights of a version, by number and name; None where they cannot be had now.
Load = Callable[[int, str], ModelCopy | None]


class Withdrawn(BadUpdate):
    """An update to a version that a rollback has withdrawn."""

    label = "withdrawn"


@dataclass(frozen=True)
class Ranked:
    """One shopper's ranking, and the lane and the weights that made it. `transformer` holds the Transformer's own best items."""

    items: list[RankedItem]
    lane: Lane
    version: int
    sha256: str
    transformer: dict[str, float]


class Lanes:
    """The stable and the trial lane, kept in step with updates and decisions. Any number of threads may ask.

    `take` may be called by one thread, `decide` and `settle` by another. While `is_settled` is False the stable weights are not there
    yet, and `settle` is to be called again. `give_way` is that of `Scorer`.
    """

    def __init__(
        self,
        model: str,
        device: str = "cpu",
        shape: TransformerShape | None = None,
        kept_bytes: int = KEPT_BYTES,
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.trial = Scorer(shape, device, give_way)
        self.stable = Scorer(shape, device, give_way)
        self.state = ReleaseState()
        self._lock = threading.Lock()
        # Held for as long as it takes to come to another stable version; `take` does not wait for that.
        self._settling = threading.Lock()
        self._kept = _Links(kept_bytes)
        # Updates that build on the stable version and came before the decision that makes it so.
        self._early = _Links(EARLY_BYTES)
        self._all_on_stable = False
        self._fork_due = False

    @property
    def is_settled(self) -> bool:
        """Whether the stable lane holds the version that the newest decision names."""
        return self.state.newest is None or (not self._fork_due and self.stable.sha256 == self.state.stable_sha256)

    @property
    def sequence(self) -> int:
        """The number of the decision by which lists are made now; 0 before the first, and until its stable weights are there."""
        newest = self.state.newest
        return newest.sequence if newest is not None and self.is_settled else 0

    def scorer_of(self, shopper: str | None) -> tuple[Lane, Scorer]:
        """Return the lane of a shopper, and whose weights answer there.

        Whoever has no name gets what most shoppers get. Before there is a stable version, all get the newest one.
        """
        if not self.stable.version or self.state.newest is None:
            return "trial", self.trial
        share = self.state.trial_share
        on_trial = share >= 0.5 if shopper is None else is_on_trial(shopper, self.model, share)
        if self._all_on_stable or not on_trial or not self.trial.version:
            return "stable", self.stable
        # A version that both hold scores no batch twice.
        return "trial", self.stable if self.trial.sha256 == self.stable.sha256 else self.trial

    def rank(
        self, ranker: Ranker, histories: Sequence[History], k: int, shoppers: Sequence[str | None], *, with_transformer: bool = False
    ) -> list[Ranked]:
        """Rank for each shopper by the weights of their lane (see `Ranker.rank`), each lane's shoppers in one batch.

        Whoever comes without a history is answered like anyone without one; the name decides the lane alone.
        """
        chosen = [self.scorer_of(shopper) for shopper in shoppers]
        ranked: dict[int, Ranked] = {}
        for scorer in dict.fromkeys(scorer for _, scorer in chosen):
            places = [place for place, (_, theirs) in enumerate(chosen) if theirs is scorer]
            named = [shoppers[place] if histories[place] else None for place in places]
            batch = ranker.rank([histories[place] for place in places], k, named, weights=scorer, with_transformer=with_transformer)
            for place, items, own in zip(places, batch.rankings, batch.transformer, strict=True):
                ranked[place] = Ranked(items, chosen[place][0], batch.version, batch.sha256, own)
        return [ranked[place] for place in range(len(histories))]

    def test_then_learn(self, ranker: Ranker, rows: Sequence[UserRow]) -> list[Foreseen]:
        """Test and teach the mixture (see `Ranker.test_then_learn`), each row by the weights of its shopper's lane."""
        chosen = [self.scorer_of(row.shopper_id)[1] for row in rows]
        places: list[Foreseen] = []
        for scorer in dict.fromkeys(chosen):
            places += ranker.test_then_learn([row for row, theirs in zip(rows, chosen, strict=True) if theirs is scorer], weights=scorer)
        return places

    def take(
        self,
        update: ModelUpdate,
        payload: bytes,
        warm_up: Callable[[ModelCopy], None] | None = None,
        on_live: Callable[[], None] = lambda: None,
    ) -> bool:
        """Take in an update; return whether the trial lane serves it now. `warm_up` and `on_live` are those of `Scorer.apply`.

        One that the lane holds already changes nothing; one that builds on the stable version while another chain is on trial waits for
        the decision that withdraws that chain. Raises Withdrawn, and as `Scorer.apply` does; what is served then stays as it was.
        """
        with self._lock:
            if (update.version, update.weights_sha256) == (self.trial.version, self.trial.sha256):
                return False
            if self.state.withdraws(update.version):
                raise Withdrawn(f"version {update.version} was withdrawn by a rollback to version {self.state.stable_version}")
            base = (update.base_version, update.base_sha256)
            if update.kind == "delta" and base != (self.trial.version, self.trial.sha256):
                of_stable = (self.stable.version, self.stable.sha256)
                if base == of_stable and self._is_off_chain():
                    self._rejoin()
                elif base in (of_stable, (self.state.stable_version, self.state.stable_sha256)):
                    self._early.restart((update, payload))
                    return False
                elif base == self._early.end:
                    self._early.add((update, payload))
                    return False
            self.trial.apply(update, payload, warm_up, on_live)
            self._keep((update, payload))
            return True

    def may_fork(self, update: ModelUpdate) -> bool:
        """Whether a delta that builds on another version than the newest builds on the stable one, or on what waits for a decision."""
        base = (update.base_version, update.base_sha256)
        stable = ((self.stable.version, self.stable.sha256), (self.state.stable_version, self.state.stable_sha256))
        return base in (*stable, self._early.end)

    def decide(self, state: ReleaseState) -> None:
        """Take in where the decisions have come to; call `settle` afterwards. A rollback sends everyone to the stable lane at once."""
        newest = state.newest
        # Whoever begins with a rollback behind it has nothing withdrawn on trial, and may be beyond it.
        if newest is not None and newest.action == "rollback" and self.state.newest is not None:
            self._all_on_stable = self._fork_due = True
        self.state = state

    def settle(self, load: Load) -> bool:
        """Bring the stable lane to the stable version, by `load` where the deltas are not there; return whether it is there.

        After a rollback the trial lane starts again from it.
        """
        with self._settling:
            if self.state.newest is None:
                return True
            wanted = (self.state.stable_version, self.state.stable_sha256)
            if (self.stable.version, self.stable.sha256) != wanted and not self._go_to(wanted, load):
                return False
            with self._lock:
                if wanted != (self.state.stable_version, self.state.stable_sha256):
                    return False
                self._kept.drop_until(wanted[0])
                if self._fork_due or self._is_off_chain():
                    self._rejoin()
                    self._fork_due = self._all_on_stable = False
            return True

    def _go_to(self, wanted: tuple[int, str], load: Load) -> bool:
        """Bring the stable lane to a version by the shortest way; return whether it is there. Updates are swapped in meanwhile."""
        with self._lock:
            if (self.trial.version, self.trial.sha256) == wanted:
                with self.trial.live() as copy:
                    self.stable.adopt(copy)
                return True
            links = self._kept.way((self.stable.version, self.stable.sha256), wanted)
            with self.trial.live() as copy:
                is_long = sum(len(payload) for _, payload in links) > copy.size_bytes
        # Hundreds of deltas take seconds, the whole of a version tens of milliseconds.
        whole = load(*wanted) if is_long or not links else None
        if whole is not None and (whole.version, whole.sha256) == wanted:
            self.stable.adopt(whole)
            return True
        for update, payload in links:
            self.stable.apply(update, payload)
        return bool(links)

    def _is_off_chain(self) -> bool:
        """Whether what is on trial may be left: nothing, or a withdrawn version."""
        return not self.trial.version or self.state.withdraws(self.trial.version)

    def _rejoin(self) -> None:
        """Put the stable weights on trial, and after them what has already come that builds on them."""
        with self.stable.live() as copy:
            self.trial.adopt(copy)
        self._kept.clear()
        early = self._early.way((self.stable.version, self.stable.sha256), self._early.end)
        self._early.clear()
        for update, payload in early:
            if not self.state.withdraws(update.version):
                self.trial.apply(update, payload)
                self._keep((update, payload))

    def _keep(self, link: Link) -> None:
        if link[0].kind == "snapshot":
            self._kept.restart(link)
        else:
            self._kept.add(link)


class _Links:
    """A stretch of the chain of updates, of bounded size: the oldest are forgotten first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._links: deque[Link] = deque()
        self._bytes = 0

    @property
    def end(self) -> tuple[int, str]:
        """Version and name that the last link leads to."""
        return (self._links[-1][0].version, self._links[-1][0].weights_sha256) if self._links else (0, "")

    def add(self, link: Link) -> None:
        self._links.append(link)
        self._bytes += len(link[1])
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._links.popleft()[1])

    def restart(self, link: Link) -> None:
        self.clear()
        self.add(link)

    def clear(self) -> None:
        self._links.clear()
        self._bytes = 0

    def way(self, here: tuple[int, str], there: tuple[int, str]) -> list[Link]:
        """Return the links that lead from one version to another, by number and name; none where they are not all there."""
        links: list[Link] = []
        for link in self._links:
            update = link[0]
            base = here if not links else (links[-1][0].version, links[-1][0].weights_sha256)
            if update.kind == "snapshot" or (update.base_version, update.base_sha256) == base:
                links = [link] if update.kind == "snapshot" else [*links, link]
                if (update.version, update.weights_sha256) == there:
                    return links
        return []

    def drop_until(self, version: int) -> None:
        while self._links and self._links[0][0].version <= version:
            self._bytes -= len(self._links.popleft()[1])
