"""A small shop for tests of training: shoppers who walk along rings of items, so that the next item can be learned."""

import random
from collections.abc import Iterator

from headrace.online_model.training.examples import Example
from headrace.online_model.transformer import TransformerShape
from headrace.schemas import HistoryEntry

SHAPE = TransformerShape(width=16, layers=1, heads=2, length=6, categories=16, dropout=0.1)
STILL = TransformerShape(width=16, layers=1, heads=2, length=6, categories=16, dropout=0.0)
ITEMS = 30


def walks(shoppers: int = 60, steps: int = 12, seed: int = 3) -> list[Example]:
    """Return the examples of shoppers who mostly go on to the following item, in the order of their times."""
    return sorted(_walks(shoppers, steps, random.Random(seed)), key=lambda example: example.asked_ms)


def _walks(shoppers: int, steps: int, noise: random.Random) -> Iterator[Example]:
    for shopper in range(shoppers):
        item, time_ms = noise.randrange(ITEMS), 1_700_000_000_000 + noise.randrange(10**9)
        history: list[HistoryEntry] = []
        for _ in range(steps):
            item = (item + 1) % ITEMS if noise.random() < 0.9 else noise.randrange(ITEMS)
            time_ms += noise.randrange(1000, 10**6)
            step = HistoryEntry(f"item-{item}", noise.choice(["view", "cart"]), time_ms, 10.0 + item, f"shelf-{item % 4}")
            yield Example(
                f"shopper-{shopper}", time_ms - 1, tuple(history[-50:]), step, f"clicks/{shopper % 2}", shopper * 100 + len(history)
            )
            history.append(step)
