"""What one ranker's mixture and network have learned reaches the others, over a real Kafka, and only with a trusted signature."""

from pathlib import Path

import numpy as np
import pytest

from headrace.online_model.evidence import FEATURES
from headrace.online_model.ranker import Ranker
from headrace.online_model.scorer import Scorer
from headrace.streams.ranking_channel import RankingFollower, RankingPublisher
from headrace.streams.signing import SigningKey, TrustedKeys


@pytest.fixture
def taught() -> Ranker:
    ranker, draw = Ranker(Scorer()), np.random.default_rng(1)
    for _ in range(200):
        features = draw.normal(size=(10, FEATURES)).astype(np.float32)
        ranker.network.learn(features, int(features[:, 2].argmax()))
    ranker._questions = 200
    return ranker


def same(one: Ranker, other: Ranker) -> bool:
    return bool(np.array_equal(one.network.learned(), other.network.learned()))


def until_taken(follower: RankingFollower, taught: Ranker, learner: Ranker, steps: int = 20) -> bool:
    for _ in range(steps):
        follower.step(0.5)
        if same(taught, learner):
            return True
    return False


def test_who_follows_takes_up_what_is_published_and_who_starts_later_begins_with_it(
    kafka: str, fresh_topics: object, taught: Ranker, tmp_path: Path
) -> None:
    key = SigningKey.create(tmp_path)
    trusted = TrustedKeys(tmp_path / "trusted")
    first = Ranker(Scorer())
    follower = RankingFollower(kafka, "first", first, trusted)
    publisher = RankingPublisher(kafka, "test", "recommender-0", key)
    assert publisher.publish(taught)
    assert not publisher.publish(taught), "there is no news since"
    publisher._producer.flush(10)
    assert until_taken(follower, taught, first)
    late = Ranker(Scorer())
    RankingFollower(kafka, "late", late, trusted)
    assert same(taught, late)


def test_an_unsigned_state_and_one_of_another_key_are_refused(kafka: str, fresh_topics: object, taught: Ranker, tmp_path: Path) -> None:
    SigningKey.create(tmp_path / "ours")
    other = SigningKey.create(tmp_path / "theirs")
    for key in (None, other):
        publisher = RankingPublisher(kafka, "test", "recommender-0", key)
        publisher.publish(taught)
        publisher._producer.flush(10)
    late = Ranker(Scorer())
    follower = RankingFollower(kafka, "late", late, TrustedKeys(tmp_path / "ours" / "trusted"))
    assert not until_taken(follower, taught, late, steps=3)


def test_who_publishes_takes_up_nothing(kafka: str, fresh_topics: object, taught: Ranker) -> None:
    leader = Ranker(Scorer())
    follower = RankingFollower(kafka, "leader", leader)
    follower.publishes = True
    publisher = RankingPublisher(kafka, "test", "recommender-1")
    publisher.publish(taught)
    publisher._producer.flush(10)
    assert not until_taken(follower, taught, leader, steps=3)
