"""The outside peers learn what goes together, on their schedule."""

import random

import pytest
from small_streams import history_of, taught

from headrace.online_model.evaluation.implicit_models import AlternatingLeastSquares, BayesianPersonalisedRanking

PEERS = [AlternatingLeastSquares, BayesianPersonalisedRanking]
Peer = type[AlternatingLeastSquares] | type[BayesianPersonalisedRanking]


def two_tastes(steps: int) -> list[tuple[str, str]]:
    """Shoppers who like either garden or kitchen things, 100 of each, and nobody who likes both."""
    draw = random.Random(1)
    pairs = []
    for _ in range(steps):
        shopper = draw.randrange(200)
        pairs.append((f"shopper-{shopper}", f"{('garden', 'kitchen')[shopper % 2]}-{draw.randrange(100)}"))
    return pairs


@pytest.mark.parametrize("peer", PEERS)
def test_a_history_is_answered_with_its_own_taste(peer: Peer) -> None:
    model = peer(refit_every=4_000, seed=1)
    taught(model, two_tastes(4_000))
    for taste in ("garden", "kitchen"):
        ranked = list(model.rank("a stranger", history_of(f"{taste}-1", f"{taste}-2", f"{taste}-3"), 10))
        assert len(ranked) == 10
        assert f"{taste}-3" not in ranked
        assert sum(item.startswith(taste) for item in ranked) >= 9


@pytest.mark.parametrize("peer", PEERS)
def test_what_came_after_the_last_fit_is_not_in_it(peer: Peer) -> None:
    model = peer(refit_every=300, seed=1)
    taught(model, two_tastes(300))
    before = list(model.rank("a stranger", history_of("garden-1"), 24))
    taught(model, [("ann", "garden-1"), ("ann", "a new thing")])
    assert list(model.rank("a stranger", history_of("garden-1"), 24)) == before
    assert "a new thing" not in before


@pytest.mark.parametrize("peer", PEERS)
def test_where_no_item_is_known_popular_ones_are_the_answer(peer: Peer) -> None:
    model = peer(refit_every=4, seed=1)
    assert list(model.rank("ann", history_of("lamp"), 20)) == []
    taught(model, [("ann", "lamp"), ("bob", "lamp")])
    assert list(model.rank("cid", history_of("vase"), 20)) == ["lamp"]
    taught(model, [("ann", "sofa"), ("bob", "lamp")])
    assert next(iter(model.rank("cid", history_of("vase"), 20))) == "lamp"


@pytest.mark.parametrize("peer", PEERS)
def test_a_seed_gives_the_same_answer_each_time(peer: Peer) -> None:
    answers = []
    for _ in range(2):
        model = peer(refit_every=300, seed=3)
        taught(model, two_tastes(300))
        answers.append(list(model.rank("a stranger", history_of("garden-1", "kitchen-2"), 20)))
    assert answers[0] == answers[1]
