"""The rules of the chain: each fault has its name, and whatever comes in whatever order, the weights are those that are named."""

from collections.abc import Callable, Sequence
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace.deploy.bench.deliveries import Link, ToyWeights, make_chain, run_schedule
from headrace.deploy.bench.schedules import FATES, Schedule, Step, Stored
from headrace.schemas import ModelUpdate
from headrace.streams import chain
from headrace.streams.chain import NOT_YET, NOTHING, ChainFollower, KnownUpdates, NotYet, name_of

LinkKind = Literal["s", "d"] | int


class Followed:
    """A follower of the links of a chain, whose payloads can be spoilt, and what it refused."""

    def __init__(self, *kinds: LinkKind, stored: Sequence[int] = (), may_fork: bool = False) -> None:
        self.links: list[Link] = make_chain(Schedule(kinds, (), ("no",) * len(kinds)))[0]
        self.payloads: dict[int, bytes | NotYet | None] = {number: payload for number, (_, payload) in enumerate(self.links)}
        self.weights = ToyWeights()
        self.reasons: list[str] = []
        self.chain = ChainFollower(
            lambda update, fresh: self.payloads[update.payload_offset],
            self.weights.apply,
            lambda update, reason, told: self.reasons.append(f"{update.kind} {update.version}: {reason}"),
            snapshots=lambda version: [self.links[number][0] for number in stored if self.links[number][0].version > version],
            may_fork=lambda update: may_fork,
        )

    def deliver(self, *places: int) -> int:
        """Deliver links, and return the version that is held then."""
        for place in places:
            self.chain.offer(self.links[place][0])
            self.chain.advance()
        assert self.weights.name == self.chain.present
        return self.weights.name[0]

    def start(self, *places: int) -> int:
        """Begin with these links in the log."""
        known = KnownUpdates()
        for place in places:
            known.add(self.links[place][0])
        self.chain.begin([self.links[place][0] for place in places], known.way(NOTHING, self.chain._snapshots(0)))
        self.chain.advance()
        return self.weights.name[0]


def test_a_chain_in_order_is_taken_in_without_a_word() -> None:
    followed = Followed("s", "d", "d", "s", "d")
    assert followed.deliver(0, 1, 2, 3, 4) == 4
    assert followed.reasons == []


def test_what_comes_twice_or_comes_back_is_told_apart() -> None:
    followed = Followed("s", "d", "d", "s")
    assert followed.deliver(0, 1, 2, 2, 3, 3, 1, 0) == 3
    assert followed.reasons == ["delta 3: doubled", "snapshot 3: doubled", "delta 2: replayed", "snapshot 1: replayed"]


def test_a_lost_link_is_told_and_the_newest_snapshot_brings_the_way_back_at_once() -> None:
    followed = Followed("s", "d", "d", "s", "d", stored=[3])
    assert followed.deliver(0, 1, 4) == 4, "by the stored snapshot of version 3, and the delta that was held"
    assert followed.reasons == ["delta 4: lost"]
    without = Followed("s", "d", "d", "s", "d")
    assert without.deliver(0, 1, 4) == 2
    assert without.deliver(3) == 4
    assert without.reasons == ["delta 4: lost", "snapshot 3: reordered"]


def test_a_link_that_comes_late_closes_the_gap_with_what_was_held() -> None:
    followed = Followed("s", "d", "d", "d", "d")
    assert followed.deliver(0, 1, 3, 4) == 2
    assert followed.deliver(2) == 5
    assert followed.reasons == ["delta 4: lost", "delta 5: lost", "delta 3: reordered"]


def test_a_fork_is_refused_unless_it_is_wanted() -> None:
    followed = Followed("s", "d", "d", 2, "d")
    assert followed.deliver(0, 1, 2, 3, 4) == 3
    assert followed.reasons == ["delta 4: forked", "delta 5: lost"]
    taken: list[ModelUpdate] = []
    wanted = Followed("s", "d", "d", 2, "d", may_fork=True)
    wanted.chain._apply = lambda update, payload: taken.append(update)
    for update, _ in wanted.links:
        wanted.chain.offer(update)
    wanted.chain.advance()
    assert [update.version for update in taken] == [1, 2, 3, 4, 5]
    assert wanted.reasons == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(None, "missing_parts"), (lambda sound: sound[:-1], "truncated"), (lambda sound: sound + b"x", "damaged")],
    ids=["missing", "cut", "extended"],
)
def test_bytes_that_are_not_the_manifests_are_refused_and_the_next_snapshot_heals(
    payload: Callable[[bytes], bytes] | None, reason: str
) -> None:
    followed = Followed("s", "d", "d", "s", "d")
    followed.payloads[1] = payload(followed.links[1][1]) if payload else None
    assert followed.deliver(0, 1, 2) == 1
    assert followed.deliver(3, 4) == 4
    assert followed.reasons[:2] == [f"delta 2: {reason}", "delta 3: lost"]


def test_the_same_update_sent_again_whole_heals_too() -> None:
    followed = Followed("s", "d", "d")
    sound = followed.payloads[1]
    followed.payloads[1] = b"spoilt"
    assert followed.deliver(0, 1, 2) == 1
    followed.payloads[1] = sound
    assert followed.deliver(1) == 3
    assert followed.reasons == ["delta 2: truncated", "delta 3: lost", "delta 2: reordered"]


def test_a_name_that_does_not_follow_from_base_and_payload_is_refused() -> None:
    followed = Followed("s", "d")
    update, payload = followed.links[1]
    followed.links[1] = (replace(update, weights_sha256="a" * 64), payload)
    assert followed.deliver(0, 1) == 1
    assert followed.reasons == ["delta 2: bad_manifest"]


def test_what_may_still_come_is_waited_for_in_order() -> None:
    followed = Followed("s", "d", "d")
    sound, followed.payloads[1] = followed.payloads[1], NOT_YET
    assert followed.deliver(0, 1, 2) == 1
    assert followed.chain.awaited == followed.links[1][0]
    followed.payloads[1] = sound
    followed.chain.advance()
    assert (followed.chain.present[0], followed.chain.awaited, followed.reasons) == (3, None, [])


def test_one_who_starts_late_goes_the_shortest_way_to_the_newest_version_and_knows_replays() -> None:
    followed = Followed("s", "d", "d", "s", "d", "d")
    followed.payloads[0] = followed.payloads[1] = followed.payloads[2] = None
    assert followed.start(0, 1, 2, 3, 4, 5) == 5
    assert followed.deliver(1) == 5
    assert followed.reasons == ["delta 2: replayed"]


def test_one_who_starts_after_a_rollback_takes_the_branch_that_goes_on() -> None:
    """Versions 4 and 5 were withdrawn; version 6 builds on version 3."""
    followed = Followed("s", "d", "d", "d", "d", 3, "d")
    assert followed.links[5][0].base_version == 3
    assert followed.start(*range(7)) == 7
    assert followed.reasons == []


def test_one_whose_newest_snapshot_is_broken_goes_by_an_older_one() -> None:
    followed = Followed("s", "d", "d", "s", "d")
    followed.payloads[3] = b"spoilt"
    assert followed.start(*range(5)) == 4
    assert followed.reasons == ["snapshot 3: truncated"]


def test_a_stored_snapshot_serves_where_the_log_is_empty_but_not_one_beside_the_log() -> None:
    followed = Followed("s", "d", "d", "s", stored=[3])
    assert followed.start() == 3
    beside = Followed("s", "d", "d", stored=[])
    foreign = make_chain(Schedule(("s", "d", "d", 2, "d", "d", "s"), (), ("no",) * 7))[0][6][0]
    beside.chain._snapshots = lambda version: [foreign]
    assert beside.start(0, 1) == 2, "a newer one of another branch is not gone over to while the log leads on"


def test_a_walk_hands_over_every_version_and_goes_back_where_a_branch_begins() -> None:
    known = KnownUpdates()
    for update, _ in make_chain(Schedule(("s", "d", "d", "s", "d", "d", 3, "d"), (), ("no",) * 8))[0]:
        known.add(update)
    assert [name_of(update)[0] for update in known.walk(1)] == [1, 2, 3, 4, 5, 3, 6, 7]
    assert [name_of(update)[0] for update in known.walk(4)] == [3, 4, 5, 3, 6, 7]
    assert known.walk(0) == []


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    kinds: list[LinkKind] = ["s", *draw(st.lists(st.sampled_from(["s", "d", "d", "d", "d", 2, 3]), min_size=1, max_size=12))]
    steps = draw(
        st.lists(
            st.builds(
                Step,
                st.integers(0, len(kinds) - 1),
                st.sampled_from(FATES),
                st.booleans() if draw(st.booleans()) else st.just(False),
                st.sampled_from([False] * 9 + [True]),
            ),
            max_size=24,
        )
    )
    if draw(st.booleans()):
        steps = sorted(steps, key=lambda step: step.link)
    stored: list[Stored] = draw(st.lists(st.sampled_from(["no", "whole", "damaged"]), min_size=len(kinds), max_size=len(kinds)))
    return Schedule(tuple(kinds), tuple(steps), tuple(stored), draw(st.booleans()))


@given(schedules())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_under_any_delivery_the_weights_are_those_that_are_named_and_a_later_snapshot_heals(schedule: Schedule) -> None:
    assert not run_schedule(schedule).is_wrong
    end = len(schedule.links)
    healed = Schedule(
        (*schedule.links, "d", "s"),
        (*schedule.steps, Step(end), Step(end + 1)),
        (*schedule.stored, "no", "no"),
        schedule.may_fork,
    )
    links, _ = make_chain(healed)
    assert run_schedule(healed).held[-1] == name_of(links[-1][0])


def test_a_rule_left_out_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(("s", "d", "d"), (Step(0), Step(1, "damaged"), Step(2)), ("no",) * 3)
    assert not run_schedule(schedule).is_wrong
    monkeypatch.setattr(chain, "_damage", lambda update, payload: None)
    assert run_schedule(schedule).is_wrong
