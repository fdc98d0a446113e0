"""After a rollback the learner goes on from the stable weights, in the middle of its work and after a restart."""

import hashlib
import time

import pytest
from ring_learning import examples, learn_until, learner, release

from headrace.features.online_store import OnlineStore, connect
from headrace.online_model.release_state import folded
from headrace.online_model.version_chain import VersionChain
from headrace.online_model.weights import ModelCopy, snapshot_payload
from headrace.schemas import ModelUpdate
from headrace.streams.manifests import read_manifests
from headrace.streams.release_log import ReleaseLog
from headrace.streams.release_requests import ReleaseRequests
from headrace.streams.stable_weights import StableWeights
from headrace.streams.trainer import Trainer, resume


@pytest.fixture
def store(clean_redis: str) -> OnlineStore:
    return OnlineStore(connect(clean_redis))


def versions(kafka: str) -> list[tuple[str, int, int]]:
    return [(update.kind, update.base_version, update.version) for update in read_manifests(kafka, "test")]


def hear(made: Trainer, decisions: int) -> None:
    """Let it read so many decisions, the newest of which is still to be followed."""
    deadline = time.monotonic() + 60.0
    while len(made._base._log.counted) < decisions:
        made._base._log.poll(0.5)
        assert time.monotonic() < deadline
    made._base._decisions = decisions - 1


def weights(copy: ModelCopy) -> tuple[int, str, str]:
    return copy.version, copy.sha256, hashlib.sha256(snapshot_payload(copy)).hexdigest()


def test_a_rollback_in_the_middle_sets_learning_back_to_the_stable_weights(fresh_topics: str, store: OnlineStore) -> None:
    made = learner(fresh_topics, store)
    stable = made._tuner.live.version, made._tuner.live.sha256
    first_weights = weights(made._tuner.live)
    release(fresh_topics, "start", *stable)
    place = learn_until(made, 3, 0)
    # The learner has published one version more than the decision knows of.
    release(fresh_topics, "rollback", *stable, withdrawn_to=2)
    hear(made, 2)
    made.learn("count", examples(place))
    last = [link for link in versions(fresh_topics) if link[0] == "delta"][-1]
    assert weights(StableWeights(fresh_topics, "test").load(*stable)[0]) == first_weights  # type: ignore[index]
    assert versions(fresh_topics)[3] == ("snapshot", 1, 1), "the stable version comes whole once more"
    if made._newest_version == 4:
        assert last == ("delta", 1, 4)
    place = learn_until(made, 5, place + 40)
    # Whoever follows the chain has what the learner has, and so has its successor.
    assert weights(resume(fresh_topics)[0]) == weights(made._tuner.live)
    second = learner(fresh_topics, store)
    assert weights(second._tuner.live) == weights(made._tuner.live)
    assert second._newest_version == 5
    assert second._offsets["clicks/0"] == place - 1


def test_a_learner_that_starts_after_a_rollback_begins_with_the_stable_weights(fresh_topics: str, store: OnlineStore) -> None:
    made = learner(fresh_topics, store)
    stable = made._tuner.live.version, made._tuner.live.sha256
    release(fresh_topics, "start", *stable)
    place = learn_until(made, 3, 0)
    made._publish_snapshot("count")
    release(fresh_topics, "rollback", *stable, withdrawn_to=3)
    before = len(versions(fresh_topics))
    second = learner(fresh_topics, store)
    assert (second._tuner.live.version, second._tuner.live.sha256) == stable
    assert versions(fresh_topics)[before:] == [("snapshot", 1, 1)]
    # It dies before it has learned anything; the third one begins as it did, and goes on above what was withdrawn.
    third = learner(fresh_topics, store)
    assert versions(fresh_topics)[before:] == [("snapshot", 1, 1)] * 2
    assert third._offsets["clicks/0"] == place - 1
    learn_until(third, 4, place)
    assert versions(fresh_topics)[-1] == ("delta", 1, 4)


def test_an_operator_may_go_back_to_an_older_version_that_was_published_whole(fresh_topics: str, store: OnlineStore) -> None:
    made = learner(fresh_topics, store)
    first = weights(made._tuner.live)
    release(fresh_topics, "start", first[0], first[1])
    place = learn_until(made, 3, 0)
    made._publish_snapshot("count")
    operator = ReleaseRequests(fresh_topics, "operator")
    operator.promote(3, "looks good")
    place = learn_until(made, 4, place)
    decided = operator.rollback("it was not", to=1)
    assert (decided.stable_version, decided.withdrawn_to) == (1, 4)
    hear(made, 3)
    made._follow_releases()
    assert weights(made._tuner.live) == first
    learn_until(made, 5, place)
    state = folded(ReleaseLog(fresh_topics, "test").counted)
    chain = VersionChain()
    updates: list[ModelUpdate] = read_manifests(fresh_topics, "test")
    for update in updates:
        chain.add(update)
    assert [version for version in range(1, 6) if chain.leads_to(version, state)] == [1, 5]
