"""A rush of shoppers to one item is told apart from what is usual, and from a rush that has become usual."""

import random

from headrace.online_model.surges import ItemSurges, SurgePlan

ITEMS = 400


class Visits:
    """Rounds of shoppers who touch a few items each, popular ones more often."""

    def __init__(self, surges: ItemSurges) -> None:
        self.surges = surges
        self._random = random.Random(1)

    def round(self, shoppers: int = 100, rush: int = 0, item: str = "pushed") -> list[str]:
        touched = [{f"item-{int(ITEMS * self._random.random() ** 2)}" for _ in range(3)} for _ in range(shoppers)]
        return self.surges.notice([*touched, *[{item}] * rush])


def settled(plan: SurgePlan | None = None) -> Visits:
    visits = Visits(ItemSurges(plan))
    for _ in range(40):
        visits.round()
    return visits


def test_usual_shoppers_make_no_item_surge() -> None:
    visits = Visits(ItemSurges())
    assert [item for _ in range(200) for item in visits.round()] == []


def test_five_in_a_hundred_shoppers_on_one_item_are_noticed_in_their_first_round() -> None:
    visits = settled()
    assert visits.round(rush=7) == ["pushed"]
    assert "pushed" in visits.surges.suspended


def test_a_slower_rush_is_noticed_over_some_rounds() -> None:
    visits = settled()
    begun = [visits.round(rush=4) for _ in range(8)]
    assert ["pushed"] in begun
    assert begun[:2] == [[], []]


def test_an_item_is_left_alone_for_some_rounds_after_its_rush_and_then_learned_again() -> None:
    visits = settled(SurgePlan(rest=3))
    visits.round(rush=30)
    seen = []
    for _ in range(20):
        visits.round()
        seen.append("pushed" in visits.surges.suspended)
    # The rush stays among the last 8 rounds for as long; it is not begun anew by rounds in which nobody came.
    assert seen[0]
    assert not seen[-1]
    assert seen.count(True) == 3


def test_a_rush_that_goes_on_becomes_usual_but_not_at_once() -> None:
    visits = settled()
    rounds = next(number for number in range(1, 1000) if visits.round(rush=20) is not None and "pushed" not in visits.surges.suspended)
    assert 30 < rounds < 200


def test_what_is_bought_by_many_from_the_start_is_nothing_unusual() -> None:
    visits = Visits(ItemSurges())
    assert [item for _ in range(60) for item in visits.round(rush=20)] == []


def test_one_shopper_counts_once_however_often_the_item_is_touched() -> None:
    visits = settled()
    assert visits.surges.notice([["pushed"] * 500]) == []


def test_an_item_can_be_left_out_for_other_reasons() -> None:
    surges = ItemSurges(SurgePlan(rest=2))
    surges.suspend(["odd"])
    seen = []
    for _ in range(4):
        surges.notice([])
        seen.append("odd" in surges.suspended)
    assert seen == [True, True, False, False]
