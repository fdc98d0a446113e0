"""Weights are swapped under those who read: every answer is by one version, and a swap that fails is not noticed."""

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from links import SHAPE, Chain, Link
from msgspec.structs import replace

from headrace.online_model.scorer import Batch, Scored, Scorer, score_with
from headrace.online_model.weights import FIRST_CAPACITY, NO_WEIGHTS, BadUpdate, MissingLink, ModelCopy
from headrace.schemas import HistoryEntry, ModelUpdate
from headrace.schemas.feature_rows import Kind


def history(*items: str, kind: Kind = "view") -> list[HistoryEntry]:
    return [HistoryEntry(item, kind, 1000 * place, price=float(place), category=item) for place, item in enumerate(items)]


HISTORIES = [
    history("item-0"),
    history("item-1", "item-2", "nobody knows it", kind="cart"),
    history(*[f"item-{number}" for number in range(9)], kind="purchase"),
    [],
]
# Item 3 of a chain is in row 4, and so on; row 0 is the unknown item, and no table here has a row 10,000,000.
CANDIDATES = [np.array(rows, np.int64) for rows in ([4, 5], [4, 0, 10_000_000], [], [12])]
SWAPS = 250


class TooWarm(RuntimeError):
    pass


def numbers(scored: Scored) -> list[float]:
    parts = (scored.logits, scored.to_last, scored.best_rows, scored.best_logits, scored.best_to_last)
    return [number for part in parts for number in part.tolist()] + [scored.normaliser]


def flat(batch: Batch) -> list[float]:
    return [number for scored in batch.scores for number in numbers(scored)]


def expected(snapshot: Link) -> Batch:
    copy = ModelCopy(SHAPE)
    copy.apply(*snapshot)
    return Batch(score_with(copy, HISTORIES, CANDIDATES, 50), copy.version, copy.sha256)


def assert_is_of_one_version(answer: Batch, right: Batch) -> None:
    assert (answer.version, answer.sha256) == (right.version, right.sha256)
    # Unit vectors that were renewed by rows differ from those of a whole table in their last bits, and logits are ten times as large.
    assert flat(answer) == pytest.approx(flat(right), rel=1e-4, abs=1e-4, nan_ok=True)


def served(scorer: Scorer) -> Batch:
    return scorer.score(HISTORIES, CANDIDATES)


@pytest.fixture
def busy_switching() -> Iterator[None]:
    """Let threads take turns every 0.1 ms, so that they meet in more places."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(usual_s)


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def scorer(chain: Chain) -> Scorer:
    scorer = Scorer(SHAPE)
    scorer.apply(*chain.snapshot())
    return scorer


def test_before_the_first_weights_and_for_an_empty_history_nothing_is_said(scorer: Scorer) -> None:
    early = Scorer(SHAPE)
    assert (early.version, early.sha256) == (0, NO_WEIGHTS)
    scores = served(early).scores
    assert len(scores) == len(HISTORIES)
    for scored, candidates in [*zip(scores, CANDIDATES, strict=True), (served(scorer).scores[3], CANDIDATES[3])]:
        assert len(scored.best_rows) == len(scored.best_logits) == len(scored.best_to_last) == 0
        assert len(scored.logits) == len(scored.to_last) == len(candidates)
        assert np.isnan(scored.logits).all()
        assert not scored.to_last.any()


def test_an_answer_holds_probabilities_over_the_known_items(scorer: Scorer) -> None:
    batch = served(scorer)
    assert (batch.version, batch.sha256) == (scorer.version, scorer.sha256)
    for scored in batch.scores[:3]:
        assert sorted(scored.best_rows.tolist()) == list(range(1, 13))
        assert np.exp(scored.best_logits - scored.normaliser).sum() == pytest.approx(1.0, rel=1e-5)
        assert (np.diff(scored.best_logits) <= 0).all()
    assert scorer.score([], []).scores == []
    assert len(scorer.score(HISTORIES, CANDIDATES, best=3).scores[0].best_rows) == 3


def test_candidates_are_scored_as_the_best_are_and_unknown_ones_are_told(scorer: Scorer) -> None:
    for scored, candidates in list(zip(served(scorer).scores, CANDIDATES, strict=True))[:3]:
        logits = dict(zip(scored.best_rows.tolist(), scored.best_logits.tolist(), strict=True))
        to_last = dict(zip(scored.best_rows.tolist(), scored.best_to_last.tolist(), strict=True))
        for row, logit, cosine in zip(candidates.tolist(), scored.logits.tolist(), scored.to_last.tolist(), strict=True):
            assert logit == pytest.approx(logits.get(row, float("nan")), rel=1e-4, nan_ok=True)
            assert cosine == pytest.approx(to_last.get(row, 0.0), abs=1e-5)


def test_nearness_to_the_last_item_is_a_cosine_and_0_where_it_is_unknown(scorer: Scorer) -> None:
    first, second, third, _ = served(scorer).scores
    for scored, row in ((first, 1), (third, 9)):
        assert scored.best_to_last[scored.best_rows == row] == pytest.approx(1.0, rel=1e-5)
        assert np.abs(scored.best_to_last).max() <= 1 + 1e-5
    assert not second.best_to_last.any()


def test_a_history_of_unknown_items_gets_an_answer(scorer: Scorer) -> None:
    [scored] = scorer.score([history("?", "nobody knows it")], [CANDIDATES[0]]).scores
    assert len(scored.best_rows) == 12
    assert np.isfinite(numbers(scored)).all()


def test_a_history_in_a_batch_is_scored_as_it_is_alone(scorer: Scorer) -> None:
    together = served(scorer)
    for place, (asked, candidates) in enumerate(zip(HISTORIES, CANDIDATES, strict=True)):
        [alone] = scorer.score([asked], [candidates]).scores
        assert numbers(alone) == pytest.approx(numbers(together.scores[place]), rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.usefixtures("busy_switching")
def test_readers_see_answers_of_exactly_one_version_through_hundreds_of_swaps(scorer: Scorer, chain: Chain) -> None:
    right, links = {1: expected(chain.snapshot())}, []
    for _ in range(SWAPS):
        links.append(chain.step())
        right[chain.copy.version] = expected(chain.snapshot())
    answers: list[list[Batch]] = [[], []]
    stop, failures = threading.Event(), []

    def read(kept: list[Batch]) -> None:
        try:
            while not stop.is_set():
                kept.append(served(scorer))
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read, args=(kept,)) for kept in answers]
    for reader in readers:
        reader.start()
    try:
        for link in links:
            scorer.apply(*link)
    finally:
        stop.set()
        for reader in readers:
            reader.join(timeout=30)
    assert failures == []
    assert scorer.version == SWAPS + 1
    for kept in answers:
        seen = [answer.version for answer in kept]
        assert seen == sorted(seen), "a reader went back to an older version"
        for answer in kept:
            assert_is_of_one_version(answer, right[answer.version])
    assert len({answer.version for kept in answers for answer in kept}) > 20
    assert_is_of_one_version(served(scorer), right[SWAPS + 1])


def test_a_torn_answer_would_be_noticed(chain: Chain) -> None:
    before = expected(chain.snapshot())
    chain.step(new_items=0)
    after = expected(chain.snapshot())
    torn = Batch([*before.scores[:2], *after.scores[2:]], after.version, after.sha256)
    with pytest.raises(AssertionError):
        assert_is_of_one_version(torn, after)


def test_lent_weights_do_not_change_and_hold_up_the_writer_alone(scorer: Scorer, chain: Chain) -> None:
    link = chain.step()
    with scorer.live() as lent:
        writer = threading.Thread(target=scorer.apply, args=link)
        writer.start()
        deadline = time.monotonic() + 10
        while scorer.version == 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert scorer.version == 2
        assert lent.version == 1
        assert writer.is_alive()
        assert served(scorer).version == 2
    writer.join(timeout=10)
    assert not writer.is_alive()
    assert lent.version == 2


def test_a_reader_that_comes_in_while_the_sides_change_gets_the_live_one(scorer: Scorer, chain: Chain) -> None:
    """The narrowest moment: the reader has chosen a side, and a whole swap passes before it has said so."""
    first, second = chain.step(), chain.step()

    class SlowDoor(set[object]):
        def add(self, token: object) -> None:
            if scorer.version == 1:
                scorer.apply(*first)
            super().add(token)

    scorer._readers = (SlowDoor(), set()) if scorer._live == 0 else (set(), SlowDoor())
    with scorer.live() as lent:
        writer = threading.Thread(target=scorer.apply, args=second)
        writer.start()
        writer.join(timeout=0.2)
        assert (lent.version, scorer.version) == (2, 3)
    writer.join(timeout=10)
    assert lent.version == 3


def test_after_a_swap_both_sides_answer_alike(scorer: Scorer, chain: Chain) -> None:
    for _ in range(4):
        scorer.apply(*chain.step())
        assert_is_of_one_version(served(scorer), expected(chain.snapshot()))


@pytest.mark.parametrize("fault", ["a spoilt payload", "a lost link"])
def test_an_update_that_fails_leaves_the_service_as_it_was(scorer: Scorer, chain: Chain, fault: str) -> None:
    before = served(scorer)
    update, payload = chain.step()
    spoilt = payload[:-1] + bytes([payload[-1] ^ 1])
    with pytest.raises(BadUpdate):
        scorer.apply(*{"a spoilt payload": (update, spoilt), "a lost link": (replace(update, base_version=77), payload)}[fault])
    assert flat(served(scorer)) == pytest.approx(flat(before), nan_ok=True)
    scorer.apply(update, payload)
    assert_is_of_one_version(served(scorer), expected(chain.snapshot()))


def test_a_swap_gives_way_before_each_of_its_steps(chain: Chain) -> None:
    steps: list[str] = []
    scorer = Scorer(SHAPE, give_way=lambda: steps.append(f"way given at version {scorer.version}"))
    scorer.apply(*chain.snapshot())
    steps.clear()
    scorer.apply(*chain.step(), warm_up=lambda copy: steps.append("warm-up"), on_live=lambda: steps.append("live"))
    before, after = "way given at version 1", "way given at version 2"
    assert steps == [before, before, before, "warm-up", "live", after]


@pytest.mark.parametrize("new_items", [1, FIRST_CAPACITY])
def test_a_warm_up_that_fails_takes_the_update_back(scorer: Scorer, chain: Chain, new_items: int) -> None:
    before = served(scorer)

    def fail(copy: ModelCopy) -> None:
        assert copy.version == 2
        raise TooWarm

    link = chain.step(new_items=new_items)
    with pytest.raises(TooWarm):
        scorer.apply(*link, warm_up=fail)
    assert scorer.version == 1
    assert flat(served(scorer)) == pytest.approx(flat(before), nan_ok=True)
    assert [copy.epoch for copy in scorer._copies] == [0, 0]
    warmed: list[int] = []
    scorer.apply(*link, warm_up=lambda copy: warmed.append(copy.version))
    assert warmed == [2]
    scorer.apply(*chain.snapshot(), warm_up=lambda copy: warmed.append(copy.version))
    assert warmed == [2, 2, 2], "both copies, each before it is read"
    assert_is_of_one_version(served(scorer), expected(chain.snapshot()))
    scorer.apply(*chain.step())
    assert_is_of_one_version(served(scorer), expected(chain.snapshot()))


def test_a_gap_is_closed_by_a_snapshot(scorer: Scorer, chain: Chain) -> None:
    chain.step()
    lost: tuple[ModelUpdate, bytes] = chain.step()
    with pytest.raises(MissingLink):
        scorer.apply(*lost)
    scorer.apply(*chain.snapshot())
    scorer.apply(*chain.step())
    assert_is_of_one_version(served(scorer), expected(chain.snapshot()))
