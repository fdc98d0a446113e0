"""A round learns a little from what is new, and what it makes is either published whole or forgotten."""

import random
from collections.abc import Sequence

import pytest
import torch
from links import Chain, frozen, manifest, same

from headrace.online_model.fine_tuning import FineTuner, Round, TuningPlan
from headrace.online_model.gate import ENOUGH_EVENTS
from headrace.online_model.weights import FIRST_CAPACITY, SHAPE, ModelCopy
from headrace.schemas import Step

PLAN = TuningPlan(steps=2, batch=32, negatives=32, replay=500, recent=500, held_back=64)
PAIRS = 10


class Shop:
    """A tuner, and a scorer's copy that follows what the tuner publishes."""

    def __init__(self, plan: TuningPlan = PLAN) -> None:
        torch.manual_seed(1)
        chain = Chain(items=6)
        self.follower = ModelCopy(chain.copy.model.shape)
        self.follower.apply(*chain.snapshot())
        self.tuner = FineTuner(chain.copy, plan)
        self._random = random.Random(1)

    def pairs(self, count: int = 40) -> list[list[Step]]:
        """Histories whose last step follows from the one before it: A3 leads to B3."""
        picked = self._random.choices(range(PAIRS), k=count)
        return [[("item-1", "view"), (f"A{number}", "view"), (f"B{number}", "cart")] for number in picked]

    def publish(self, learned: Round) -> None:
        payload = self.tuner.payload(learned)
        live = self.tuner.live
        update = manifest(payload, kind="delta", version=live.version + 1, base_version=live.version, base_sha256=live.sha256)
        self.tuner.accept(learned.touched, learned.new_items, update.version, update.weights_sha256)
        self.follower.apply(update, payload)

    def round(self, histories: Sequence[Sequence[Step]]) -> Round:
        learned = self.tuner.run(histories)
        if learned.verdict.passed:
            self.publish(learned)
        else:
            self.tuner.reject()
        return learned


@pytest.fixture
def shop() -> Shop:
    return Shop()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_what_leads_to_what_is_learned(shop: Shop) -> None:
    rounds = [shop.round(shop.pairs()) for _ in range(60)]
    losses = [mean(learned.losses) for learned in rounds]
    assert mean(losses[-5:]) < 0.5 * mean(losses[:5])
    assert sum(learned.verdict.passed for learned in rounds) > 40


def test_what_is_published_makes_the_follower_equal_to_the_live_weights(shop: Shop) -> None:
    published = 0
    for _ in range(12):
        published += shop.round(shop.pairs()).verdict.passed
        assert same(frozen(shop.follower), frozen(shop.tuner.live))
    assert published > 6
    assert shop.follower.version == 1 + published


def test_losses_are_those_before_learning_one_for_each_history_of_two_steps(shop: Shop) -> None:
    histories = [*shop.pairs(7), [("item-1", "view")]]
    learned = shop.tuner.run(histories)
    assert len(learned.losses) == len(learned.held_back) == 7
    assert all(loss > 0 for loss in learned.losses)


def test_new_items_get_rows_when_they_are_published(shop: Shop) -> None:
    learned = shop.tuner.run([[("item-1", "view"), ("shelf", "view")], [("rug", "view"), ("item-2", "purchase"), ("shelf", "cart")]])
    assert learned.new_items == ["shelf", "rug"]
    assert "shelf" not in shop.tuner.live.rows
    shop.publish(learned)
    assert shop.tuner.live.items[-2:] == ["shelf", "rug"]
    assert shop.follower.rows["rug"] == len(shop.follower.items) - 1
    assert {shop.follower.rows["shelf"], shop.follower.rows["rug"]} <= set(learned.touched.tolist())
    assert shop.tuner.run([[("shelf", "view"), ("rug", "view")]]).new_items == []


def test_rows_that_were_not_touched_are_as_they_were(shop: Shop) -> None:
    before = shop.tuner.live.model.items.weight.detach().clone()
    learned = shop.tuner.run([[("item-1", "view"), (f"item-{number % 2 + 2}", "view")] for number in range(12)])
    shop.publish(learned)
    untouched = sorted(set(range(7)) - set(learned.touched.tolist()))
    assert untouched
    after = shop.tuner.live.model.items.weight.detach()
    assert torch.equal(after[untouched], before[untouched])
    assert not torch.equal(after[3], before[3])


def test_a_candidate_with_a_nan_is_refused_and_learning_goes_on_from_the_live_weights(shop: Shop) -> None:
    shop.round(shop.pairs())
    before = frozen(shop.tuner.live)
    with torch.no_grad():
        shop.tuner._candidate.model.positions[0, 0] = float("nan")
    learned = shop.round([*shop.pairs(), [("item-1", "view"), ("late", "view")]])
    assert not learned.verdict.passed
    assert "not finite" in learned.verdict.reason
    assert same(frozen(shop.tuner.live), before)
    assert same(frozen(shop.tuner._candidate), before)
    following = [shop.round(shop.pairs()) for _ in range(5)]
    assert any(learned.verdict.passed for learned in following)
    assert all(torch.isfinite(torch.tensor(learned.losses)).all() for learned in following)
    assert shop.tuner.run([[("item-1", "view"), ("late", "view")]]).new_items == ["late"]


def test_a_candidate_that_is_finite_and_ruined_does_not_get_past_the_gate(shop: Shop) -> None:
    while len(shop.tuner._held_back) < ENOUGH_EVENTS:
        shop.round(shop.pairs())
    before = frozen(shop.tuner.live)
    with torch.no_grad():
        for parameter in shop.tuner._candidate.model.parameters():
            parameter.add_(2.0)
    learned = shop.round(shop.pairs())
    assert not learned.verdict.passed
    assert "the loss rises by" in learned.verdict.reason
    assert same(frozen(shop.tuner.live), before)
    assert same(frozen(shop.tuner._candidate), before)
    assert any(shop.round(shop.pairs()).verdict.passed for _ in range(5))


def test_a_dropped_candidate_takes_its_items_and_their_histories_along(shop: Shop) -> None:
    learned = shop.tuner.run([[("item-1", "view"), (f"short-lived-{number}", "view")] for number in range(30)])
    assert len(learned.new_items) == 30
    shop.tuner.reject()
    size = len(shop.tuner.live.items)
    assert len(shop.tuner._candidate.items) == size
    for _ in range(3):
        learned = shop.round([[("item-1", "view"), ("item-2", "view")]] * 10)
        assert int(learned.touched.max()) < size


@pytest.mark.parametrize("drop", [False, True])
def test_shares_of_the_drawn_items_are_those_of_the_recent_stream(drop: bool) -> None:
    shop = Shop(TuningPlan(steps=1, batch=8, negatives=8, recent=20))
    shop.tuner.run([[("item-1", "view"), (f"item-{number % 3}", "view")] for number in range(50)])
    if drop:
        shop.tuner.run([[("item-1", "view"), ("short-lived", "view")]] * 15)
        shop.tuner.reject()
    shares = shop.tuner._log_q().exp()
    assert float(shares.sum()) == pytest.approx(1.0, rel=1e-5)
    recent = list(shop.tuner._recent)
    rows = torch.arange(1, 7)
    expected = torch.tensor([recent.count(row) + 1.0 for row in rows.tolist()]) / (len(recent) + len(shares))
    assert torch.allclose(shares[rows], expected)


def test_histories_of_one_step_teach_nothing_and_fail_nothing(shop: Shop) -> None:
    learned = shop.tuner.run([[("lonely", "view")]])
    assert (learned.verdict.passed, learned.losses, learned.new_items) == (False, [], ["lonely"])


def test_the_same_seed_and_stream_give_the_same_weights() -> None:
    one, other = Shop(), Shop()
    for shop in (one, other):
        torch.manual_seed(7)
        for _ in range(4):
            shop.round(shop.pairs())
    assert same(frozen(one.tuner.live), frozen(other.tuner.live))


def test_the_table_grows_while_learning_goes_on(shop: Shop) -> None:
    shop.round(shop.pairs())
    flood: list[list[Step]] = [[("item-1", "view"), (f"new-{number}", "view")] for number in range(FIRST_CAPACITY)]
    learned = shop.tuner.run(flood)
    shop.publish(learned)
    assert shop.tuner.live.model.capacity == 2 * FIRST_CAPACITY
    shop.round(shop.pairs())
    assert same(frozen(shop.follower), frozen(shop.tuner.live))


def test_the_weights_know_their_shape(shop: Shop) -> None:
    assert SHAPE in shop.tuner.payload(shop.tuner.run(shop.pairs()))[:2000].decode(errors="replace")
