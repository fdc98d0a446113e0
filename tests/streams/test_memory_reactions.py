"""What the memories forget on drift, over a real Kafka: from the learner's actions to the rankers, and what does not count."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from counted import by_reason
from msgspec.structs import replace

from headrace.online_model.evidence import Column
from headrace.online_model.fine_tuning import FineTuner
from headrace.online_model.ranker import Ranker
from headrace.online_model.scorer import Scorer
from headrace.online_model.watching.reaction import Reaction
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry, MemoryReaction, UserRow, encode
from headrace.schemas.memory_reactions import MemoryAction
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import MEMORY_REACTIONS, USER_FEATURES
from headrace.schemas.wire import now_ms
from headrace.streams import kafka as clients
from headrace.streams import metrics
from headrace.streams.drift_actions import DriftActions
from headrace.streams.live_scorer import LiveScorer
from headrace.streams.memory_follower import MemoryFollower
from headrace.streams.memory_reactions import OLDEST_MS, MemoryReactionFollower, MemoryReactionPublisher, newest_in_force
from headrace.streams.recommender import Recommender
from headrace.streams.signed_records import sign, signature_header
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.training_buffer import ExampleBuffer

# Each of them looked at a lamp, and then at something else.
VISITS = [("lamp", "bulb"), ("lamp", "chair"), ("lamp", "table"), ("lamp", "vase")] * 3
ROWS = [
    UserRow(shopper_id=f"early-{number}", history=[HistoryEntry(item, "view", 1000) for item in visit], steps=2)
    for number, visit in enumerate(VISITS)
]


def taught_ranker() -> Ranker:
    ranker = Ranker(Scorer(), capacity=1 << 10)
    for row in ROWS:
        ranker.learn(row)
    return ranker


def publish_rows(bootstrap: str) -> None:
    producer = clients.producer(bootstrap, "test")
    for row in ROWS:
        # One partition, so that each process learns them in this order.
        producer.produce(USER_FEATURES.name, encode(row), row.shopper_id, partition=0)
    assert producer.flush(10.0) == 0


def weight(ranker: Ranker) -> float:
    """Return how much all that the memories hold counts."""
    return float(ranker.memory._items.strength.sum())


def followers_of_the_lamp(ranker: Ranker) -> set[str]:
    """Return what the memories see when they look at what came after lamps."""
    with ranker._lock, ranker.memory.ask(ranker.memory.question("nobody", [ranker.ids.numbers["lamp"]])) as asking:
        return {ranker.ids.names[item] for item, row in zip(asking.candidates, asking.evidence, strict=True) if row[Column.NEXT] > 0}


def until(holds: Callable[[], bool], step: Callable[[], object] = lambda: time.sleep(0.02), timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        step()


def refused() -> dict[str, float]:
    return by_reason(metrics.MEMORY_REACTIONS_REFUSED)


def reaction(episode: str, action: MemoryAction = "forget", decided_ms: int = 0, *, cut: bool = False) -> MemoryReaction:
    name = f"{episode}-{action}-{cut}-{decided_ms}"
    return MemoryReaction(model=MODEL, reaction_id=name, episode_id=episode, action=action, keep=0.5, cut=cut, decided_ms=decided_ms)


def test_what_the_learner_does_about_drift_a_recommender_forgets_and_recalls_where_it_is_withdrawn(
    fresh_topics: str, key: SigningKey, trusted: TrustedKeys
) -> None:
    publish_rows(fresh_topics)
    tuner = FineTuner(ModelCopy())
    publisher = MemoryReactionPublisher(fresh_topics, "learner", key)
    actions = DriftActions(lambda: tuner, ExampleBuffer(lambda done: None), memories=publisher)
    recommender = Recommender(fresh_topics, "cpu", trusted=trusted)
    recommender.live.start()
    ranker = recommender.live.ranker

    def step() -> None:
        recommender.step(0.02)

    # A member that leaves while it joins the group would wait for the coordinator.
    until(lambda: recommender.live.reactions.memories_read.is_set() and bool(recommender._open), step)
    assert recommender.caught_up()
    before, seen = weight(ranker), followers_of_the_lamp(ranker)
    assert seen == {"bulb", "chair", "table", "vase"}

    done = actions.begin(Reaction("learn_faster", "e-1", 0, rate_scale=2.0, memory_keep=0.2, events=1000), "drift")
    assert done.state == "begun"
    assert done.words.startswith("the memories keep 20% of older evidence; learning rates are 2 times the usual")
    until(lambda: weight(ranker) < before, step)
    assert weight(ranker) == pytest.approx(0.2 * before, rel=1e-3)
    assert followers_of_the_lamp(ranker) == seen

    done = actions.deepen(Reaction("learn_faster", "e-1", 0, memory_keep=0.2, memory_cut=True))
    assert done.words == "the memories keep 20% of older evidence, and look no more at events before now"
    until(lambda: followers_of_the_lamp(ranker) != seen, step)
    assert followers_of_the_lamp(ranker) == {"vase"}, "of each item the newest step is still seen"

    actions.learned(1000)
    assert tuner.rate_scale == 1.0
    time.sleep(0.3)
    assert followers_of_the_lamp(ranker) == {"vase"}, "that rates have fallen back takes nothing back"
    actions.end("learn_faster", "e-1")
    until(lambda: followers_of_the_lamp(ranker) == seen, step)
    assert recommender.live.failure is None
    recommender.live.stop()
    recommender._group.close()
    recommender._rows.close()


def test_a_gateway_s_memories_follow_once_they_are_read(fresh_topics: str, key: SigningKey, trusted: TrustedKeys) -> None:
    publish_rows(fresh_topics)
    live = LiveScorer(fresh_topics, "test-gateway", "cpu", trusted=trusted)
    memories = MemoryFollower(fresh_topics, "test-gateway-memories", live.ranker, live.reactions.memories_read)
    live.start()
    # The memories are still to be read: what is decided meanwhile waits for them.
    MemoryReactionPublisher(fresh_topics, "learner", key).forget("e-1", 0.2)
    whole = weight(taught_ranker())
    time.sleep(0.3)
    memories.start()
    until(memories.caught_up.is_set)
    until(lambda: weight(live.ranker) == pytest.approx(0.2 * whole, rel=1e-3))
    memories.stop()
    live.stop()


def test_what_is_not_signed_by_a_trusted_key_or_cannot_be_read_is_refused_and_what_comes_behind_is_done(
    fresh_topics: str, key: SigningKey, trusted: TrustedKeys, tmp_path: Path
) -> None:
    ranker = taught_ranker()
    follower = MemoryReactionFollower(fresh_topics, "test", ranker, trusted)
    follower.memories_read.set()
    before, told_before = weight(ranker), refused()
    for forger in (None, SigningKey.create(tmp_path / "theirs")):
        MemoryReactionPublisher(fresh_topics, "forger", forger).forget("e-1", 0.01)
    producer = clients.producer(fresh_topics, "forger")
    signed, value, signature = sign(reaction("e-2", decided_ms=now_ms()), key)
    producer.produce(MEMORY_REACTIONS.name, value.replace(b"0.5", b"0.1"), MODEL, headers=signature_header(signature))
    for nonsense in (b"{", value.replace(b"0.5", b"0.0"), value.replace(b"0.5", b"1.5"), value.replace(b"forget", b"erase"), None):
        producer.produce(MEMORY_REACTIONS.name, nonsense, MODEL)
    _, other_value, other_signature = sign(replace(signed, model="another"), key)
    producer.produce(MEMORY_REACTIONS.name, other_value, MODEL, headers=signature_header(other_signature))
    for _ in range(2):
        producer.produce(MEMORY_REACTIONS.name, value, MODEL, headers=signature_header(signature))
    assert producer.flush(10.0) == 0

    def told() -> dict[str, float]:
        return {reason: count - told_before.get(reason, 0.0) for reason, count in refused().items() if count > told_before.get(reason, 0.0)}

    until(lambda: "doubled" in told(), lambda: follower.step(0.2))
    assert told() == {"forged": 3, "unreadable": 5, "another model": 1, "doubled": 1}
    assert weight(ranker) == pytest.approx(0.5 * before), "the one that counts has counted, once"


def test_who_starts_later_takes_in_only_the_newest_reaction_that_is_in_force(fresh_topics: str) -> None:
    publisher = MemoryReactionPublisher(fresh_topics, "learner")
    publisher.forget("withdrawn", 0.2)
    publisher.forget("withdrawn", 0.2, cut=True)
    publisher.forget("earlier", 0.3)
    publisher.forget("newest", 0.2)
    publisher.forget("newest", 0.5, cut=True)
    publisher.recall("withdrawn")
    late = taught_ranker()
    before = weight(late)
    follower = MemoryReactionFollower(fresh_topics, "late", late)
    follower.step(0.2)
    assert weight(late) == before, "its memories are not read yet"
    follower.memories_read.set()
    follower.step(0.2)
    assert weight(late) == pytest.approx(0.5 * before)
    assert followers_of_the_lamp(late) == {"vase"}
    follower.step(0.2)
    assert weight(late) == pytest.approx(0.5 * before)
    publisher.recall("newest")
    until(lambda: len(followers_of_the_lamp(late)) == 4, lambda: follower.step(0.2))


@pytest.mark.parametrize("age_ms", [OLDEST_MS + 60_000, 1000])
def test_who_starts_later_does_nothing_about_what_is_old_or_taken_back(fresh_topics: str, age_ms: int) -> None:
    publisher = MemoryReactionPublisher(fresh_topics, "learner", clock=lambda: now_ms() - age_ms)
    publisher.forget("e-1", 0.2, cut=True)
    if age_ms < OLDEST_MS:
        publisher.recall("e-1")
    late = taught_ranker()
    before = weight(late)
    follower = MemoryReactionFollower(fresh_topics, "late", late)
    follower.memories_read.set()
    for _ in range(3):
        follower.step(0.1)
    assert weight(late) == before
    assert len(followers_of_the_lamp(late)) == 4


def test_a_recall_leaves_the_cut_of_another_episode(fresh_topics: str) -> None:
    ranker = taught_ranker()
    follower = MemoryReactionFollower(fresh_topics, "test", ranker)
    follower.memories_read.set()
    publisher = MemoryReactionPublisher(fresh_topics, "learner")
    publisher.forget("first", 0.5, cut=True)
    publisher.forget("second", 0.5, cut=True)
    publisher.recall("first")
    before = weight(ranker)
    until(lambda: weight(ranker) == pytest.approx(0.25 * before), lambda: follower.step(0.2))
    follower.step(0.2)
    assert followers_of_the_lamp(ranker) == {"vase"}
    publisher.recall("second")
    until(lambda: len(followers_of_the_lamp(ranker)) == 4, lambda: follower.step(0.2))


def test_the_follower_ends_when_it_is_told_to(fresh_topics: str) -> None:
    follower = MemoryReactionFollower(fresh_topics, "test", taught_ranker())
    stop = threading.Event()
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(10.0)
    assert not thread.is_alive()


def test_of_several_episodes_the_one_that_was_decided_last_is_in_force() -> None:
    assert newest_in_force([], 0) is None
    first, deeper, second = reaction("a", decided_ms=1), reaction("a", decided_ms=2, cut=True), reaction("b", decided_ms=3)
    assert newest_in_force([first, deeper], 10) == deeper
    assert newest_in_force([first, second, deeper], 10) == deeper
    assert newest_in_force([first, second, reaction("b", "recall", 4)], 10) == first
    assert newest_in_force([first, reaction("a", "recall", 4)], 10) is None
    assert newest_in_force([first, second], OLDEST_MS + 2) == second
    assert newest_in_force([first, second], OLDEST_MS + 4) is None
