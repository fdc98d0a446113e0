"""Two lanes: who is answered by what, and that neither ever holds anything but weights that their author has made."""

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from links import SHAPE, Chain, Frozen, Link, frozen, same

from headrace.online_model.lanes import Lanes, Withdrawn
from headrace.online_model.ranker import Ranker
from headrace.online_model.release_state import ReleaseState, folded, is_on_trial
from headrace.online_model.scorer import Scorer
from headrace.online_model.weights import BadUpdate, MissingLink, ModelCopy
from headrace.schemas import HistoryEntry, ModelRelease, ModelUpdate, UserRow
from headrace.schemas.model_releases import Action

MODEL = "next-item"
SHOPPERS = [f"shopper-{number}" for number in range(200)]


@dataclass
class Author:
    """Makes versions, promotes and rolls back, and remembers all that it made."""

    chain: Chain = field(default_factory=Chain)
    links: list[Link] = field(default_factory=list)
    releases: list[ModelRelease] = field(default_factory=list)
    made: dict[str, Frozen] = field(default_factory=dict)
    kept: dict[tuple[int, str], ModelCopy] = field(default_factory=dict)
    newest: int = 1

    def __post_init__(self) -> None:
        self._remember()
        self.links.append(self.chain.snapshot())
        self.decide("start", 1, self.chain.copy.sha256)

    def step(self) -> Link:
        # Versions rise over a rollback too, so the number that follows may not be the next.
        update, payload = self.chain.step()
        self.newest += 1
        fields = {name: getattr(update, name) for name in update.__struct_fields__} | {"version": self.newest}
        link = ModelUpdate(**fields), payload
        self.chain.copy.version = self.newest
        self.links.append(link)
        self._remember()
        return link

    def promote(self) -> ModelRelease:
        return self.decide("promote", self.chain.copy.version, self.chain.copy.sha256)

    def roll_back(self) -> ModelRelease:
        stable = self.releases[-1]
        release = self.decide("rollback", stable.stable_version, stable.stable_sha256)
        self.chain.copy.copy_from(self.kept[(stable.stable_version, stable.stable_sha256)])
        return release

    def decide(self, action: Action, version: int, sha256: str, share: float = 0.5, pinned: bool = False) -> ModelRelease:
        release = ModelRelease(
            model=MODEL, sequence=len(self.releases) + 1, action=action, stable_version=version, stable_sha256=sha256,
            withdrawn_to=self.newest if action == "rollback" else 0, trial_share=share, pinned=pinned, reason="test",
            decided_by="test", decided_ms=0,
        )  # fmt: skip
        self.releases.append(release)
        return release

    def load(self, version: int, sha256: str) -> ModelCopy | None:
        return self.kept.get((version, sha256))

    def _remember(self) -> None:
        copy = self.chain.copy
        self.made[copy.sha256] = frozen(copy)
        twin = ModelCopy(SHAPE)
        twin.copy_from(copy)
        self.kept[(copy.version, copy.sha256)] = twin


def nothing_to_load(version: int, sha256: str) -> ModelCopy | None:
    return None


def held(scorer: Scorer) -> Frozen:
    with scorer.live() as copy:
        return frozen(copy)


def lanes_after(author: Author, *releases: ModelRelease, kept_bytes: int = 1 << 28) -> Lanes:
    lanes = Lanes(MODEL, shape=SHAPE, kept_bytes=kept_bytes)
    for link in author.links:
        lanes.take(*link)
    for release in releases:
        lanes.decide(lanes.state.after(release))
    return lanes


def test_shoppers_are_split_by_a_hash_that_keeps_them_where_they_are() -> None:
    at_tenth = {shopper for shopper in SHOPPERS if is_on_trial(shopper, MODEL, 0.1)}
    at_half = {shopper for shopper in SHOPPERS if is_on_trial(shopper, MODEL, 0.5)}
    assert at_tenth < at_half
    assert 8 <= len(at_tenth) <= 32
    assert 80 <= len(at_half) <= 120
    assert not any(is_on_trial(shopper, MODEL, 0.0) for shopper in SHOPPERS)
    assert all(is_on_trial(shopper, MODEL, 1.0) for shopper in SHOPPERS)
    assert at_half != {shopper for shopper in SHOPPERS if is_on_trial(shopper, "another model", 0.5)}


def test_before_any_decision_everyone_gets_the_newest_version() -> None:
    author = Author()
    author.step()
    lanes = lanes_after(author)
    assert {lanes.scorer_of(shopper) for shopper in SHOPPERS} == {("trial", lanes.trial)}
    assert lanes.settle(nothing_to_load)


def test_the_stable_lane_follows_by_the_deltas_that_were_kept() -> None:
    author = Author()
    for _ in range(3):
        author.step()
    promoted = author.promote()
    author.step()
    lanes = lanes_after(author, *author.releases[:1])
    assert lanes.settle(nothing_to_load)
    assert (lanes.stable.version, lanes.trial.version) == (1, 5)
    lanes.decide(lanes.state.after(promoted))
    assert not lanes.is_settled
    assert lanes.settle(nothing_to_load)
    assert lanes.is_settled
    assert same(held(lanes.stable), author.made[promoted.stable_sha256])
    assert same(held(lanes.trial), author.made[author.chain.copy.sha256])


def test_where_deltas_were_forgotten_the_promoted_version_is_loaded_whole() -> None:
    author = Author()
    author.step()
    promoted = author.promote()
    author.step()
    lanes = lanes_after(author, *author.releases, kept_bytes=1)
    assert not lanes.settle(nothing_to_load)
    assert lanes.scorer_of(SHOPPERS[0]) == ("trial", lanes.trial)
    assert lanes.settle(author.load)
    assert same(held(lanes.stable), author.made[promoted.stable_sha256])


def test_a_way_longer_than_the_weights_is_not_walked_where_the_version_can_be_loaded() -> None:
    author = Author()
    while sum(len(payload) for _, payload in author.links[1:]) <= author.chain.copy.size_bytes:
        author.step()
    promoted = author.promote()
    loaded: list[int] = []

    def load(version: int, sha256: str) -> ModelCopy | None:
        loaded.append(version)
        return author.load(version, sha256)

    for at_hand in (load, nothing_to_load):
        author.step()
        lanes = lanes_after(author, *author.releases[:1])
        lanes.settle(nothing_to_load)
        lanes.decide(lanes.state.after(promoted))
        assert lanes.settle(at_hand)
        assert same(held(lanes.stable), author.made[promoted.stable_sha256])
    assert loaded == [promoted.stable_version]


def test_updates_are_swapped_in_while_a_promoted_version_is_loaded() -> None:
    author = Author()
    author.step()
    promoted = author.promote()
    author.step()
    lanes = lanes_after(author, *author.releases, kept_bytes=1)
    newest = author.step()

    def load(version: int, sha256: str) -> ModelCopy | None:
        swapping = threading.Thread(target=lanes.take, args=newest)
        swapping.start()
        swapping.join(10.0)
        assert lanes.trial.version == newest[0].version
        return author.load(version, sha256)

    assert lanes.settle(load)
    assert lanes.stable.version == promoted.stable_version


def test_a_rollback_sends_everyone_to_the_stable_lane_at_once_and_starts_the_trial_from_it() -> None:
    author = Author()
    author.step()
    lanes = lanes_after(author, *author.releases)
    lanes.settle(nothing_to_load)
    assert {lane for lane, _ in map(lanes.scorer_of, SHOPPERS)} == {"stable", "trial"}
    lanes.decide(lanes.state.after(author.roll_back()))
    assert {lanes.scorer_of(shopper) for shopper in [*SHOPPERS, None]} == {("stable", lanes.stable)}
    lanes.settle(nothing_to_load)
    assert same(held(lanes.trial), author.made[author.releases[0].stable_sha256])
    assert {lane for lane, _ in map(lanes.scorer_of, SHOPPERS)} == {"stable", "trial"}
    lanes.take(*author.step())
    assert same(held(lanes.trial), author.made[author.chain.copy.sha256])
    assert same(held(lanes.stable), author.made[author.releases[0].stable_sha256])


def test_a_withdrawn_version_is_refused_for_good() -> None:
    author = Author()
    withdrawn = author.step()
    lanes = lanes_after(author, *author.releases)
    lanes.settle(nothing_to_load)
    lanes.decide(lanes.state.after(author.roll_back()))
    lanes.settle(nothing_to_load)
    with pytest.raises(Withdrawn, match="version 2 was withdrawn by a rollback to version 1"):
        lanes.take(*withdrawn)
    lanes.take(*author.step())
    with pytest.raises(Withdrawn):
        lanes.take(*withdrawn)
    assert lanes.trial.version == 3


def test_a_fork_that_comes_before_its_decision_waits_for_it() -> None:
    author = Author()
    author.step()
    lanes = lanes_after(author, *author.releases)
    lanes.settle(nothing_to_load)
    release = author.roll_back()
    assert not lanes.take(*author.step())
    assert not lanes.take(*author.step())
    assert lanes.trial.version == 2
    lanes.decide(lanes.state.after(release))
    lanes.settle(nothing_to_load)
    assert same(held(lanes.trial), author.made[author.chain.copy.sha256])


def test_what_was_built_on_a_withdrawn_version_too_late_to_be_named_fits_nowhere() -> None:
    author = Author()
    author.step()
    release = author.roll_back()
    lanes = lanes_after(author, *author.releases[:1])
    lanes.settle(nothing_to_load)
    other = Author()
    other.step()
    late = other.step()
    lanes.decide(lanes.state.after(release))
    lanes.settle(nothing_to_load)
    with pytest.raises(MissingLink):
        lanes.take(*late)
    author.newest = 3
    lanes.take(*author.step())
    assert lanes.trial.version == 4


def test_pinned_everyone_gets_the_stable_version_and_the_trial_goes_on_unseen() -> None:
    author = Author()
    author.step()
    lanes = lanes_after(author, *author.releases)
    lanes.settle(nothing_to_load)
    start = author.releases[0]
    lanes.decide(lanes.state.after(author.decide("pin", start.stable_version, start.stable_sha256, pinned=True)))
    assert {lanes.scorer_of(shopper)[0] for shopper in [*SHOPPERS, None]} == {"stable"}
    lanes.take(*author.step())
    assert lanes.trial.version == 3
    lanes.decide(lanes.state.after(author.decide("unpin", start.stable_version, start.stable_sha256)))
    assert {lanes.scorer_of(shopper)[0] for shopper in SHOPPERS} == {"stable", "trial"}


def test_the_first_weights_of_a_late_scorer_may_be_those_of_a_withdrawn_chain() -> None:
    author = Author()
    author.step()
    snapshot = author.chain.snapshot()
    author.roll_back()
    lanes = Lanes(MODEL, shape=SHAPE)
    lanes.decide(folded(author.releases))
    assert lanes.settle(author.load)
    with pytest.raises(Withdrawn):
        lanes.take(*snapshot)
    assert same(held(lanes.trial), author.made[author.releases[0].stable_sha256])
    lanes.take(*author.step())
    assert lanes.trial.version == 3


def test_both_lanes_rank_over_the_same_memories_and_tell_who_made_each_list() -> None:
    author = Author()
    author.step()
    lanes = lanes_after(author, *author.releases)
    lanes.settle(nothing_to_load)
    ranker = Ranker(lanes.trial)
    history = [HistoryEntry(f"item-{number}", "view", number) for number in (1, 2, 3)]
    ranker.learn(UserRow(shopper_id="ada", history=history, steps=3))
    # A batch of 20 histories, of which either lane has some.
    ranked = lanes.rank(ranker, [history] * 20, 5, SHOPPERS[:20])
    assert {(one.lane, one.version) for one in ranked} == {("stable", 1), ("trial", 2)}
    for shopper, one in zip(SHOPPERS, ranked, strict=False):
        assert one.lane == ("trial" if is_on_trial(shopper, MODEL, 0.5) else "stable")
        alone = Ranker(lanes.scorer_of(shopper)[1])
        alone.learn(UserRow(shopper_id="ada", history=history, steps=3))
        [expected] = alone.rank([history], 5, ["ada"]).rankings
        assert one.sha256 == lanes.scorer_of(shopper)[1].sha256
        assert {item.item_id for item in one.items} == {item.item_id for item in expected}
    assert {item for item, _ in ranked[0].transformer.items()} <= {f"item-{number}" for number in range(30)}


def follow(plan: list[str]) -> Author:
    """Let an author make what the plan says, and publish the end of it whole."""
    author = Author()
    for what in plan:
        if what == "step":
            author.step()
        elif what == "promote":
            author.promote()
        elif what == "snapshot":
            author.links.append(author.chain.snapshot())
        elif author.newest > author.releases[-1].stable_version:
            author.roll_back()
    author.links.append(author.chain.snapshot())
    return author


def deliver(lanes: Lanes, links: list[Link], releases: list[ModelRelease], draw: float) -> None:
    """Let the next decision, or the next update, arrive; now and then an update comes too late or twice."""
    if releases and (draw < 0.3 or not links):
        lanes.decide(lanes.state.after(releases.pop(0)))
    elif draw < 0.35:
        links.append(links.pop(0))
    else:
        with suppress(BadUpdate):
            lanes.take(*(links.pop(0) if draw < 0.9 else links[0]))


@given(
    st.lists(st.sampled_from(["step", "step", "step", "promote", "roll back", "snapshot"]), max_size=14),
    st.integers(0, 1 << 32),
    st.sampled_from([1, 1 << 28]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes_first_neither_lane_holds_anything_that_was_not_made(plan: list[str], seed: int, kept_bytes: int) -> None:
    author, random = follow(plan), Random(seed)
    lanes = Lanes(MODEL, shape=SHAPE, kept_bytes=kept_bytes)
    links, releases = list(author.links), list(author.releases)
    while links or releases:
        deliver(lanes, links, releases, draw := random.random())
        if draw < 0.7:
            lanes.settle(author.load)
        for scorer in (lanes.stable, lanes.trial):
            assert not scorer.version or same(held(scorer), author.made[scorer.sha256])
        assert not any(lanes.state.withdraws(scorer.version) for lane, scorer in map(lanes.scorer_of, SHOPPERS[:8]) if lane == "trial")
    assert lanes.settle(author.load)
    lanes.take(*author.chain.snapshot())
    assert (lanes.stable.version, lanes.stable.sha256) == (author.releases[-1].stable_version, author.releases[-1].stable_sha256)
    assert same(held(lanes.trial), author.made[author.chain.copy.sha256])


def test_of_two_decisions_made_at_once_the_later_is_void() -> None:
    author = Author()
    state = ReleaseState()
    first = author.releases[0]
    assert state.objection(first) is None
    state = state.after(first)
    author.step()
    promoted = author.promote()
    assert state.objection(promoted) is None
    state = state.after(promoted)
    assert state.objection(promoted) == "sequence 2 does not follow on 2"
