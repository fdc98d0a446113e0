"""Weights are swapped under those who read: every answer is by one version, and a swap that fails is not noticed."""

import sys
import threading
import time
from collections.abc import Iterator

import pytest
from links import SHAPE, Chain, Link
from msgspec.structs import replace

from headrace.online_model.scorer import Batch, Scorer, _score
from headrace.online_model.weights import FIRST_CAPACITY, NO_WEIGHTS, BadUpdate, MissingLink, ModelCopy
from headrace.schemas import ModelUpdate

HISTORIES = [
    [("item-0", "view")],
    [("item-1", "view"), ("item-2", "cart"), ("nobody knows it", "view")],
    [(f"item-{number}", "purchase") for number in range(9)],
    [],
]
CANDIDATES = [["item-3", "item-4"], ["item-3", "nobody knows it"], [], ["item-11"]]
SWAPS = 250


class TooWarm(RuntimeError):
    pass


def flat(batch: Batch) -> list[tuple[str, float]]:
    return [pair for scored in batch.scores for part in (scored.best, scored.candidates) for pair in sorted(part.items())]


def expected(snapshot: Link) -> Batch:
    copy = ModelCopy(SHAPE)
    copy.apply(*snapshot)
    return Batch(_score(copy, HISTORIES, CANDIDATES, 50), copy.version, copy.sha256)


def assert_is_of_one_version(answer: Batch, right: Batch) -> None:
    assert (answer.version, answer.sha256) == (right.version, right.sha256)
    found, sought = flat(answer), flat(right)
    if found == sought:
        return
    assert [item for item, _ in found] == [item for item, _ in sought]
    assert [score for _, score in found] == pytest.approx([score for _, score in sought], rel=1e-4)


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


def test_before_the_first_weights_every_answer_is_empty() -> None:
    scorer = Scorer(SHAPE)
    assert (scorer.version, scorer.sha256) == (0, NO_WEIGHTS)
    assert flat(served(scorer)) == []
    assert len(served(scorer).scores) == len(HISTORIES)


def test_an_answer_holds_probabilities_over_the_known_items(scorer: Scorer) -> None:
    batch = served(scorer)
    assert (batch.version, batch.sha256) == (scorer.version, scorer.sha256)
    for scored, candidates in zip(batch.scores, CANDIDATES, strict=True):
        assert sum(scored.best.values()) == pytest.approx(1.0, rel=1e-5)
        assert set(scored.best) == {f"item-{number}" for number in range(12)}
        assert scored.candidates == {item: pytest.approx(scored.best[item]) for item in candidates if item.startswith("item")}
    assert scorer.score([], []).scores == []


def test_a_history_in_a_batch_is_scored_as_it_is_alone(scorer: Scorer) -> None:
    together = served(scorer)
    for place, (history, candidates) in enumerate(zip(HISTORIES, CANDIDATES, strict=True)):
        [alone] = scorer.score([history], [candidates]).scores
        assert alone.best == pytest.approx(together.scores[place].best, rel=1e-4)


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
    assert flat(served(scorer)) == flat(before)
    scorer.apply(update, payload)
    assert_is_of_one_version(served(scorer), expected(chain.snapshot()))


@pytest.mark.parametrize("new_items", [1, FIRST_CAPACITY])
def test_a_warm_up_that_fails_takes_the_update_back(scorer: Scorer, chain: Chain, new_items: int) -> None:
    before = served(scorer)

    def fail(copy: ModelCopy) -> None:
        assert copy.version == 2
        raise TooWarm

    link = chain.step(new_items=new_items)
    with pytest.raises(TooWarm):
        scorer.apply(*link, warm_up=fail)
    assert (scorer.version, flat(served(scorer))) == (1, flat(before))
    warmed: list[int] = []
    scorer.apply(*link, warm_up=lambda copy: warmed.append(copy.version))
    assert warmed == [2]
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
