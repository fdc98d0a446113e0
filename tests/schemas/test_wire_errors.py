"""What a publisher is told when a message is wrong."""

import pytest

from headrace.schemas import Click, InvalidMessage, check_event, decode, encode
from headrace.schemas.wire import SCHEMA_MINOR


def test_a_click_survives_the_wire() -> None:
    click = Click(event_id="a", event_time_ms=5, item_id="shoe", user_id="ann", price=9.5)
    assert decode(Click, encode(click)) == click


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"{", "$"),
        (b"\xff\xfe", "$"),
        (b'{"type":"click","event_id":"a","event_time_ms":"x","item_id":"i"}', "$.event_time_ms"),
        (b'{"type":"click","event_id":"a","event_time_ms":1,"item_id":""}', "$.item_id"),
        (b'{"type":"click","event_id":"a","event_time_ms":1,"item_id":"i","colour":1}', "$"),
    ],
)
def test_an_error_names_the_field(raw: bytes, field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(Click, raw)
    assert caught.value.field == field


def test_an_unknown_field_of_a_later_minor_version_is_passed_over() -> None:
    raw = b'{"type":"click","event_id":"a","event_time_ms":1,"item_id":"i","colour":1}'
    assert decode(Click, raw, [("ce_dataschema", f"urn:headrace:click:1.{SCHEMA_MINOR + 1}".encode())]).item_id == "i"


def test_an_event_of_nobody_and_one_of_the_far_future_are_refused() -> None:
    with pytest.raises(InvalidMessage, match="session_id"):
        check_event(Click(event_id="a", event_time_ms=1, item_id="i"), now_ms=10)
    with pytest.raises(InvalidMessage, match="in the future"):
        check_event(Click(event_id="a", event_time_ms=4_070_908_800_000, item_id="i", user_id="u"), now_ms=10)
