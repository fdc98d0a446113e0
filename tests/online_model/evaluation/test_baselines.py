"""What a shop would use instead, each learning at each step."""

import random
import sys

import pytest
from small_streams import history_of, stream_of, taught

from headrace.online_model.evaluation.baselines import Covisitation, Popularity, SessionNeighbours
from headrace.online_model.evaluation.models import HOLDINGS, MODELS, MissingPackage, StreamContext, UnknownModel, build
from headrace.online_model.evaluation.sessions import PAUSE_MS, last_session, session_before
from headrace.online_model.evaluation.stream_model import StreamModel

LEARNING_AT_ONCE = [Popularity, Covisitation, SessionNeighbours]
BUILT_HERE = sorted(MODELS.keys() - {"headrace"})


@pytest.mark.parametrize("model", LEARNING_AT_ONCE)
def test_nothing_is_known_at_first(model: type[StreamModel]) -> None:
    assert list(model().rank("ann", history_of("lamp"), 20)) == []


@pytest.mark.parametrize("model", LEARNING_AT_ONCE)
def test_the_last_item_is_left_out_and_no_item_comes_twice(model: type[StreamModel]) -> None:
    draw = random.Random(1)
    pairs = [(f"shopper-{draw.randrange(20)}", f"item-{draw.randrange(30)}") for _ in range(500)]
    fresh = model()
    for shopper, history in taught(fresh, pairs).items():
        ranked = list(fresh.rank(shopper, history, 20))
        assert len(ranked) == len(set(ranked)) == 20
        assert history[-1].item_id not in ranked


def test_popularity_ranks_by_count_and_forgets() -> None:
    model = Popularity(half_life=8)
    taught(model, [("ann", "lamp")] * 16)
    assert list(model.rank("bob", history_of("vase"), 2)) == ["lamp"]
    taught(model, [("ann", "vase")] * 16)
    assert list(model.rank("bob", history_of("sofa"), 2)) == ["vase", "lamp"]


def test_covisitation_ranks_what_follows_more_often_first() -> None:
    model = Covisitation()
    taught(model, [(f"shopper-{number}", item) for number in range(5) for item in ("lamp", "vase" if number else "chair")])
    assert list(model.rank("ann", history_of("lamp"), 20)) == ["vase", "chair"]


def test_session_neighbours_rank_what_like_sessions_went_to() -> None:
    model = SessionNeighbours()
    taught(model, [("ann", "lamp"), ("ann", "vase"), ("ann", "chair"), ("bob", "lamp"), ("bob", "sofa")])
    assert next(iter(model.rank("cid", history_of("vase", "lamp"), 20))) in ("chair", "vase")
    assert "sofa" in model.rank("cid", history_of("vase", "lamp"), 20)


@pytest.mark.parametrize("model", [Covisitation, SessionNeighbours])
def test_what_comes_after_a_pause_is_another_session(model: type[StreamModel]) -> None:
    fresh = model()
    taught(fresh, [("ann", "lamp"), ("ann", "vase")], step_ms=PAUSE_MS)
    assert list(fresh.rank("bob", history_of("lamp"), 20)) == []
    taught(fresh, [("ann", "lamp"), ("ann", "vase")], step_ms=PAUSE_MS - 1)
    assert list(fresh.rank("bob", history_of("lamp"), 20)) == ["vase"]


def test_the_last_session_is_what_was_done_without_a_pause() -> None:
    early = [step.entry for step in stream_of([("ann", "lamp"), ("ann", "vase")])]
    late = [step.entry for step in stream_of([("ann", item) for item in ("lamp", "sofa", "bed")], step_ms=PAUSE_MS)][2:]
    assert last_session([*early, *late]) == ["bed"]
    assert last_session(early) == ["lamp", "vase"]
    assert last_session([]) == []
    assert session_before(early, late[0]) == []
    assert session_before([], early[0]) == []
    assert session_before(early[:1], early[1]) == ["lamp"]


@pytest.mark.parametrize("name", [*BUILT_HERE, *(f"covisitation_{ending}" for ending in HOLDINGS)])
def test_every_name_makes_a_model(name: str) -> None:
    model = build(name, 1, StreamContext(events=100, steps=100))
    histories = taught(model, [(f"shopper-{number % 5}", f"item-{number % 7}") for number in range(100)])
    for shopper, history in histories.items():
        assert history[-1].item_id not in list(model.rank(shopper, history, 20))


@pytest.mark.parametrize("name", ["covisitatoin", "headrace_thawed", "_frozen", "frozen", "covisitation_frozen_refit"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        UnknownModel, match=r"popularity, covisitation, session_knn, als, bpr, headrace.*_frozen, _refit, _nightly"
    ) as refused:
        build(name, 1, StreamContext(events=10, steps=10))
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["als", "bpr_frozen"])
def test_a_model_whose_package_is_missing_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)
    with pytest.raises(MissingPackage, match=r"needs the package implicit; install it with: pip install 'headrace\[evaluate\]'"):
        build(name, 1, StreamContext(events=10, steps=10))
