"""Models that do not learn all the time."""

from collections.abc import Sequence

import pytest
from small_streams import history_of, taught

from headrace.online_model.evaluation.held_models import DAY_MS, EachNight, EachSteps, Frozen, Renewed
from headrace.schemas import HistoryEntry


class Everything:
    """Answers with all that it was taught."""

    def __init__(self) -> None:
        self.items: list[str] = []

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        return self.items

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        self.items.append(step.item_id)


def known(model: Frozen | Renewed) -> int:
    return len(model.rank("ann", history_of("lamp"), 20))


@pytest.mark.parametrize(("steps", "learned"), [(0, 0), (3, 3), (5, 4)])
def test_a_frozen_model_knows_what_came_before(steps: int, learned: int) -> None:
    model = Frozen(Everything(), steps)
    taught(model, [("ann", f"item-{number}") for number in range(4)])
    assert known(model) == learned


@pytest.mark.parametrize(("taught_steps", "learned"), [(3, 0), (4, 3), (6, 3), (7, 6), (11, 9)])
def test_a_refitted_model_knows_what_came_before_the_last_renewal(taught_steps: int, learned: int) -> None:
    model = Renewed(Everything(), EachSteps(3))
    taught(model, [("ann", f"item-{number}") for number in range(taught_steps)])
    assert known(model) == learned


@pytest.mark.parametrize(("taught_steps", "learned"), [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4)])
def test_a_nightly_model_knows_what_came_before_the_day(taught_steps: int, learned: int) -> None:
    model = Renewed(Everything(), EachNight())
    taught(model, [("ann", f"item-{number}") for number in range(taught_steps)], step_ms=DAY_MS // 2)
    assert known(model) == learned


def test_a_step_from_an_earlier_day_does_not_bring_on_the_night() -> None:
    night = EachNight()
    days = [3, 3, 2, 3, 4, 1, 4, 5]
    assert [night.is_due(HistoryEntry("lamp", "view", day * DAY_MS)) for day in days] == [False] * 4 + [True, False, False, True]
