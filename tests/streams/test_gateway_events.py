"""Reading a body of events and answering it, without a server."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas import Click, InvalidMessage, Purchase
from headrace.streams.gateway_events import NotJson, Refusal, answer, read_events
from headrace.streams.gateway_messages import RefusedEvents
from headrace.streams.settlement import Outcome

NOW_MS = 1_790_000_000_000
CLICK = {"type": "click", "event_id": "c-1", "event_time_ms": NOW_MS, "item_id": "lamp", "user_id": "ada"}
PURCHASE = {
    "type": "purchase",
    "event_id": "p-1",
    "event_time_ms": NOW_MS,
    "order_id": "o-1",
    "lines": [{"item_id": "tent"}],
    "currency": "EUR",
    "session_id": "s-1",
}


def read(value: object) -> list[Any]:
    return read_events(json.dumps(value).encode(), NOW_MS)


def test_one_event_and_a_batch_are_read() -> None:
    assert isinstance(read(CLICK)[0], Click)
    assert [type(event) for event in read({"events": [CLICK, PURCHASE]})] == [Click, Purchase]


@pytest.mark.parametrize(
    ("change", "field", "value", "expected"),
    [
        ({"item_id": ""}, "$.item_id", "''", "length >= 1"),
        ({"item_id": 7}, "$.item_id", "7", "Expected `str`, got `int`"),
        ({"item_id": "a\nb"}, "$.item_id", "'a\\nb'", "regex"),
        ({"type": "clikc"}, "$.type", "'clikc'", "'click' or 'purchase'"),
        ({"type": None}, "$.type", "None", "'click' or 'purchase'"),
        ({"type": ["click"]}, "$.type", "['click']", "'click' or 'purchase'"),
        ({"event_time_ms": "today"}, "$.event_time_ms", "'today'", "Expected `int`"),
        ({"event_time_ms": NOW_MS + 3_600_000}, "$.event_time_ms", str(NOW_MS + 3_600_000), "3600 s in the future"),
        ({"price": -1}, "$.price", "-1", ">= 0"),
        ({"user_id": None}, "$.user_id", "None", "session_id"),
        ({"user_id": "session:x"}, "$.user_id", "'session:x'", "kept for guests"),
        ({"mood": "good"}, "$", "", "unknown field `mood`"),
        ({"attribution": {"position": -1}}, "$.attribution.position", "-1", ">= 0"),
    ],
)
def test_a_refusal_names_field_value_and_what_was_expected(change: dict[str, Any], field: str, value: str, expected: str) -> None:
    _, told = answer(read(CLICK | change), [])
    assert isinstance(told, RefusedEvents)
    [outcome] = told.outcomes
    assert (outcome.event_id, outcome.status, outcome.field) == ("c-1", "refused", field)
    assert (told.field, told.value, told.expected) == (outcome.field, outcome.value, outcome.expected)
    assert value in (told.value or "")
    assert expected in (told.expected or "")


def test_a_missing_field_is_named() -> None:
    _, told = answer(read({name: value for name, value in CLICK.items() if name != "item_id"}), [])
    assert "item_id" in (told.outcomes[0].expected or "")


@pytest.mark.parametrize("body", [b"", b"{", b"not json", b'{"a": NaN}', b"\xff\xfe", b'{"a": "\xff"}', b"{}{}", b'{"a":' + b"[" * 100_000])
def test_what_is_not_json_is_told_so(body: bytes) -> None:
    with pytest.raises(NotJson, match="the body is not JSON"):
        read_events(body, NOW_MS)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "$"),
        (3, "$"),
        ("click", "$"),
        (None, "$"),
        ({"events": []}, "$.events"),
        ({"events": {}}, "$.events"),
        ({"events": None}, "$.events"),
        ({"events": [CLICK] * 1001}, "$.events"),
        ({"events": [CLICK], "event": 1}, "$.event"),
    ],
)
def test_json_that_holds_no_events_is_refused_as_a_whole(body: object, field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        read(body)
    assert caught.value.field == field


def test_a_bad_event_spoils_no_other() -> None:
    bad: list[object] = [3, None, "x", [], {}, CLICK | {"item_id": ""}]
    found = read({"events": [CLICK, *bad, PURCHASE]})
    assert [isinstance(part, Refusal) for part in found] == [False, *[True] * 6, False]


def test_the_status_follows_from_the_outcomes() -> None:
    one, other = read({"events": [CLICK, CLICK | {"item_id": ""}]})
    good, waiting = Outcome("c-1", "acknowledged"), Outcome("c-1", "unacknowledged", "no answer")
    status, told = answer([one, other], [good])
    assert (status, told.accepted, told.refused, told.undelivered) == (202, 1, 1, 0)
    assert [outcome.status for outcome in told.outcomes] == ["acknowledged", "refused"]
    assert answer([one, one], [waiting, good])[0] == 202
    assert answer([one, other], [waiting])[0] == 503
    assert answer([one], [Outcome("c-1", "buffer_full")])[0] == 503
    assert answer([other, other], [])[0] == 422


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*CLICK, *PURCHASE, "x"]), inner, max_size=6),
    max_leaves=12,
)


CHANGED = st.builds(
    lambda base, change: base | change, st.sampled_from([CLICK, PURCHASE]), st.dictionaries(st.sampled_from([*CLICK]), JSON)
)


@given(JSON | CHANGED)
def test_whatever_stands_for_an_event_is_read_or_refused_with_its_field(value: Any) -> None:
    [part] = read({"events": [value]})
    if isinstance(part, Refusal):
        assert part.error.field.startswith("$")
        status, told = answer([part], [])
        assert status == 422
        assert len(told.outcomes[0].value or "") <= 120


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(NotJson, InvalidMessage):
        read_events(body, NOW_MS)
