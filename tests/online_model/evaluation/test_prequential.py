"""The loop asks before it teaches, and shows a model nothing of what comes."""

from collections.abc import Sequence
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_streams import stream_of, ticking

from headrace.online_model.evaluation.prequential import MISSED, answers_of
from headrace.online_model.evaluation.segments import questions_of
from headrace.schemas import HistoryEntry

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("vwxyz")), max_size=60)


class Recorder:
    """Keeps all that it is given, and has no answer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, tuple[str, ...]]] = []
        self.kept: dict[str, Sequence[HistoryEntry]] = {}

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        self.calls.append(("rank", shopper_id, tuple(entry.item_id for entry in history)))
        return []

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        self.calls.append(("learn", shopper_id, tuple(entry.item_id for entry in history)))
        self.kept[shopper_id] = history


class Fixed:
    """Answers with the same list each time."""

    def __init__(self, *items: str) -> None:
        self.items = items

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        return self.items

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        pass


class LastTaught(Fixed):
    """Answers with the item that it was taught last of all."""

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        self.items = (step.item_id,)


@given(PAIRS)
@settings(max_examples=100, deadline=None)
def test_a_model_is_asked_before_it_is_taught_and_taught_each_step(pairs: list[tuple[str, str]]) -> None:
    stream = stream_of(pairs)
    questions = questions_of(stream, 0)
    model = Recorder()
    answers_of(model, stream, questions, ticking(1))
    expected = []
    seen: dict[str, tuple[str, ...]] = {}
    for number, (shopper, item) in enumerate(pairs):
        history = seen.get(shopper, ())[-50:]
        if number in questions.steps:
            expected.append(("rank", shopper, history))
        expected.append(("learn", shopper, history))
        seen[shopper] = (*seen.get(shopper, ()), item)
    assert model.calls == expected


def test_a_model_that_would_profit_from_peeking_cannot() -> None:
    # One shopper going to and fro: what was taught last is the last item, so it is right only if the target was taught before.
    stream = stream_of([("ann", "lamp" if number % 2 else "vase") for number in range(20)])
    questions = questions_of(stream, 0)
    assert len(questions) == 19
    assert set(answers_of(LastTaught(), stream, questions, ticking(1)).ranks.tolist()) == {MISSED}


def test_a_history_that_was_handed_out_does_not_grow() -> None:
    model = Recorder()
    stream = stream_of([("ann", "lamp"), ("ann", "vase"), ("ann", "chair")])
    answers_of(model, stream, questions_of(stream, 0), ticking(1))
    assert [entry.item_id for entry in model.kept["ann"]] == ["lamp", "vase"]


def test_a_history_holds_the_last_fifty_steps() -> None:
    model = Recorder()
    stream = stream_of([("ann", f"item-{number}") for number in range(60)])
    answers_of(model, stream, questions_of(stream, 0), ticking(1))
    assert model.calls[-1] == ("learn", "ann", tuple(f"item-{number}" for number in range(9, 59)))


def test_the_last_item_and_all_beyond_the_twentieth_do_not_count() -> None:
    stream = stream_of([("ann", "lamp"), ("ann", "vase")])
    questions = questions_of(stream, 0)
    others = [f"item-{number}" for number in range(19)]
    assert answers_of(Fixed("lamp", *others, "vase"), stream, questions, ticking(1)).ranks.tolist() == [19]
    assert answers_of(Fixed(*others, "another", "vase"), stream, questions, ticking(1)).ranks.tolist() == [MISSED]


def test_times_are_those_of_the_model_alone() -> None:
    stream = stream_of([("ann", "lamp"), ("ann", "vase"), ("ann", "lamp")])
    answers = answers_of(Fixed(), stream, questions_of(stream, 0), ticking(7))
    assert answers.query_ns.tolist() == [7, 7]
    assert answers.learn_ns == 3 * 7


def test_what_is_recommended_is_weighed_by_the_steps_before() -> None:
    stream = stream_of([("ann", "lamp"), ("bob", "lamp"), ("cid", "lamp"), ("cid", "vase")])
    answers = answers_of(Fixed("lamp", "vase", "unknown"), stream, questions_of(stream, 0), ticking(1))
    # The lamp is the last item; neither of the others was there before.
    assert answers.popularity == 0.0
    assert answers.recommended == {"vase", "unknown"}
    stream = stream_of([("ann", "lamp"), ("bob", "lamp"), ("cid", "sofa"), ("cid", "vase")])
    answers = answers_of(Fixed("lamp", "vase"), stream, questions_of(stream, 0), ticking(1))
    assert answers.popularity == pytest.approx(log2(3) / 2)
