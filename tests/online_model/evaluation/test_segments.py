"""Which steps are scored, and to which segments they belong."""

from small_streams import stream_of

from headrace.online_model.evaluation.segments import NEW_ITEM_EVENTS, Questions, questions_of
from headrace.online_model.evaluation.stream_model import StreamStep
from headrace.schemas import HistoryEntry


def steps_in(questions: Questions, segment: str) -> list[int]:
    return questions.steps[questions.segments[segment]].tolist()


def test_first_steps_and_repeats_are_not_scored() -> None:
    stream = stream_of([("ann", "lamp"), ("ann", "lamp"), ("bob", "lamp"), ("ann", "vase"), ("bob", "lamp"), ("ann", "lamp")])
    assert questions_of(stream, 0).steps.tolist() == [3, 5]


def test_steps_before_the_first_scored_event_are_not_scored() -> None:
    stream = stream_of([("ann", "lamp"), ("ann", "vase"), ("ann", "lamp"), ("ann", "vase")])
    assert questions_of(stream, 2).steps.tolist() == [2, 3]


def test_new_items_never_seen_ones_and_old_ones_are_told_apart() -> None:
    pairs = [("ann", "lamp"), ("ann", "vase"), ("ann", "lamp")]
    pairs += [("ann", "other") for _ in range(NEW_ITEM_EVENTS - len(pairs))]
    # Number 1,000 goes to the lamp, which is 1,000 events old, number 1,001 to the vase, which is as old, number 1,002 to the other.
    pairs += [("ann", "lamp"), ("ann", "vase"), ("ann", "other")]
    questions = questions_of(stream_of(pairs), 0)
    assert questions.steps.tolist() == [1, 2, 3, 1000, 1001, 1002]
    assert steps_in(questions, "never_seen") == [1, 3]
    assert steps_in(questions, "new_items") == [2, 1002]


def test_returns_to_own_items_and_discoveries_are_told_apart() -> None:
    pairs = [("ann", "lamp"), ("bob", "lamp"), ("ann", "vase"), ("ann", "lamp"), ("bob", "vase"), ("bob", "chair")]
    questions = questions_of(stream_of(pairs), 0)
    assert steps_in(questions, "returns") == [3]
    assert steps_in(questions, "discoveries") == [2, 4, 5]
    assert steps_in(questions, "new_items") == [3, 4]
    assert steps_in(questions, "new_discoveries") == [4]


def test_what_left_the_history_is_not_returned_to() -> None:
    pairs = [("ann", "lamp"), *(("ann", f"item-{number}") for number in range(50)), ("ann", "lamp"), ("ann", "item-1")]
    assert steps_in(questions_of(stream_of(pairs), 0), "returns") == [52]


def test_histories_are_counted_over_the_whole_stream() -> None:
    questions = questions_of(stream_of([("ann", f"item-{number}") for number in range(61)]), 0)
    assert steps_in(questions, "new_users") == [1]
    assert steps_in(questions, "short_histories") == [1, 2, 3]
    assert steps_in(questions, "long_histories") == list(range(10, 61))


def test_each_line_of_an_order_is_a_purchase() -> None:
    lines = ["lamp", "vase", "chair"]
    stream = [StreamStep("ann", HistoryEntry("sofa", "view", 0), 0)]
    stream += [StreamStep("ann", HistoryEntry(item, "purchase", 1_000), 1) for item in lines]
    questions = questions_of(stream, 0)
    assert steps_in(questions, "purchases") == [1, 2, 3]
    assert questions.events.tolist() == [1, 1, 1]


def test_popularity_counts_what_was_before() -> None:
    stream = stream_of([("ann", "lamp"), ("bob", "lamp"), ("cid", "lamp"), ("cid", "vase"), ("cid", "lamp")])
    questions = questions_of(stream, 0)
    assert questions.popularity.tolist() == [0.0, 2.0]
    assert questions.items == 2


def test_a_stream_without_questions_has_empty_columns() -> None:
    questions = questions_of(stream_of([("ann", "lamp")]), 0)
    assert len(questions) == len(questions.shoppers) == len(questions.segments["purchases"]) == 0
