"""The network begins as the mixture and learns what the mixture does not see."""

import numpy as np
import pytest
import torch

from headrace.online_model.evidence import FEATURES, LOG_MIX
from headrace.online_model.ranking_network import RankingNetwork


def question(draw: np.random.Generator, candidates: int = 30) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return draw.normal(size=(candidates, FEATURES)).astype(np.float32)


def test_at_first_the_order_is_that_of_the_mixture() -> None:
    draw = np.random.default_rng(1)
    asked = question(draw)
    asked[:, LOG_MIX] *= 20
    assert np.array_equal(RankingNetwork().scores(asked), asked[:, LOG_MIX])


@pytest.mark.parametrize("chosen", ["the largest of a feature", "the one with a feature nearest to zero"])
def test_it_learns_what_decides(chosen: str) -> None:
    draw, network = np.random.default_rng(1), RankingNetwork(rate=5e-3, questions_per_step=2)
    hits = 0
    for number in range(6000):
        asked = question(draw)
        deciding = asked[:, 3] if chosen.startswith("the largest") else -np.abs(asked[:, 3])
        came = int(deciding.argmax())
        hits += number >= 5000 and int(network.scores(asked).argmax()) == came
        network.learn(asked, came)
    # By chance it would be one in thirty.
    assert hits > 300


def test_the_gradient_is_that_of_the_softmax_loss() -> None:
    draw, network = np.random.default_rng(1), RankingNetwork(questions_per_step=1000)
    asked = question(draw)
    # At first the hidden layer is silent, and nothing would reach the weights before it.
    network._weights += 0.1 * draw.normal(size=len(network._weights)).astype(np.float32)
    into, bias, out, direct = (torch.tensor(part, requires_grad=True) for part in network._parameters(network._weights))
    scores = torch.relu(torch.tensor(asked) @ into + bias) @ out + torch.tensor(asked) @ direct
    torch.nn.functional.cross_entropy(scores[None], torch.tensor([7])).backward()
    network.learn(asked, 7)
    for ours, theirs in zip(network._parameters(network._gradient), (into, bias, out, direct), strict=True):
        assert theirs.grad is not None
        assert np.allclose(ours, theirs.grad.numpy(), atol=1e-5)


def test_the_same_seed_and_questions_give_the_same_network() -> None:
    networks = [RankingNetwork(seed=3) for _ in range(2)]
    for network in networks:
        draw = np.random.default_rng(1)
        for _ in range(100):
            network.learn(question(draw), 5)
    asked = question(np.random.default_rng(2))
    assert np.array_equal(networks[0].scores(asked), networks[1].scores(asked))
    assert networks[0].steps == 6


def test_an_extreme_feature_leaves_the_weights_finite() -> None:
    network = RankingNetwork(questions_per_step=1)
    for scale in (1e3, 1e6, 0.0):
        network.learn(question(np.random.default_rng(1)) * np.float32(scale), 0)
    assert np.isfinite(network.scores(question(np.random.default_rng(2)))).all()
