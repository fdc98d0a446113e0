"""The ranker learns each step of each shopper once, and always has an answer."""

import threading
from typing import get_args

import numpy as np
import pytest
from links import SHAPE, Chain

from headrace.online_model.explaining import in_words
from headrace.online_model.ranker import SESSION_GAP_MS, RankedItem, Ranker
from headrace.online_model.scorer import Scorer
from headrace.schemas import HistoryEntry, UserRow
from headrace.schemas.recommendations import Part

START_MS = 1_760_000_000_000


def history(*items: str, every_ms: int = 1000) -> list[HistoryEntry]:
    return [HistoryEntry(item, "view", START_MS + place * every_ms) for place, item in enumerate(items)]


def row(shopper: str, *items: str, steps: int | None = None, every_ms: int = 1000) -> UserRow:
    return UserRow(shopper_id=shopper, history=history(*items, every_ms=every_ms), steps=len(items) if steps is None else steps)


def ranked(ranker: Ranker, *items: str, k: int = 10) -> list[RankedItem]:
    [ranking] = ranker.rank([history(*items)], k).rankings
    return ranking


def names(ranking: list[RankedItem]) -> list[str]:
    return [item.item_id for item in ranking]


@pytest.fixture
def ranker() -> Ranker:
    """A ranker that has seen some shoppers go from lamp to bulb, and has no Transformer weights yet."""
    ranker = Ranker(Scorer(SHAPE))
    for number in range(20):
        ranker.learn(row(f"shopper-{number}", "lamp", "bulb"))
        ranker.learn(row(f"other-{number}", "chair", "table", "vase"))
    return ranker


def test_what_follows_is_ranked_first_and_the_last_item_is_left_out(ranker: Ranker) -> None:
    for asked, expected in (("lamp", "bulb"), ("chair", "table")):
        ranking = ranked(ranker, asked)
        assert ranking[0].item_id == expected
        assert asked not in names(ranking)


def test_a_ranking_is_in_order_names_its_parts_and_ends_at_k(ranker: Ranker) -> None:
    ranking = ranked(ranker, "chair", "lamp")
    scores = [item.score for item in ranking]
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) <= 1 + 1e-5
    assert all(item.part in get_args(Part) for item in ranking)
    assert ranked(ranker, "chair", "lamp", k=2) == ranking[:2]
    assert len(set(names(ranking))) == len(ranking)


def test_a_row_that_comes_again_teaches_nothing(ranker: Ranker) -> None:
    before = ranked(ranker, "lamp")
    assert ranker.learn(row("shopper-3", "lamp", "bulb")) == 0
    assert ranker.learn(row("shopper-3", "lamp")) == 0
    assert ranked(ranker, "lamp") == before
    assert ranker.learn(row("shopper-3", "lamp", "bulb", "vase")) == 1
    assert ranked(ranker, "lamp") != before


def test_a_row_that_skips_steps_teaches_what_the_rows_between_would_have() -> None:
    items = ("lamp", "bulb", "chair", "lamp", "table")
    one_by_one, at_once = Ranker(Scorer(SHAPE)), Ranker(Scorer(SHAPE))
    for end in range(1, len(items) + 1):
        assert one_by_one.learn(row("ada", *items[:end])) == 1
    assert at_once.learn(row("ada", items[0])) == 1
    assert at_once.learn(row("ada", *items)) == 4
    for asked in items:
        assert ranked(at_once, asked) == ranked(one_by_one, asked)


def test_steps_that_have_left_the_history_are_let_go(ranker: Ranker) -> None:
    long = row("ada", *[f"item-{number}" for number in range(50)], steps=1200)
    assert ranker.learn(long) == 50
    assert ranker.learn(long) == 0
    assert ranker.learn(row("ada", *[f"item-{number}" for number in range(2, 52)], steps=1202)) == 2


def test_unknown_items_and_empty_histories_get_what_is_popular(ranker: Ranker) -> None:
    for asked in ((), ("nobody knows it",), ("nobody knows it", "nor this")):
        ranking = ranked(ranker, *asked)
        assert ranking
        assert {item.part for item in ranking} == {"popularity"}
    assert len(ranker.rank([[], history("lamp"), history("?")], 5).rankings) == 3
    assert ranker.rank([], 5).rankings == []


def test_before_anything_is_learned_the_answer_is_empty_and_no_error() -> None:
    fresh = Ranker(Scorer(SHAPE))
    assert ranked(fresh) == ranked(fresh, "lamp") == []
    assert fresh.test_then_learn([row("ada", "lamp", "bulb")])[0].live is None


def test_a_pause_weakens_the_bond_between_what_came_before_and_what_follows() -> None:
    bonds = []
    for every_ms in (SESSION_GAP_MS + 1, SESSION_GAP_MS):
        ranker = Ranker(Scorer(SHAPE))
        ranker.learn(row("ada", "lamp", "bulb", every_ms=every_ms))
        lamp, bulb = (ranker.ids.numbers[item] for item in ("lamp", "bulb"))
        bonds.append(float(ranker.memory.reasons(np.array([lamp], np.int32), np.array([bulb], np.int32))[0, 0]))
    assert 0 < bonds[0] < bonds[1]


def test_each_item_says_which_steps_speak_for_it(ranker: Ranker) -> None:
    by_item = {item.item_id: item for item in ranked(ranker, "chair", "vase", "lamp")}
    assert [reason.item_id for reason in by_item["bulb"].reasons] == ["lamp"]
    assert in_words("bulb", by_item["bulb"].part, by_item["bulb"].reasons) == "because you viewed lamp"
    assert {reason.item_id for reason in by_item["table"].reasons} == {"chair", "vase"}
    assert sum(reason.weight for reason in by_item["table"].reasons) == pytest.approx(1.0, abs=1e-3)
    assert in_words("chair", by_item["chair"].part, by_item["chair"].reasons) == "because you viewed it before"
    [alone, *_] = ranked(ranker)
    assert (alone.reasons, in_words(alone.item_id, alone.part, alone.reasons)) == ((), "popular at the moment")


def test_where_only_the_transformer_speaks_the_nearest_steps_are_the_reasons() -> None:
    ranker = Ranker(Scorer(SHAPE))
    ranker.scorer.apply(*Chain(items=30).snapshot())
    ranking = ranked(ranker, "item-3", "item-5")
    assert {item.part for item in ranking} <= {"transformer", "own_history"}
    reasons = [reason for item in ranking for reason in item.reasons]
    assert {reason.item_id for reason in reasons} <= {"item-3", "item-5"}
    assert all(0 < reason.weight <= 1 for reason in reasons)


def test_a_known_next_step_is_foreseen_at_its_place(ranker: Ranker) -> None:
    [foreseen] = ranker.test_then_learn([row("new", "lamp", "bulb")])
    assert foreseen.live == 0
    assert foreseen.popularity is not None
    [missed] = ranker.test_then_learn([row("new", "lamp", "never seen")])
    assert (missed.live, missed.popularity) == (None, None)


def test_only_news_is_tested(ranker: Ranker) -> None:
    assert ranker.test_then_learn([row("new", "lamp"), row("new", "lamp", "lamp"), row("shopper-3", "lamp", "bulb"), row("new")]) == []


def test_testing_teaches_the_mixture_and_not_the_memories(ranker: Ranker) -> None:
    before = ranked(ranker, "lamp")
    for _ in range(50):
        ranker.test_then_learn([row("new", "lamp", "bulb")])
    after = ranked(ranker, "lamp")
    assert set(names(after)) == set(names(before))
    assert after[0].score > before[0].score
    assert ranker.learn(row("new", "lamp", "bulb")) == 2


def test_the_transformer_has_its_say_and_its_version_is_told(ranker: Ranker) -> None:
    chain = Chain(items=30)
    before = ranker.rank([history("lamp")], 100)
    assert before.version == 0
    ranker.scorer.apply(*chain.snapshot())
    after = ranker.rank([history("lamp"), history("item-5")], 100)
    assert (after.version, after.sha256) == (chain.copy.version, chain.copy.sha256)
    assert len(after.rankings[0]) > len(before.rankings[0])
    assert "transformer" in {item.part for item in after.rankings[1]}
    assert "item-5" not in names(after.rankings[1])


def test_one_thread_may_teach_while_others_read(ranker: Ranker) -> None:
    ranker.scorer.apply(*Chain().snapshot())
    stop, failures, answers = threading.Event(), [], []

    def read() -> None:
        try:
            while not stop.is_set():
                answers.append(len(ranker.rank([history("lamp"), history("chair", "item-3"), []], 5).rankings))
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(300):
            new = row(f"late-{number}", "lamp", f"item-{number % 40}", "chair")
            ranker.test_then_learn([new])
            ranker.learn(new)
    finally:
        stop.set()
        for reader in readers:
            reader.join(timeout=30)
    assert failures == []
    assert answers
    assert set(answers) == {3}
