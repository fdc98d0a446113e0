"""The memories learn at each event and answer with distributions."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.online_model.memory import Covisitation, OwnHistory, Popularity, Scores, SessionNeighbours

LAMP, CHAIR, TABLE, VASE = range(4)
HISTORIES = st.lists(st.integers(0, 6), max_size=12)


def best(scores: Scores) -> int:
    return max(scores, key=lambda item: scores[item])


def is_distribution(scores: Scores) -> bool:
    return not scores or (sum(scores.values()) == pytest.approx(1.0) and all(score >= 0 for score in scores.values()))


@given(st.lists(HISTORIES, max_size=20), HISTORIES)
@settings(max_examples=100, deadline=None)
def test_every_memory_answers_with_a_distribution(sessions: list[list[int]], asked: list[int]) -> None:
    covisitation, neighbours, own, popularity = Covisitation(half_life=5, width=2), SessionNeighbours(), OwnHistory(), Popularity()
    for number, session in enumerate(sessions):
        for place, target in enumerate(session):
            covisitation.learn(session[:place], target)
            neighbours.learn(number, target)
            own.learn(session[:place], target)
            popularity.learn(target)
    answers = [covisitation.scores(asked), neighbours.scores(asked), own.scores(asked), popularity.scores()]
    assert all(is_distribution(scores) for scores in answers)


def test_nothing_is_known_at_first() -> None:
    assert Covisitation().scores([LAMP]) == SessionNeighbours().scores([LAMP]) == OwnHistory().scores([LAMP]) == {}
    assert Popularity().scores() == {}


def test_what_followed_is_expected_to_follow_at_once() -> None:
    memory = Covisitation()
    memory.learn([LAMP], CHAIR)
    assert best(memory.scores([LAMP])) == CHAIR
    # The way back counts less, but it counts.
    assert memory.scores([CHAIR]) == {LAMP: 1.0}
    assert memory.scores([LAMP])[CHAIR] == 1.0


def test_the_newest_step_of_a_history_counts_most() -> None:
    memory = Covisitation()
    memory.learn([LAMP], TABLE)
    memory.learn([CHAIR], VASE)
    assert best(memory.scores([LAMP, CHAIR])) == VASE
    assert best(memory.scores([CHAIR, LAMP])) == TABLE


def test_what_is_new_outweighs_what_is_long_ago() -> None:
    memory = Covisitation(half_life=100)
    for _ in range(10):
        memory.learn([LAMP], CHAIR)
    for _ in range(1000):
        memory.learn([], VASE)
    memory.learn([LAMP], TABLE)
    assert best(memory.scores([LAMP])) == TABLE


def test_a_row_keeps_its_strongest_followers_and_no_more_than_twice_the_width() -> None:
    memory = Covisitation(width=5)
    for _ in range(50):
        memory.learn([LAMP], CHAIR)
    for follower in range(10, 500):
        memory.learn([LAMP], follower)
    scores = memory.scores([LAMP])
    assert len(scores) <= 11
    assert best(scores) == CHAIR


def test_counts_stay_finite_however_long_it_learns() -> None:
    memory, popularity = Covisitation(half_life=1), Popularity(half_life=1)
    for number in range(5000):
        memory.learn([LAMP], CHAIR + number % 3)
        popularity.learn(number % 3)
    assert is_distribution(memory.scores([LAMP]))
    assert is_distribution(popularity.scores())


def test_sessions_like_this_one_vote_for_their_items() -> None:
    memory = SessionNeighbours()
    for session, items in enumerate([[LAMP, CHAIR], [LAMP, CHAIR, TABLE], [VASE, 9], [8, 9]]):
        for item in items:
            memory.learn(session, item)
    scores = memory.scores([LAMP])
    assert scores[CHAIR] > scores[TABLE] > 0
    assert 9 not in scores


def test_a_session_has_no_vote_for_itself() -> None:
    memory = SessionNeighbours()
    memory.learn(1, LAMP)
    memory.learn(1, CHAIR)
    assert memory.scores([LAMP], session=1) == {}
    assert set(memory.scores([LAMP])) == {LAMP, CHAIR}


def test_only_so_many_sessions_are_remembered() -> None:
    memory = SessionNeighbours(sessions=3)
    for session in range(10):
        memory.learn(session, LAMP)
        memory.learn(session, 100 + session)
    assert set(memory.scores([LAMP])) == {LAMP, 107, 108, 109}


def test_where_a_shopper_returns_to_is_learned_and_the_item_at_hand_is_left_out() -> None:
    memory = OwnHistory()
    noise = random.Random(1)
    for _ in range(200):
        history = noise.sample(range(100), 5)
        memory.learn(history, history[-3])
    scores = memory.scores([LAMP, CHAIR, TABLE, VASE])
    assert VASE not in scores
    assert best(scores) == CHAIR
    memory.learn([LAMP, CHAIR], 99)


def test_the_popular_items_of_today_lead() -> None:
    memory = Popularity(half_life=500, width=2)
    for _ in range(2000):
        memory.learn(LAMP)
    for number in range(2000):
        memory.learn(CHAIR if number % 3 else TABLE)
    assert list(memory.scores()) == [CHAIR, TABLE]


def test_a_shop_of_few_events_has_more_than_one_popular_item() -> None:
    memory = Popularity()
    for item in range(10):
        memory.learn(item)
    assert len(memory.scores()) == 8
    for _ in range(300):
        memory.learn(VASE)
    assert best(memory.scores()) == VASE
    assert len(memory.scores()) == 10
