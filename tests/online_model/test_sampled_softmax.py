"""The loss that is learned from is the one that is told, and its gradients are those that torch finds."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from headrace.online_model import sampled_softmax
from headrace.online_model.sampled_softmax import losses_of, weighted_loss

WIDTH = 8


def drawn(count: int, negatives: int, items: int, seed: int) -> tuple[Tensor, ...]:
    """Return vectors, right and wrong items, targets, negatives, the logs of their shares, and weights."""
    draw = torch.Generator().manual_seed(seed)

    def units(number: int) -> Tensor:
        return functional.normalize(torch.randn(number, WIDTH, generator=draw, dtype=torch.float64), dim=1)

    def log_shares(number: int) -> Tensor:
        return -10.0 * torch.rand(number, generator=draw, dtype=torch.float64)

    chosen = torch.randint(items, (count,), generator=draw), torch.randint(items, (negatives,), generator=draw)
    weights = torch.rand(count, generator=draw, dtype=torch.float64)
    learned = [each.requires_grad_() for each in (10.0 * units(count), units(count), units(negatives))]
    return (*learned, *chosen, log_shares(count), log_shares(negatives), weights)


@pytest.mark.parametrize(
    ("count", "negatives", "items"),
    [(300, 64, 20), (300, 64, 100_000), (1, 64, 20), (50, 1, 2), (7, 0, 5), (0, 16, 5)],
    ids=["many doubles", "hardly any", "one target", "one negative", "no negatives", "no targets"],
)
@pytest.mark.parametrize("together", [1, 1000, 1 << 18])
def test_loss_and_gradients_are_those_of_the_plain_form(
    count: int, negatives: int, items: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_softmax, "LOGITS_TOGETHER", together)
    plain, ours = drawn(count, negatives, items, seed=1), drawn(count, negatives, items, seed=1)
    # Twice the loss, so that what comes from behind it is taken into account.
    wanted = 2.0 * (plain[-1] * losses_of(*plain[:-1])).sum()
    found = 2.0 * weighted_loss(*ours)
    assert torch.allclose(found, wanted)
    wanted.backward()
    found.backward()
    for mine, theirs in zip(ours[:3], plain[:3], strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-7)
