"""The trusted set is what the operator gave, or what came first, and nothing that comes later changes it."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from headrace.online_model.history_ring import KeptHistories
from headrace.online_model.step_batch import encode_numbers
from headrace.online_model.trusted_set import BadTrustedSet, TrustedSet
from headrace.schemas import HistoryEntry

ROWS = {f"item-{number}": number for number in range(1, 2000)}


def history(*items: int) -> list[HistoryEntry]:
    return [HistoryEntry(f"item-{item}", "view", 1000 * place) for place, item in enumerate(items)]


def kept(first: int, count: int) -> KeptHistories:
    numbers, lengths = encode_numbers([history(first + number, first + number + 1) for number in range(count)], ROWS, 5)
    return KeptHistories(numbers, lengths, np.arange(count))


def firsts(trusted: TrustedSet) -> set[int]:
    return set(trusted.histories(ROWS, 5).numbers[:, 0, 0].tolist())


def test_histories_in_a_file_or_in_a_folder_are_read(tmp_path: Path) -> None:
    for name, items in (("a", (1, 2)), ("b", (3, 4, 5))):
        (tmp_path / f"{name}.jsonl").write_bytes(msgspec.json.encode(history(*items)) + b"\n\n")
    assert firsts(TrustedSet.load(tmp_path)) == {1, 3}
    assert firsts(TrustedSet.load(tmp_path / "b.jsonl")) == {3}
    assert not TrustedSet.load(tmp_path).is_open


def test_of_more_than_there_is_room_for_some_from_beginning_to_end_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_bytes(b"\n".join(msgspec.json.encode(history(number, number + 1)) for number in range(1, 101)))
    found = firsts(TrustedSet.load(file, size=10))
    assert len(found) == 10
    assert {1, 100} <= found


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[{]", "line 1: a list of steps"),
        (b'\n{"a":1}', "line 2: a list of steps"),
        (b"[]", "two different items"),
        (b"", "0 lines have none"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_line(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    with pytest.raises(BadTrustedSet, match=told):
        TrustedSet.load(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadTrustedSet, match="readable file"):
        TrustedSet.load(tmp_path / "none.jsonl")


def test_items_of_given_histories_that_are_learned_later_count_from_then_on() -> None:
    trusted = TrustedSet([history(1, 2), history(3, 4)])
    assert len(trusted.histories({"item-1": 1}, 5)) == 0
    assert len(trusted.histories({"item-1": 1, "item-2": 2}, 5)) == 1
    assert len(trusted.histories(ROWS, 5)) == 2


def test_what_the_stream_offers_is_sampled_evenly_until_it_is_closed() -> None:
    counts = np.zeros(40)
    for seed in range(200):
        trusted, random = TrustedSet(size=10), np.random.default_rng(seed)
        for part in range(4):
            trusted.offer(kept(1 + 10 * part, 10), random)
        trusted.close()
        trusted.offer(kept(1000, 10), random)
        found = firsts(trusted)
        assert len(found) == 10
        assert max(found) <= 40
        counts[np.array(sorted(found)) - 1] += 1
    # Each of the 40 comes with a chance of a quarter: 50 of 200 times, with a standard deviation of 6.
    assert counts.min() > 25
    assert counts.max() < 75


def test_histories_whose_rows_stand_for_other_items_are_dropped() -> None:
    trusted = TrustedSet(size=10)
    trusted.offer(kept(1, 10), np.random.default_rng(1))
    trusted.forget_rows(10, np.array([1, 5]))
    assert firsts(trusted) == {2, 3, 6, 7, 8}


def test_an_empty_one_has_no_histories() -> None:
    assert len(TrustedSet().histories(ROWS, 5)) == 0
