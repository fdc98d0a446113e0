"""Rows are written and read by scripts that Redis may have forgotten."""

from headrace.features.online_store import OnlineStore, RowWrite, connect
from headrace.schemas import UserRow, encode


def test_a_server_that_has_forgotten_the_scripts_is_given_them_again(clean_redis: str) -> None:
    store = OnlineStore(connect(clean_redis))
    before = UserRow(shopper_id="u")
    for offset in range(3):
        store.client.script_flush()
        row = UserRow(shopper_id="u", views=offset + 1, offsets={"clicks/0": offset})
        moved = {"clicks/0": (offset - 1 if offset else None, offset)}
        assert store.compare_and_set([RowWrite(store.users, before, row, encode(row))], moved) == [True]
        store.client.script_flush()
        assert store.read_checked([(store.users, "u")], {"clicks/0": offset}) == [row]
        before = row
