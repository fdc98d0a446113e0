"""Whether the check that the demo rests on can find what is lost and what is double."""

from collections.abc import Iterable

from msgspec.structs import replace

from headrace.deploy.tally import Difference, Tally, difference
from headrace.features.item_row import changes_of, fold_item
from headrace.features.place import Place
from headrace.features.user_row import fold_user
from headrace.schemas import Click, Event, ItemRow, OrderLine, Purchase, UserRow, shopper_id

EVENTS: list[Event] = [
    Click(event_id="1", event_time_ms=1, item_id="lamp", user_id="ada"),
    Click(event_id="2", event_time_ms=2, item_id="lamp", user_id="ada", action="cart"),
    Click(event_id="3", event_time_ms=3, item_id="bulb", session_id="s1"),
    Purchase(
        event_id="4",
        event_time_ms=4,
        order_id="o",
        lines=[OrderLine(item_id="lamp", quantity=3), OrderLine(item_id="vase")],
        currency="EUR",
        user_id="ada",
    ),
]


def tally(events: Iterable[Event]) -> Tally:
    counted = Tally()
    for event in events:
        counted.add(event)
    return counted


def rows(events: Iterable[Event]) -> Tally:
    users: dict[str, UserRow] = {}
    items: dict[str, ItemRow] = {}
    for offset, event in enumerate(events):
        place, key = Place("clicks/0", offset, 0), shopper_id(event)
        users[key] = fold_user(users.get(key, UserRow(shopper_id=key)), event, place)
        for change in changes_of(event, place):
            items[change.item_id] = fold_item(items.get(change.item_id, ItemRow(item_id=change.item_id)), change)
    counted = Tally()
    counted.add_rows([*users.values(), None], [*items.values(), None])
    return counted


def again(event: Event) -> Event:
    """The event under another id: with its own, a row would know it."""
    return replace(event, event_id=f"{event.event_id}-again")


def test_rows_that_hold_each_event_once_show_no_difference() -> None:
    assert difference(tally(EVENTS), Tally(), rows(EVENTS)) == Difference(0, 0, 0, 0)
    assert (rows(EVENTS).events(), rows(EVENTS).events("purchase")) == (4, 1)


def test_a_lost_event_is_found_with_what_it_did_to_items() -> None:
    found = difference(tally(EVENTS), Tally(), rows(EVENTS[1:]))
    assert (found.lost, found.double, found.item_touches_lost, found.item_touches_double) == (1, 0, 1, 0)


def test_an_event_counted_twice_is_found() -> None:
    found = difference(tally(EVENTS), Tally(), rows([*EVENTS, again(EVENTS[2])]))
    assert (found.lost, found.double, found.item_touches_lost, found.item_touches_double) == (0, 1, 0, 1)


def test_one_lost_and_one_double_of_different_shoppers_do_not_cancel_out() -> None:
    found = difference(tally(EVENTS), Tally(), rows([*EVENTS[1:], again(EVENTS[2])]))
    assert (found.lost, found.double) == (1, 1)


def test_rows_of_shoppers_who_never_published_are_double() -> None:
    assert difference(tally(EVENTS[:3]), Tally(), rows(EVENTS)).double > 0


def test_what_was_there_before_is_taken_off() -> None:
    assert difference(tally(EVENTS[2:]), rows(EVENTS[:2]), rows(EVENTS)) == Difference(0, 0, 0, 0)
