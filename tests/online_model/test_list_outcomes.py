"""What became of lists: each meets one next step, and events that name it count for the version that made it."""

from headrace.online_model.list_outcomes import ListOutcomes, MadeList
from headrace.schemas import HistoryEntry, UserRow
from headrace.schemas.model_releases import Lane


def row(shopper: str, *items: str, steps: int | None = None) -> UserRow:
    return UserRow(
        shopper_id=shopper, history=[HistoryEntry(item, "view", place) for place, item in enumerate(items)], steps=steps or len(items)
    )


def made(name: str, items: str, version: int = 3, lane: Lane = "trial", steps: int = 1, last: str = "a") -> MadeList:
    return MadeList(name, version, lane, steps, last, tuple(items))


def counted(outcomes: ListOutcomes) -> dict[tuple[int, str], tuple[int, int, float, int]]:
    return {(one.version, one.lane): (one.answered, one.hits, one.reciprocal_ranks, one.clicks) for one in outcomes.take()}


def test_the_first_new_step_decides_and_each_list_counts_once() -> None:
    outcomes = ListOutcomes()
    outcomes.remember("ada", made("1", "bcd"))
    outcomes.remember("ben", made("2", "bcd", version=2, lane="stable"))
    # Nothing new, then two steps at once, of which the first counts.
    outcomes.meet(row("ada", "a"))
    outcomes.meet(row("ada", "a", "c", "x"))
    outcomes.meet(row("ada", "a", "c", "x", "b"))
    outcomes.meet(row("ben", "a", "z"))
    outcomes.meet(row("nobody", "a", "z"))
    assert counted(outcomes) == {(3, "trial"): (1, 1, 0.5, 0), (2, "stable"): (1, 0, 0.0, 0)}
    assert counted(outcomes) == {}


def test_a_step_that_repeats_the_item_before_is_no_test_of_a_list_that_leaves_it_out() -> None:
    outcomes = ListOutcomes()
    outcomes.remember("ada", made("1", "bcd"))
    outcomes.meet(row("ada", "a", "a"))
    assert counted(outcomes) == {}
    outcomes.meet(row("ada", "a", "a", "b"))
    assert counted(outcomes) == {(3, "trial"): (1, 1, 1.0, 0)}


def test_where_the_first_step_has_left_the_row_the_list_counts_for_nothing() -> None:
    outcomes = ListOutcomes()
    outcomes.remember("ada", made("1", "bcd"))
    outcomes.meet(row("ada", "b", "c", steps=60))
    assert counted(outcomes) == {}


def test_events_that_name_a_list_count_for_who_made_it_even_after_the_next_list() -> None:
    outcomes = ListOutcomes()
    outcomes.remember("ada", made("first", "bcd"))
    outcomes.remember("ada", made("second", "bcd", version=4, lane="stable"))
    assert outcomes.clicked("first")
    assert outcomes.clicked("second")
    assert outcomes.clicked("second")
    assert not outcomes.clicked("nobody made it")
    assert counted(outcomes) == {(3, "trial"): (0, 0, 0.0, 1), (4, "stable"): (0, 0, 0.0, 2)}


def test_what_is_remembered_is_bounded() -> None:
    outcomes = ListOutcomes(kept=2)
    for number in range(3):
        outcomes.remember(f"shopper-{number}", made(str(number), "b"))
    outcomes.meet(row("shopper-0", "a", "b"))
    outcomes.meet(row("shopper-2", "a", "b"))
    assert not outcomes.clicked("0")
    assert counted(outcomes) == {(3, "trial"): (1, 1, 1.0, 0)}
