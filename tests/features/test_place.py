"""A row knows its last 128 events of each partition by their ids."""

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.features.place import REMEMBERED, remember, was_counted


@given(st.lists(st.integers(0, 40), max_size=80))
@settings(max_examples=300, deadline=None)
def test_an_id_is_counted_the_first_time_and_at_that_offset_alone(ids: list[int]) -> None:
    recent, counted = b"", {}
    for offset, number in enumerate(ids):
        after = remember(recent, f"e{number}", offset)
        assert (after is None) == (number in counted)
        if after is not None:
            recent = after
            counted[number] = offset
    for offset, number in enumerate(ids):
        assert was_counted(recent, f"e{number}", offset) == (counted[number] == offset)
    assert not was_counted(recent, "never", 0)


def test_the_horizon_is_the_last_128_events() -> None:
    recent = b""
    for offset in range(REMEMBERED + 1):
        recent = remember(recent, f"e{offset}", offset) or recent
    assert len(recent) == 16 * REMEMBERED
    assert remember(recent, "e1", 999) is None
    assert remember(recent, "e0", 999) is not None
    assert was_counted(recent, "e128", 128)
    assert not was_counted(recent, "e0", 0)


def test_bytes_of_two_neighbours_are_not_taken_for_an_id() -> None:
    # An offset and a hash side by side may spell another hash; only whole entries count.
    first = remember(b"", "a", 0)
    assert first is not None
    forged = b"\x00" * 4 + first[:8] + b"\x00" * 4 + first
    assert was_counted(forged, "a", 0)
    assert not was_counted(forged[:16], "a", 0)
