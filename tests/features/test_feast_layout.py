"""What is written as bytes is what Feast's own message writes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.deploy.bench.events import Shop
from headrace.features import feast_layout
from headrace.features.columns import ITEMS, SESSIONS, USERS
from headrace.features.feast_layout import RowTable, decode_value
from headrace.features.item_row import changes_of, fold_item
from headrace.features.online_store import PROJECT
from headrace.features.place import Place
from headrace.features.session_row import fold_session
from headrace.features.user_row import fold_user
from headrace.schemas import Click, ItemRow, SessionRow, UserRow, encode

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


@pytest.mark.parametrize("length", [127, 128, 129, 1023, 1024, 20_000])
@pytest.mark.parametrize(("kind", "value"), [("int64_list_val", 5), ("int64_list_val", 1_700_000_000_000), ("double_list_val", 0.5)])
def test_lists_of_any_length_are_those_of_feasts_own_message(kind: str, value: float, length: int) -> None:
    message: Any = feast_layout._Value()
    getattr(message, kind).val.extend([value] * length)
    assert feast_layout._ENCODERS[kind]([value] * length) == message.SerializeToString()


@given(st.integers(0, 2**53 - 1))
def test_timestamps_are_those_of_protocol_buffers(time_ms: int) -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)
    assert feast_layout._timestamp(time_ms) == stamp.SerializeToString()


def test_what_is_written_over_a_row_leaves_all_fields_of_the_new_one() -> None:
    tables = [
        RowTable(USERS, UserRow, lambda row: row.shopper_id, PROJECT),
        RowTable(SESSIONS, SessionRow, lambda row: row.session_id, PROJECT),
        RowTable(ITEMS, ItemRow, lambda row: row.item_id, PROJECT),
    ]
    rows: list[Any] = [UserRow(shopper_id="u"), SessionRow(session_id="v"), ItemRow(item_id="i")]
    stored: list[dict[bytes, bytes]] = [{}, {}, {}]
    left_out = 0
    for number, event in enumerate(Shop(300, 1, 1, 1_700_000_000_000, 250_000.0)):
        place = Place("clicks/0" if isinstance(event, Click) else "purchases/0", number, event.event_time_ms)
        after = [fold_user(rows[0], event, place), fold_session(rows[1], event, place), fold_item(rows[2], changes_of(event, place)[0])]
        for table, before, row, held in zip(tables, rows, after, stored, strict=True):
            layout = table.layout_over(before, row)
            held |= dict(zip(layout.names, table.values(layout, row, encode(row)), strict=True))
            whole = table.fields(row)
            assert held == dict(zip(whole[::2], whole[1::2], strict=True))
            left_out += len(layout.names) < len(whole) // 2
        rows = after
    assert left_out > 300
