"""What the gate remembers, in a real weight store and on a real Kafka: it is there after a restart, and nobody else can write it."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from ring_learning import end, learn_until, learner, release

from headrace.features.online_store import OnlineStore, connect
from headrace.online_model.resumable_tuner import ResumableTuner
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry
from headrace.streams.gate_store import FOLDER, GateStore
from headrace.streams.model_access import ModelAccess
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.trainer import SNAPSHOT_EVERY, Trainer
from headrace.streams.weight_store import WeightStore


@pytest.fixture
def tuner() -> ResumableTuner:
    """One that has learned a round."""
    made = ResumableTuner(ModelCopy())
    histories = [[HistoryEntry(f"item-{number + step}", "view", 1000 * step) for step in range(3)] for number in range(30)]
    learned = made.run(histories)
    made.accept(learned.touched, learned.new_items, 1, "1" * 64)
    return made


def test_the_newest_state_is_read_again_and_older_ones_are_dropped(tuner: ResumableTuner, tmp_path: Path) -> None:
    store = WeightStore(tmp_path / "weights")
    gates = GateStore(store)
    assert gates.newest() is None
    # After a rollback a lower version is the newer one.
    for version, time_ms in ((120, 10**12), (113, 10**12 + 1), (100, 10**12 + 2)):
        gates.put(tuner.state(), version, "a" * 64, time_ms)
    found = gates.newest()
    assert found is not None
    kept, state = found
    assert (kept.version, kept.weights_sha256, kept.saved_ms) == (100, "a" * 64, 10**12 + 2)
    assert state.gate.rounds == 1
    assert len(state.gate.held_back) == len(tuner.gate._held_back) > 0
    assert {path.split("-")[0] for path in store.files(FOLDER)} == {f"{FOLDER}/0000000113", f"{FOLDER}/0000000100"}


@pytest.mark.parametrize("fault", ["unsigned", "a stranger's key", "changed words", "changed arrays", "no arrays"])
def test_a_state_that_was_tampered_with_is_not_gone_on_from(
    tuner: ResumableTuner, key: SigningKey, trusted: TrustedKeys, tmp_path: Path, fault: str
) -> None:
    store = WeightStore(tmp_path / "weights", trusted)
    signing = {"unsigned": None, "a stranger's key": SigningKey.create(tmp_path / "stranger")}.get(fault, key)
    GateStore(store, signing).put(tuner.state(), 1, "a" * 64, 10**12)
    name = f"{FOLDER}/0000000001-1000000000000"
    words, arrays = store.read_file(f"{name}.json"), store.read_file(f"{name}.safetensors")
    if fault == "changed words":
        store.put_file(f"{name}.json", words.replace(b'"rounds":1', b'"rounds":9'))
    elif fault == "changed arrays":
        store.put_file(f"{name}.safetensors", arrays[:-1] + bytes([arrays[-1] ^ 1]))
    elif fault == "no arrays":
        store.delete_file(f"{name}.safetensors")
    assert GateStore(store, key).newest() is None
    GateStore(store, key).put(tuner.state(), 1, "a" * 64, 10**12)
    assert GateStore(store, key).newest() is not None


@pytest.fixture
def rows(clean_redis: str) -> OnlineStore:
    return OnlineStore(connect(clean_redis))


def access_in(folder: Path) -> ModelAccess:
    """A key of its own, trusted, and a weight store."""
    SigningKey.create(folder / "keys")
    trusted = TrustedKeys(folder / "keys/trusted")
    return ModelAccess(trusted, WeightStore(folder / "weights", trusted), folder / "keys/signing.pem")


def remembered(made: Trainer) -> tuple[int, Sequence[int], Sequence[int], int]:
    """The rounds, what is held back, the sizes of labels and moves, and the anchor's age."""
    state = made._tuner.state().gate
    assert state.anchor is not None
    return state.rounds, state.held_back.lengths.tolist(), [len(state.labels.levels), len(state.moves)], state.anchor.age


def test_after_an_orderly_end_the_gate_goes_on_where_it_was(fresh_topics: str, rows: OnlineStore, tmp_path: Path) -> None:
    access = access_in(tmp_path)
    first = learner(fresh_topics, rows, access)
    learn_until(first, 9, 0)
    end(first)
    second = learner(fresh_topics, rows, access)
    assert second._tuner.live.version == 9
    assert remembered(second) == remembered(first)
    assert second._tuner.live.sha256 == first._tuner.live.sha256


def test_after_a_crash_the_gate_goes_on_from_the_last_snapshot(fresh_topics: str, rows: OnlineStore, tmp_path: Path) -> None:
    access = access_in(tmp_path)
    first = learner(fresh_topics, rows, access)
    next_event = learn_until(first, SNAPSHOT_EVERY, 0)
    rounds, _, _, age = remembered(first)
    learn_until(first, SNAPSHOT_EVERY + 5, next_event)
    # Nobody has ended it.
    second = learner(fresh_topics, rows, access)
    assert second._tuner.live.sha256 == first._tuner.live.sha256
    again = remembered(second)
    assert (again[0], again[3]) == (rounds, age + 5)
    assert again[1] == remembered(first)[1][: len(again[1])]


def test_a_gate_without_a_store_or_with_a_damaged_state_begins_anew(fresh_topics: str, rows: OnlineStore, tmp_path: Path) -> None:
    access = access_in(tmp_path)
    assert access.store is not None
    first = learner(fresh_topics, rows, access)
    learn_until(first, 5, 0)
    end(first)
    for path in access.store.files(FOLDER):
        access.store.put_file(path, b"{}")
    second = learner(fresh_topics, rows, access)
    assert second._tuner.live.sha256 == first._tuner.live.sha256
    assert remembered(second) == (0, [], [0, 0], 0)
    learn_until(second, 7, 10_000, most=14_000)


def test_a_state_far_behind_the_newest_weights_is_passed_over(fresh_topics: str, rows: OnlineStore, tmp_path: Path) -> None:
    access = access_in(tmp_path)
    first = learner(fresh_topics, rows, access)
    first._gates = None
    learn_until(first, 2 * SNAPSHOT_EVERY + 3, 0)
    second = learner(fresh_topics, rows, access)
    assert second._tuner.live.sha256 == first._tuner.live.sha256
    assert remembered(second) == (0, [], [0, 0], 0)


def test_after_a_rollback_the_gate_of_the_new_branch_is_gone_on_from(fresh_topics: str, rows: OnlineStore, tmp_path: Path) -> None:
    access = access_in(tmp_path)
    first = learner(fresh_topics, rows, access)
    stable = first._tuner.live.version, first._tuner.live.sha256
    next_event = learn_until(first, 5, 0)
    end(first)
    release(fresh_topics, "start", *stable, access=access)
    release(fresh_topics, "rollback", *stable, withdrawn_to=5, access=access)
    deadline = time.monotonic() + 20.0
    while first._tuner.live.version != stable[0]:
        assert time.monotonic() < deadline
        first._follow_releases()
    next_event = learn_until(first, 8, next_event)
    assert remembered(first)[3] == 3
    # Nobody has ended it: the state was kept when learning began again, at the stable version.
    second = learner(fresh_topics, rows, access)
    assert second._tuner.live.sha256 == first._tuner.live.sha256
    assert (remembered(second)[0], remembered(second)[3]) == (0, 3)
    learn_until(second, 10, next_event)
    end(second)
    third = learner(fresh_topics, rows, access)
    assert remembered(third) == remembered(second)
