"""The instant memory learns at each step, forgets what the log no longer holds, and says what may follow."""

import copy
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.online_model.evidence import COLUMNS, FEATURES, PARTS_COUNT, Column, context_of, features, part_probabilities
from headrace.online_model.memory import Memory

LAMP, BULB, CHAIR, TABLE, VASE = range(5)
VISITS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), max_size=25)


def taught(*visits: list[int], capacity: int = 1 << 10) -> Memory:
    memory = Memory(capacity)
    for number, visit in enumerate(visits):
        for place, item in enumerate(visit):
            memory.learn(number, item, is_new_visit=place == 0)
    return memory


def evidence(memory: Memory, *history: int) -> dict[int, dict[Column, float]]:
    """Return the evidence by candidate, of what is not zero."""
    with memory.ask(memory.question("nobody", history)) as asking:
        return {
            item: {column: float(row[column]) for column in Column if row[column] != 0 and not np.isnan(row[column])}
            for item, row in zip(asking.candidates.tolist(), asking.evidence, strict=True)
        }


def test_nothing_is_known_at_first() -> None:
    assert evidence(Memory(64)) == {}
    assert evidence(Memory(64), -1) == {}


def test_what_followed_is_expected_to_follow_at_once_and_less_so_backwards() -> None:
    memory = taught([LAMP, BULB])
    assert evidence(memory, LAMP)[BULB][Column.ROW] > evidence(memory, BULB)[LAMP][Column.ROW] > 0
    assert evidence(memory, LAMP)[BULB][Column.NEXT] == pytest.approx(1 / 3)
    assert Column.NEXT not in evidence(memory, BULB)[LAMP]
    assert evidence(memory, BULB)[LAMP][Column.BEHIND] > 0


def test_the_nearer_step_counts_more() -> None:
    found = evidence(taught([LAMP, BULB, CHAIR, TABLE]), LAMP)
    assert found[BULB][Column.AHEAD] > found[CHAIR][Column.AHEAD] > found[TABLE][Column.AHEAD] > 0


def test_a_visit_that_shares_more_votes_more() -> None:
    memory = taught([LAMP, BULB, CHAIR], [LAMP, VASE, TABLE])
    found = evidence(memory, BULB, LAMP)
    assert found[CHAIR][Column.VOTES] > found[TABLE][Column.VOTES] > 0
    assert found[CHAIR][Column.LIKEST] > found[TABLE][Column.LIKEST]


def test_two_hops_reach_what_was_never_visited_together() -> None:
    memory = taught([LAMP, BULB], [BULB, CHAIR], [CHAIR, TABLE])
    found = evidence(memory, LAMP)
    assert found[BULB][Column.ROW] > 0
    assert Column.ROW not in found[CHAIR]
    assert found[CHAIR][Column.TWO_HOPS] > 0


def test_a_known_shopper_is_asked_for_by_all_that_is_remembered_of_them() -> None:
    memory = taught([LAMP, BULB, LAMP, CHAIR, LAMP])
    question = memory.question(0, [LAMP])
    assert question.steps.tolist() == [LAMP, CHAIR, LAMP, BULB, LAMP]
    assert question.distinct.tolist() == [LAMP, CHAIR, BULB]
    with memory.ask(question) as asking:
        found = dict(zip(asking.candidates.tolist(), asking.evidence.copy(), strict=True))
    assert [found[item][Column.OWN_PLACE] for item in (LAMP, CHAIR, BULB)] == [0, 1, 2]
    assert [found[item][Column.OWN_COUNT] for item in (LAMP, CHAIR, BULB)] == [3, 1, 1]
    assert [found[item][Column.OWN_AFTER] for item in (LAMP, CHAIR, BULB)] == [0, 1, 1]
    # Their own visit is nobody else's.
    assert all(found[item][Column.VOTES] == 0 for item in found)


def test_a_history_that_is_not_what_is_remembered_is_taken_as_it_is() -> None:
    memory = taught([LAMP, BULB])
    assert memory.question(0, [CHAIR]).steps.tolist() == [CHAIR]
    assert memory.question("nobody", [LAMP, -1, BULB]).steps.tolist() == [BULB, LAMP]


def test_the_way_back_is_learned_by_pattern() -> None:
    """After A, B, A most go back to B: that holds for items that were never seen before."""
    memory = Memory(1 << 12)
    draw = random.Random(1)
    for shopper in range(150):
        first, second = draw.sample(range(100, 1100), 2)
        for item in (first, second, first, second):
            question = memory.question(shopper)
            memory.learn(shopper, item, is_new_visit=item == first and not len(question.steps), question=question)
    for item in (LAMP, BULB, LAMP):
        memory.learn("new", item, is_new_visit=False)
    with memory.ask(memory.question("new")) as asking:
        returns = dict(zip(asking.candidates.tolist(), asking.evidence[:, Column.RETURN].tolist(), strict=True))
    assert returns[BULB] > 0.9


def test_the_log_forgets_and_co_visitation_stays() -> None:
    memory = taught([LAMP, BULB], *[[CHAIR, TABLE]] * 40, capacity=16)
    found = evidence(memory, LAMP)
    assert found[BULB][Column.ROW] > 0
    assert Column.NEXT not in found[BULB]
    assert memory.question(0).steps.tolist() == []


def test_popular_items_are_candidates_for_everybody() -> None:
    memory = taught(*[[item % 7] for item in range(600)])
    assert set(evidence(memory)) == set(range(7))


def test_a_copy_learns_apart() -> None:
    memory = taught([LAMP, BULB])
    before = evidence(memory, LAMP)
    twin = copy.deepcopy(memory)
    twin.learn("ada", LAMP, is_new_visit=True)
    twin.learn("ada", CHAIR, is_new_visit=False)
    assert evidence(memory, LAMP) == before
    assert CHAIR in evidence(twin, LAMP)


def test_reasons_name_the_steps_that_lead_to_an_item() -> None:
    memory = taught([LAMP, BULB], [CHAIR, TABLE])
    [[by_chair, by_lamp]] = memory.reasons(np.array([CHAIR, LAMP], np.int32), np.array([BULB], np.int32))
    assert by_lamp > 0
    assert by_chair == 0


@pytest.mark.parametrize("capacity", [0, 1, 3, 1000])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity: a power of two was expected; the value is {capacity}"):
        Memory(capacity)


@given(VISITS, st.lists(st.integers(-1, 12), max_size=300))
@settings(max_examples=60, deadline=None)
def test_whatever_was_learned_and_asked_the_evidence_is_sound(visits: list[list[int]], history: list[int]) -> None:
    memory = taught(*visits, capacity=32)
    memory.hold(12)
    for _ in range(2):
        with memory.ask(memory.question("nobody", history)) as asking:
            found = asking.evidence.copy()
            assert len(set(asking.candidates.tolist())) == asking.count
            context = int(context_of(asking.situation))
            parts, out = np.zeros((len(found), PARTS_COUNT), np.float32), np.zeros((len(found), FEATURES), np.float32)
            part_probabilities(found, parts)
            features(found, asking.situation, parts, np.full(PARTS_COUNT, 1 / PARTS_COUNT), out)
    assert 0 <= context < 24
    told = np.delete(found, int(Column.LOGIT), axis=1)
    assert told.shape[1] == COLUMNS - 1
    assert np.isfinite(told).all()
    assert (told >= 0).all()
    assert np.isfinite(out).all()
    sums = parts.sum(axis=0)
    assert all(total == pytest.approx(1.0, abs=1e-4) or total == 0.0 for total in sums.tolist())
    # The room is clean again: nothing of one question is left for the next.
    room = memory._room
    assert (room.candidate_of == -1).all()
    assert not room.near.any()
    assert not room.far.any()
    assert not room.likeness.any()


def test_what_was_forgotten_weighs_less_than_what_comes() -> None:
    fading, lasting = (taught(*[[1, 2]] * 20) for _ in range(2))
    fading.forget(0.1)
    assert evidence(fading, 1)[2][Column.ROW_LAST] > 0
    for memory in (fading, lasting):
        for visit in range(3):
            memory.learn(f"new-{visit}", 1, is_new_visit=True)
            memory.learn(f"new-{visit}", 3, is_new_visit=False)
    ratios = [evidence(memory, 1)[3][Column.ROW_LAST] / evidence(memory, 1)[2][Column.ROW_LAST] for memory in (fading, lasting)]
    assert ratios[0] > 5 * ratios[1]


def test_what_was_cut_off_is_not_looked_at_until_it_is_recalled() -> None:
    memory, untouched = (taught([1, 2], [1, 3], [1, 4]) for _ in range(2))
    memory.forget(1.0, cut=True)
    followers = {item for item, row in evidence(memory, 1).items() if row.get(Column.NEXT, 0) > 0}
    assert followers == {4}, "of each item the newest step is still seen"
    memory.recall()
    assert evidence(memory, 1) == evidence(untouched, 1)
    memory.recall()


@pytest.mark.parametrize("keep", [0.0, 1.5])
def test_a_share_to_keep_lies_between_0_and_1(keep: float) -> None:
    with pytest.raises(ValueError, match=r"keep: above 0 and at most 1 was expected"):
        Memory(2).forget(keep)
