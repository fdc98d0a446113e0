"""What is written as bytes is what Feast's own message writes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.features import feast_layout
from headrace.features.feast_layout import decode_value

INTS = st.integers(0, 2**53 - 1)
DOUBLES = st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)
VALUES = {
    "int64_val": INTS,
    "double_val": DOUBLES,
    "string_val": TEXTS,
    "int64_list_val": st.lists(INTS, max_size=60),
    "double_list_val": st.lists(DOUBLES, max_size=60),
    "string_list_val": st.lists(TEXTS, max_size=60),
}


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_bytes_are_those_of_feasts_own_message(kind: str, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    message: Any = feast_layout._Value()
    if isinstance(value, list):
        getattr(message, kind).SetInParent()
        getattr(message, kind).val.extend(value)
    else:
        setattr(message, kind, value)
    written = feast_layout._ENCODERS[kind](value)
    assert written == message.SerializeToString()
    assert decode_value(written) == value


@given(st.integers(0, 2**53 - 1))
def test_timestamps_are_those_of_protocol_buffers(time_ms: int) -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)
    assert feast_layout._timestamp(time_ms) == stamp.SerializeToString()
