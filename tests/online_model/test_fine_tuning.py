"""A round learns a little from what is new, and what it makes is either published whole or forgotten."""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from links import Chain, frozen, manifest, same
from safetensors.torch import load

from headrace.online_model.fine_tuning import FineTuner, Round, TuningPlan
from headrace.online_model.gate import Verdict
from headrace.online_model.history_ring import KeptHistories
from headrace.online_model.scorer import score_with
from headrace.online_model.step_batch import as_batch
from headrace.online_model.tuning_loss import last_news_losses
from headrace.online_model.weights import FIRST_CAPACITY, SHAPE, ModelCopy
from headrace.schemas import HistoryEntry
from headrace.schemas.feature_rows import Kind

PLAN = TuningPlan(steps=2, batch=32, negatives=32, replay=500, recent=500, held_back=64)
PAIRS = 10


def views(*items: str, last: Kind = "view") -> list[HistoryEntry]:
    kinds: list[Kind] = ["view"] * (len(items) - 1) + [last]
    return [HistoryEntry(item, kind, 1000 * place) for place, (item, kind) in enumerate(zip(items, kinds, strict=True))]


class Shop:
    """A tuner, and a scorer's copy that follows what the tuner publishes."""

    def __init__(self, plan: TuningPlan = PLAN, clock: Iterator[float] | None = None) -> None:
        chain = Chain(items=6)
        self.follower = ModelCopy(chain.copy.model.shape)
        self.follower.apply(*chain.snapshot())
        self.tuner = FineTuner(chain.copy, plan) if clock is None else FineTuner(chain.copy, plan, clock=clock.__next__)
        self._random = random.Random(1)

    def pairs(self, count: int = 40) -> list[list[HistoryEntry]]:
        """Histories whose last step follows from the one before it: A3 leads to B3."""
        picked = self._random.choices(range(PAIRS), k=count)
        return [views(f"item-{number % 6}", f"A{number}", f"B{number}", last="cart") for number in picked]

    def publish(self, learned: Round) -> None:
        payload = self.tuner.payload(learned)
        live = self.tuner.live
        update = manifest(payload, kind="delta", version=live.version + 1, base_version=live.version, base_sha256=live.sha256)
        self.tuner.accept(learned.touched, learned.new_items, update.version, update.weights_sha256)
        self.follower.apply(update, payload)

    def round(self, histories: Sequence[Sequence[HistoryEntry]], shoppers: Sequence[str] | None = None) -> Round:
        learned = self.tuner.run(histories, shoppers=shoppers)
        if learned.verdict.passed:
            self.publish(learned)
        else:
            self.tuner.reject()
        return learned

    def row(self, item: str) -> torch.Tensor:
        """The item's row as the candidate has it."""
        return self.tuner._candidate.model.items.weight.detach()[self.tuner._candidate.rows[item]].clone()


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
        assert torch.allclose(shop.follower.units, shop.tuner.live.units)
    assert published > 6
    assert shop.follower.version == 1 + published


def test_losses_are_those_before_learning_one_for_each_history_with_a_step_to_another_item(shop: Shop) -> None:
    histories = [*shop.pairs(7), views("item-1"), views("item-1", "item-1"), [], views("item-1", "item-2", "item-2")]
    learned = shop.tuner.run(histories)
    assert len(learned.losses) == len(learned.held_back) == 8
    assert all(loss > 0 for loss in learned.losses)


def test_the_loss_of_a_history_is_that_of_its_last_step_to_another_item() -> None:
    copy = ModelCopy()
    copy.add_items([f"item-{number}" for number in range(20)])
    walks = [[1, 2, 3], [4, 5, 5, 5], [6, 0, 7, 7], list(range(1, 20))]
    numbers, lengths = np.zeros((len(walks), 21, 5), np.int64), np.array([len(walk) for walk in walks])
    for place, walk in enumerate(walks):
        numbers[place, : len(walk), 0] = walk
        numbers[place, : len(walk), 2] = 3
    histories = KeptHistories(numbers, lengths, np.arange(len(walks)))
    negatives, log_q = torch.arange(8, 18), torch.linspace(-9.0, -1.0, copy.model.capacity)
    found = last_news_losses(copy.model, histories, negatives, log_q)
    for place, (seen, target) in enumerate([([1, 2], 3), ([4], 5), ([6, 0], 7), (list(range(1, 19)), 19)]):
        prefix = np.zeros((1, len(seen), 5), np.int64)
        prefix[0, :, 0], prefix[0, :, 2] = seen, 3
        vector = copy.model(as_batch(prefix, np.array([len(seen)])))[0, -1]
        logits = copy.units[: copy.model.capacity] @ vector - log_q
        among = torch.cat([logits[target][None], logits[negatives[negatives != target]]])
        assert found[place].item() == pytest.approx((among.logsumexp(0) - logits[target]).item(), abs=1e-4)


def test_new_items_get_rows_when_they_are_published(shop: Shop) -> None:
    learned = shop.tuner.run([views("item-1", "shelf"), views("rug", "item-2", "shelf")])
    assert learned.new_items == ["shelf", "rug"]
    assert "shelf" not in shop.tuner.live.rows
    shop.publish(learned)
    assert shop.tuner.live.items[-2:] == ["shelf", "rug"]
    assert shop.follower.rows["rug"] == len(shop.follower.items) - 1
    assert {shop.follower.rows["shelf"], shop.follower.rows["rug"]} <= set(learned.touched.tolist())
    assert shop.tuner.run([views("shelf", "rug")]).new_items == []


def test_a_new_item_is_recommendable_after_one_event() -> None:
    shop = Shop(TuningPlan(held_back_share=0.0))
    for _ in range(5):
        shop.publish(shop.tuner.run(shop.pairs(200)))
    learned = shop.tuner.run([views("item-3", "A3", "brand new")])
    shop.publish(learned)
    copy = shop.follower
    new, around, others = copy.rows["brand new"], [copy.rows["item-3"], copy.rows["A3"]], [copy.rows[f"A{place}"] for place in (1, 5, 7)]
    cosines = copy.units @ copy.units[new]
    assert float(cosines[around].min()) > float(cosines[others].max())
    [scored] = score_with(copy, [views("item-3", "A3")], [np.zeros(0, np.int64)], best=6)
    assert new in scored.best_rows


def test_pulled_rows_are_part_of_what_is_published() -> None:
    """Without a gradient step only the instant rules move rows; the follower must have them all the same."""
    shop = Shop(TuningPlan(held_back_share=0.0, per_shopper=0))
    shop.publish(shop.tuner.run([views("item-0", "item-1", "late")]))
    before = shop.row("late")
    learned = shop.tuner.run([views("item-3", "item-4", "late")])
    assert learned.touched.tolist() == [shop.tuner.live.rows["late"]]
    shop.publish(learned)
    assert not torch.equal(shop.row("late"), before)
    assert same(frozen(shop.follower), frozen(shop.tuner.live))


def test_an_item_is_pulled_the_less_the_more_often_it_was_seen() -> None:
    shop = Shop(TuningPlan(held_back_share=0.0, per_shopper=0))
    moved = []
    for _ in range(8):
        shop.tuner.run([views("item-0", "item-1", "late")])
        before = shop.row("late")
        shop.tuner.run([views("item-3", "item-4", "late")])
        after, context = shop.row("late"), (shop.row("item-3") + shop.row("item-4")) / 2
        moved.append(float((after - before).norm() / (context - before).norm()))
    assert moved == pytest.approx([0.5 / (1 + seen) for seen in range(2, 18, 2)], rel=1e-3)
    # What was there before the tuner counts as settled.
    settled = shop.row("item-5")
    shop.tuner.run([views("item-3", "item-4", "item-5")])
    assert float((shop.row("item-5") - settled).norm()) < 0.02 * float((shop.row("item-3") - settled).norm())


def test_all_new_steps_of_a_history_are_taken_in_and_older_ones_are_not() -> None:
    shop = Shop(TuningPlan(held_back_share=0.0, per_shopper=0))
    learned = shop.tuner.run([views("item-0", "item-1", "item-2", "item-3")], fresh=[2])
    assert learned.touched.tolist() == [shop.tuner.live.rows["item-2"], shop.tuner.live.rows["item-3"]]
    assert shop.tuner._ledger.recent.tolist() == learned.touched.tolist()


def test_rows_that_were_not_touched_are_as_they_were(shop: Shop) -> None:
    before = shop.tuner.live.model.items.weight.detach().clone()
    learned = shop.tuner.run([views("item-1", f"item-{number % 2 + 2}") for number in range(12)])
    shop.publish(learned)
    untouched = sorted(set(range(7)) - set(learned.touched.tolist()))
    assert untouched
    after = shop.tuner.live.model.items.weight.detach()
    assert torch.equal(after[untouched], before[untouched])
    assert not torch.equal(after[3], before[3])


def test_no_shopper_gets_more_than_a_share_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(TuningPlan(steps=4, batch=64, negatives=8, held_back_share=0.0, per_shopper=8))
    drawn: list[int] = []
    seen: set[int] = set()
    draw = shop.tuner._draw_batch

    def watched(*arguments: object) -> object:
        batch = draw(*arguments)  # type: ignore[arg-type]
        drawn.extend(batch.shoppers.tolist())
        return batch

    monkeypatch.setattr(shop.tuner, "_draw_batch", watched)
    for _ in range(5):
        drawn.clear()
        shop.round([*shop.pairs(60), *shop.pairs(4)], shoppers=["busy"] * 60 + ["ada", "ben", "cleo", "dan"])
        assert max(drawn.count(shopper) for shopper in set(drawn)) <= 8
        seen.update(drawn)
    assert len(seen) == 5


def test_purchases_weigh_more_than_carts_and_these_more_than_views() -> None:
    """One context is followed by three items equally often; the one that is bought is ranked first."""
    ranks = []
    for order in (("view", "cart", "purchase"), ("purchase", "view", "cart"), ("cart", "purchase", "view")):
        shop = Shop(TuningPlan(steps=4, batch=60, negatives=64, held_back_share=0.0, pull=0.0, start_share=0.0))
        histories = [views("item-0", f"item-{place + 1}", last=kind) for place, kind in enumerate(order)]
        for _ in range(40):
            shop.publish(shop.tuner.run(histories * 20))
        rows = np.array([shop.follower.rows[f"item-{place + 1}"] for place in range(3)])
        [scored] = score_with(shop.follower, [views("item-0")], [rows], best=1)
        shares = np.exp(scored.logits)
        ranks.append([order[place] for place in np.argsort(-shares)])
    assert ranks == [["purchase", "cart", "view"]] * 3


def test_a_round_ends_after_the_step_in_which_its_time_is_up() -> None:
    shop = Shop(TuningPlan(steps=10, batch=8, negatives=8, round_limit_s=3.0), clock=iter(range(1000)))
    assert shop.tuner.run(shop.pairs()).steps == 3
    assert Shop().tuner.run(shop.pairs()).steps == 2
    assert Shop().tuner.run(shop.pairs(), 5).steps == 5


def test_after_a_drift_rates_are_doubled_and_fall_back_within_eight_rounds(shop: Shop) -> None:
    assert shop.tuner.rate_scale == 1.0
    shop.tuner.quicken()
    scales = []
    for _ in range(10):
        scales.append(shop.tuner.rate_scale)
        shop.round(shop.pairs())
    assert scales == [2.0, 1.875, 1.75, 1.625, 1.5, 1.375, 1.25, 1.125, 1.0, 1.0]


def test_a_doubled_rate_makes_a_longer_step() -> None:
    lengths = []
    for quickened in (False, True):
        shop = Shop(TuningPlan(steps=1, batch=32, negatives=32, held_back_share=0.0))
        if quickened:
            shop.tuner.quicken()
        before = shop.tuner.live.model.positions.detach().clone()
        shop.tuner.run(shop.pairs())
        lengths.append(float((shop.tuner._candidate.model.positions.detach() - before).norm()))
    assert lengths[1] == pytest.approx(2 * lengths[0], rel=0.01)


def test_a_candidate_with_a_nan_is_refused_and_learning_goes_on_from_the_live_weights(shop: Shop) -> None:
    shop.round(shop.pairs())
    before = frozen(shop.tuner.live)
    with torch.no_grad():
        shop.tuner._candidate.model.positions[0, 0] = float("nan")
    learned = shop.round([*shop.pairs(), views("item-1", "late")])
    assert not learned.verdict.passed
    assert "not finite" in learned.verdict.reason
    assert same(frozen(shop.tuner.live), before)
    assert same(frozen(shop.tuner._candidate), before)
    following = [shop.round(shop.pairs()) for _ in range(5)]
    assert any(learned.verdict.passed for learned in following)
    assert all(torch.isfinite(torch.tensor(learned.losses)).all() for learned in following)
    assert shop.tuner.run([views("item-1", "late")]).new_items == ["late"]


def test_a_candidate_that_is_finite_and_ruined_does_not_get_past_the_gate(shop: Shop) -> None:
    for _ in range(30):
        shop.round(shop.pairs())
    assert len(shop.tuner._held_back) >= 64
    before = frozen(shop.tuner.live)
    table, size = shop.tuner._candidate.model.items.weight.detach(), len(shop.tuner.live.items)
    table[1:size] = table[1:size].flip(0)
    learned = shop.round(shop.pairs())
    assert not learned.verdict.passed
    assert learned.verdict.check == "vocabulary"
    assert same(frozen(shop.tuner.live), before)
    assert same(frozen(shop.tuner._candidate), before)
    assert any(shop.round(shop.pairs()).verdict.passed for _ in range(5))


def test_a_dropped_candidate_takes_its_items_and_their_histories_along(shop: Shop) -> None:
    learned = shop.tuner.run([views("item-1", f"short-lived-{number}") for number in range(30)])
    assert len(learned.new_items) == 30
    shop.tuner.reject()
    size = len(shop.tuner.live.items)
    assert len(shop.tuner._candidate.items) == size
    for _ in range(3):
        learned = shop.round([views("item-1", "item-2")] * 10)
        assert int(learned.touched.max()) < size


@pytest.mark.parametrize("drop", [False, True])
def test_shares_of_the_drawn_items_are_those_of_the_recent_stream(drop: bool) -> None:
    shop = Shop(TuningPlan(steps=1, batch=8, negatives=8, recent=20))
    shop.tuner.run([views("item-1", f"item-{number % 3}") for number in range(50)])
    if drop:
        shop.tuner.run([views("item-1", "short-lived")] * 15)
        shop.tuner.reject()
    shares = shop.tuner._ledger.log_q(shop.tuner._candidate.model.capacity).exp()
    assert float(shares.sum()) == pytest.approx(1.0, rel=1e-5)
    recent = shop.tuner._ledger.recent.tolist()
    assert len(recent) == (5 if drop else 20)
    rows = torch.arange(1, 7)
    expected = torch.tensor([recent.count(row) + 1.0 for row in rows.tolist()]) / (len(recent) + len(shares))
    assert torch.allclose(shares[rows], expected)


def test_histories_of_one_step_teach_nothing_and_fail_nothing(shop: Shop) -> None:
    learned = shop.tuner.run([views("lonely")])
    assert (learned.verdict.passed, learned.losses, learned.new_items) == (False, [], ["lonely"])
    shop.tuner.reject()
    assert shop.tuner.run([[], []]).losses == shop.tuner.run([]).losses == []


def test_odd_prices_times_and_kinds_are_learned_from_without_harm(shop: Shop) -> None:
    odd = [
        HistoryEntry("item-1", "view", -(2**60), price=float("nan"), category="\ud800"),
        HistoryEntry("item-2", "returned", 2**60, price=float("inf")),  # type: ignore[arg-type]
        HistoryEntry("item-3", "purchase", 0, price=-1.0, category="never seen"),
    ]
    for _ in range(5):
        learned = shop.round([*shop.pairs(), odd * 3_000])
        assert np.isfinite(learned.losses).all()
    assert all(bool(torch.isfinite(parameter).all()) for parameter in shop.tuner.live.model.parameters())


def test_the_same_seed_and_stream_give_the_same_weights() -> None:
    one, other = Shop(), Shop()
    for shop in (one, other):
        for _ in range(4):
            shop.round(shop.pairs())
            # Whatever else in the process draws from torch's generator.
            torch.rand(random.randrange(5))
    assert same(frozen(one.tuner.live), frozen(other.tuner.live))


def test_the_table_grows_while_learning_goes_on(shop: Shop) -> None:
    shop.round(shop.pairs())
    flood = [views("item-1", f"new-{number}") for number in range(FIRST_CAPACITY)]
    learned = shop.tuner.run(flood)
    shop.publish(learned)
    assert shop.tuner.live.model.capacity == 2 * FIRST_CAPACITY
    shop.round(shop.pairs())
    assert same(frozen(shop.follower), frozen(shop.tuner.live))


def test_a_full_table_gives_the_rows_of_items_that_are_gone_to_new_ones() -> None:
    shop = Shop(TuningPlan(steps=2, batch=32, negatives=32, replay=500, recent=500, held_back_share=0.0, expire_after=100))
    flood = [views("item-1", f"old-{number}") for number in range(FIRST_CAPACITY - 7 - 10)]
    shop.publish(shop.tuner.run(flood))
    for _ in range(30):
        shop.publish(shop.tuner.run([views("item-0", "item-1", "item-2", "old-7")] * 5))
    assert shop.follower.epoch == 0
    learned = shop.tuner.run([views("item-1", "old-3", f"new-{number}") for number in range(30)])
    assert len(learned.new_items) == 30
    shop.publish(learned)
    copy = shop.follower
    assert same(frozen(copy), frozen(shop.tuner.live))
    for left, right in zip(frozen(copy)[4], frozen(shop.tuner._candidate)[4], strict=True):
        assert torch.allclose(left, right, atol=2e-3), "the candidate is the same but for the rounding"
    assert (copy.model.capacity, len(copy.items)) == (FIRST_CAPACITY, FIRST_CAPACITY)
    assert copy.epoch == 1
    assert all(copy.items[row] == item for item, row in copy.rows.items())
    assert len(copy.rows) == FIRST_CAPACITY - 1
    # Those that went first were unseen the longest; what has just been seen stays.
    assert {"item-1", "old-3", "old-7", "new-0", "new-29"} <= set(copy.rows)
    assert not {"item-3", "item-4", "item-5", "old-0"} & set(copy.rows)
    for place in range(3):
        shop.publish(shop.tuner.run([views("item-1", "new-3", f"newer-{place}")]))
        assert same(frozen(copy), frozen(shop.tuner.live))


def test_rows_that_a_dropped_candidate_had_reused_are_their_items_again() -> None:
    shop = Shop(TuningPlan(steps=2, batch=32, negatives=32, replay=500, recent=500, held_back_share=0.5, expire_after=10))
    shop.publish(shop.tuner.run([views("item-1", f"old-{number}") for number in range(FIRST_CAPACITY - 7)]))
    shop.publish(shop.tuner.run([views("item-1", "item-2")] * 20))
    before = frozen(shop.tuner.live)
    for _ in range(2):
        assert shop.tuner.run([views("item-1", f"new-{number}") for number in range(30)]).new_items
        shop.tuner.reject()
        assert same(frozen(shop.tuner._candidate), before)
    shop.publish(shop.tuner.run([views("item-1", f"new-{number}") for number in range(30)]))
    assert same(frozen(shop.follower), frozen(shop.tuner.live))
    assert shop.follower.model.capacity == FIRST_CAPACITY


def test_a_table_full_of_living_items_grows() -> None:
    shop = Shop(TuningPlan(steps=1, batch=32, negatives=32))
    shop.publish(shop.tuner.run([views("item-1", f"old-{number}") for number in range(FIRST_CAPACITY - 7)]))
    shop.publish(shop.tuner.run([views("item-1", "one more")]))
    assert shop.follower.model.capacity == 2 * FIRST_CAPACITY
    assert shop.follower.epoch == 0


def test_the_weights_know_their_shape(shop: Shop) -> None:
    assert SHAPE in shop.tuner.payload(shop.tuner.run(shop.pairs()))[:3000].decode(errors="replace")


def test_what_rounding_loses_comes_with_a_later_delta(shop: Shop) -> None:
    """Moves too small for half precision add up in the candidate until they are large enough to be sent."""
    shop.round(shop.pairs())
    rows, positions = shop.tuner._candidate.model.items.weight, shop.tuner._candidate.model.positions
    touched = torch.tensor([2])
    with torch.no_grad():
        rows[2], positions[0] = 1.0, 1.0
    for place in range(8):
        with torch.no_grad():
            rows[2] += 2.0**-13
            positions[0] += 2.0**-13
        learned = Round(Verdict(True, "made by hand"), touched, [], [])
        shop.publish(learned)
        sent = 1.0 if place < 4 else 1.0 + 2.0**-10
        assert shop.follower.model.items.weight[2, 0].item() == shop.follower.model.positions[0, 0].item() == sent
    assert rows[2, 0].item() == 1.0 + 2.0**-10
    assert same(frozen(shop.follower), frozen(shop.tuner.live))


def test_a_delta_holds_only_rows_that_differ(shop: Shop) -> None:
    shop.round(shop.pairs())
    everything = torch.arange(1, len(shop.tuner.live.items))
    table, categories = shop.tuner._candidate.model.items.weight, shop.tuner._candidate.model.categories.weight
    with torch.no_grad():
        table.copy_(shop.tuner.live.model.items.weight)
        categories.copy_(shop.tuner.live.model.categories.weight)
        table[3] += 1.0
        categories[5] += 1.0
        categories[6] += 1e-5
    tensors = load(shop.tuner.payload(Round(Verdict(True, "made by hand"), everything, [], [])))
    assert (tensors["items.rows"].tolist(), tensors["categories.rows"].tolist()) == ([3], [5])
    assert {tensor.dtype for name, tensor in tensors.items() if tensor.is_floating_point()} == {torch.float16}


def test_numbers_too_large_for_half_precision_are_sent_in_single_precision(shop: Shop) -> None:
    with torch.no_grad():
        shop.tuner._candidate.model.positions[0, 0] = 1e6
    shop.publish(Round(Verdict(True, "made by hand"), torch.tensor([1]), [], []))
    assert shop.follower.model.positions[0, 0].item() == 1e6
