"""The whole model on one stream: it learns, answers whatever is asked, and each of its parts can be left out."""

import copy
import math
import random

import pytest

from headrace.online_model.evidence import PARTS
from headrace.online_model.next_item import NextItemModel
from headrace.online_model.transformer import TransformerShape
from headrace.schemas import HistoryEntry

SHAPE = TransformerShape(width=16, length=10, categories=16)
START_MS = 1_760_000_000_000


def entry(item: str, time_ms: int = START_MS, price: float | None = None, category: str | None = None) -> HistoryEntry:
    return HistoryEntry(item, "view", time_ms, price, category)


def walk(model: NextItemModel, steps: int, seed: int = 1, items: int = 60) -> list[float]:
    """Let shoppers walk a ring of items; return for each tested step whether the model had it among its best five."""
    draw, histories, hits = random.Random(seed), {}, []
    for number in range(steps):
        shopper = f"shopper-{draw.randrange(20)}-{number // 400}"
        history = histories.get(shopper, ())
        last = int(history[-1].item_id.removeprefix("item-")) if history else draw.randrange(items)
        step = entry(f"item-{(last + draw.choice((1, 1, 1, 2))) % items}", START_MS + 1000 * number)
        if history and history[-1].item_id != step.item_id:
            hits.append(float(step.item_id in model.rank(shopper, history, 5)))
        model.learn(shopper, history, step)
        histories[shopper] = (*history, step)[-50:]
    return hits


@pytest.fixture(scope="module")
def taught() -> NextItemModel:
    """A model that has seen three rounds of fine-tuning."""
    model = NextItemModel(shape=SHAPE)
    walk(model, 1600)
    return model


def test_it_learns_what_follows_what() -> None:
    hits = walk(NextItemModel(shape=SHAPE), 1600)
    early, late = hits[:100], hits[-300:]
    assert sum(late) / len(late) > 0.9
    assert sum(late) / len(late) > sum(early) / len(early)


def test_the_same_seed_and_stream_give_the_same_answers(taught: NextItemModel) -> None:
    twin = NextItemModel(shape=SHAPE)
    walk(twin, 1600)
    for item in range(0, 60, 7):
        history = (entry(f"item-{item}"),)
        assert twin.rank("somebody", history, 20) == taught.rank("somebody", history, 20)


def test_a_new_item_is_recommended_after_one_visit(taught: NextItemModel) -> None:
    model = copy.deepcopy(taught)
    history = (entry("item-3"),)
    assert "brand-new" not in model.rank("ada", history, 100)
    model.learn("ben", (), history[0])
    model.learn("ben", history, entry("brand-new"))
    # Beside what was seen dozens of times near this item, it comes before what was never seen near it.
    assert "brand-new" in model.rank("ada", history, 30)


@pytest.mark.parametrize(
    "history",
    [
        (),
        (entry("nobody knows it"),),
        tuple(entry(f"unknown-{number}") for number in range(60)),
        tuple(entry(f"item-{number % 60}", START_MS + number) for number in range(10_000)),
        (entry("item-1", price=math.nan), entry("item-2", price=math.inf), entry("item-3", price=-1.0)),
        (entry("item-1", category="a category never seen"), entry("item-2", category="")),
        (entry("item-1", START_MS), entry("item-2", 0), entry("item-3", 2**53)),
    ],
    ids=["empty", "unknown", "many unknown", "10,000 steps", "prices", "categories", "times"],
)
def test_whatever_is_asked_there_is_an_answer(taught: NextItemModel, history: tuple[HistoryEntry, ...]) -> None:
    model = copy.deepcopy(taught)
    ranking = model.rank("somebody", history, 20)
    assert len(ranking) == len(set(ranking)) == 20
    assert not history or history[-1].item_id not in ranking
    model.learn("somebody", history, entry("item-9", price=math.nan, category="another"))
    assert len(model.rank("somebody", (*history, entry("item-9")), 20)) == 20


def test_before_the_first_step_the_answer_is_empty() -> None:
    assert NextItemModel(shape=SHAPE).rank("ada", (), 20) == []
    assert NextItemModel(shape=SHAPE).rank("ada", (entry("item-1"),), 20) == []


def test_a_copy_learns_apart(taught: NextItemModel) -> None:
    before = [taught.rank("ada", (entry(f"item-{item}"),), 10) for item in range(5)]
    twin = copy.deepcopy(taught)
    walk(twin, 600, seed=2)
    assert [taught.rank("ada", (entry(f"item-{item}"),), 10) for item in range(5)] == before
    assert [twin.rank("ada", (entry(f"item-{item}"),), 10) for item in range(5)] != before


@pytest.mark.parametrize("part", [*PARTS, "network"])
def test_each_part_can_be_left_out(part: str) -> None:
    hits = walk(NextItemModel(shape=SHAPE, left_out=[part]), 700)
    assert sum(hits[-100:]) > 60


def test_a_part_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"left_out: some of covisitation, .*network were expected, not wheels"):
        NextItemModel(left_out=["wheels"])
