"""What mixture and network have learned travels: a twin ranks alike, and what does not fit is refused."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from headrace.online_model.evidence import CONTEXTS, FEATURES, PARTS
from headrace.online_model.mixture import Mixture
from headrace.online_model.ranking_network import RankingNetwork
from headrace.online_model.ranking_weights import ranking_payload, take_up
from headrace.online_model.weights import BadUpdate


def taught(seed: int = 1, questions: int = 3000) -> tuple[Mixture, RankingNetwork]:
    """Teach both that the candidate with the largest third feature is what comes."""
    draw, mixture, network = np.random.default_rng(seed), Mixture(PARTS, CONTEXTS), RankingNetwork(seed=seed)
    for _ in range(questions):
        features = draw.normal(size=(20, FEATURES)).astype(np.float32)
        mixture.learn(int(draw.integers(CONTEXTS)), draw.random(len(PARTS)))
        network.learn(features, int(features[:, 2].argmax()))
    return mixture, network


def test_a_twin_that_takes_up_what_was_learned_ranks_alike() -> None:
    mixture, network = taught()
    twin = Mixture(PARTS, CONTEXTS), RankingNetwork(seed=9)
    features = np.random.default_rng(3).normal(size=(50, FEATURES)).astype(np.float32)
    assert not np.allclose(twin[1].scores(features), network.scores(features))
    take_up(*twin, ranking_payload(mixture, network))
    assert np.array_equal(twin[1].scores(features), network.scores(features))
    assert all(np.array_equal(twin[0].weights(context), mixture.weights(context)) for context in range(CONTEXTS))
    assert twin[1].steps == network.steps


def test_who_has_taken_up_weights_goes_on_learning_without_losing_them() -> None:
    mixture, network = taught()
    twin = RankingNetwork(seed=9)
    take_up(Mixture(PARTS, CONTEXTS), twin, ranking_payload(mixture, network))
    draw, right = np.random.default_rng(5), 0
    for _ in range(200):
        features = draw.normal(size=(20, FEATURES)).astype(np.float32)
        came = int(features[:, 2].argmax())
        right += int(twin.scores(features).argmax() == came)
        twin.learn(features, came)
    begins = RankingNetwork(seed=9)
    first = sum(
        int(begins.scores(features).argmax() == features[:, 2].argmax())
        for features in np.random.default_rng(5).normal(size=(200, 20, FEATURES)).astype(np.float32)
    )
    assert right > 2 * first


@pytest.mark.parametrize("spoil", ["cut", "nan", "shape", "sum", "missing"])
def test_what_does_not_fit_is_refused_and_changes_nothing(spoil: str) -> None:
    payload = ranking_payload(*taught(questions=50))
    arrays = load(payload)
    if spoil == "nan":
        arrays["network"] = np.full_like(arrays["network"], np.nan)
    elif spoil == "shape":
        arrays["network"] = arrays["network"][:-1]
    elif spoil == "sum":
        arrays["mixture"] = arrays["mixture"] * 2
    elif spoil == "missing":
        del arrays["mixture"]
    spoilt = payload[:-100] if spoil == "cut" else save(arrays)
    mixture, network = Mixture(PARTS, CONTEXTS), RankingNetwork()
    before = network.learned()
    with pytest.raises(BadUpdate, match="ranking weights"):
        take_up(mixture, network, spoilt)
    assert np.array_equal(network.learned(), before)
    assert np.allclose(mixture.weights(0), 1 / len(PARTS))
