"""What the gate refused is kept with its batch, whole, findable, and not forever."""

from pathlib import Path

import pytest

from headrace.online_model.judgement import Verdict
from headrace.schemas import HistoryEntry
from headrace.streams.quarantine import FOLDER, Quarantine, Quarantined, read_batch, read_quarantine
from headrace.streams.training_buffer import Example
from headrace.streams.weight_store import WeightStore

VERDICT = Verdict(False, "'lamp' goes from 1 to 40 of 96 lists", 3.5, 3.4, "exposure", {"gate_ms": 12.5}, ("lamp",))
BATCH = [
    Example(f"shopper-{number}", (HistoryEntry("lamp", "view", number, 9.5, "lights"),), number, number + 1, f"clicks/{number % 2}", number)
    for number in range(6)
]


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path / "weights")


def put(quarantine: Quarantine, version: int = 7, refused_ms: int = 1_700_000_000_000, payload: bytes = b"weights") -> Quarantined:
    return quarantine.put(
        VERDICT, payload, BATCH, version=version, base_version=version - 1, base_sha256="a" * 64, trigger="count", refused_ms=refused_ms
    )


def test_a_refused_candidate_is_found_with_its_verdict_weights_and_events(store: WeightStore) -> None:
    kept = put(Quarantine(store))
    assert read_quarantine(store) == [kept]
    assert (kept.check, kept.reason, kept.items, kept.metrics) == ("exposure", VERDICT.reason, ["lamp"], {"gate_ms": 12.5})
    assert (kept.first_offsets, kept.last_offsets) == ({"clicks/0": 0, "clicks/1": 1}, {"clicks/0": 4, "clicks/1": 5})
    assert kept.payload_uri is not None
    assert store.read_file(kept.payload_uri) == b"weights"
    events = read_batch(store, kept)
    assert [(event.shopper_id, event.source, event.offset, event.steps) for event in events] == [
        (example.shopper_id, example.source, example.offset, example.steps) for example in BATCH
    ]


def test_the_newest_are_kept_and_of_the_others_nothing_is_left(store: WeightStore) -> None:
    quarantine = Quarantine(store, kept=3)
    # After a rollback versions may go on from any number: what is old goes by its time.
    for number, version in enumerate([90, 91, 92, 5, 6]):
        put(quarantine, version, 1_700_000_000_000 + number)
    assert [one.version for one in read_quarantine(store)] == [6, 5, 92]
    assert len(store.files(FOLDER)) == 9


def test_weights_that_are_too_large_are_left_out_and_named(store: WeightStore) -> None:
    kept = put(Quarantine(store, largest_bytes=10), payload=b"x" * 11)
    assert (kept.payload_uri, kept.payload_bytes) == (None, 11)
    assert len(store.files(FOLDER)) == 2


def test_a_damaged_file_does_not_hide_the_others(store: WeightStore) -> None:
    kept = put(Quarantine(store))
    store.put_file(f"{FOLDER}/0000000009-1700000000001.json", b"{")
    store.put_file(f"{FOLDER}/notes.txt", b"seen by ada")
    assert read_quarantine(store) == [kept]


def test_an_empty_store_has_nothing_in_quarantine(store: WeightStore) -> None:
    assert read_quarantine(store) == []
