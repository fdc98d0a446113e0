"""One row of a known layout as one event. Functions of their input alone; each raises InvalidMessage with the column's name."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TypeVar

import msgspec

from headrace.schemas import wire
from headrace.schemas.events import Click, Event, Purchase
from headrace.schemas.wire import InvalidMessage

NO_CURRENCY = "XXX"
SYNTHETIC_START_MS = 1_433_116_800_000
Row = Mapping[str, str]
E = TypeVar("E", Click, Purchase)


def prepared_click(row: Row, event_id: str) -> Event:
    """`timestamp_ms,session_id,item_id`, and user_id where the layout has one."""
    return _click(event_id, row["timestamp_ms"], row["item_id"], user=row.get("user_id"), session=row["session_id"])


def prepared_purchase(row: Row, event_id: str) -> Event:
    """`timestamp_ms,session_id,user_id,item_id,order_id`."""
    return _purchase(event_id, row["timestamp_ms"], row["order_id"], row["item_id"], user=row["user_id"], session=row["session_id"])


def prepared_click_or_purchase(row: Row, event_id: str) -> Event:
    """`timestamp_ms,type,session_id,user_id,item_id,order_id`, type being click or purchase."""
    if row["type"] == "click":
        return prepared_click(row, event_id)
    if row["type"] == "purchase":
        return prepared_purchase(row, event_id)
    raise InvalidMessage("type", row["type"], "click or purchase was expected")


def ordered_click(row: Row, event_id: str) -> Event:
    """`session,position,item_id`, which tells no times: the reader puts them in (`readers.order`)."""
    return _click(event_id, SYNTHETIC_START_MS, row["item_id"], session=row["session"])


def prepared_rating(row: Row, event_id: str) -> Event:
    """`timestamp_ms,user_id,item_id,rating`; whoever rates an item has seen it."""
    return _click(event_id, row["timestamp_ms"], row["item_id"], user=row["user_id"])


def movielens_rating(row: Row, event_id: str) -> Event:
    """MovieLens' user, item, rating and seconds since 1970."""
    time_ms = _number("timestamp", row["timestamp"]) * 1000
    return _click(event_id, time_ms, row["item"], user=row["user"])


def retailrocket_event(row: Row, event_id: str) -> Event:
    """RetailRocket's `timestamp,visitorid,event,itemid,transactionid`."""
    time_ms, visitor, item = row["timestamp"], row["visitorid"], row["itemid"]
    match row["event"]:
        case "view":
            return _click(event_id, time_ms, item, user=visitor)
        case "addtocart":
            return _click(event_id, time_ms, item, user=visitor, action="cart")
        case "transaction":
            return _purchase(event_id, time_ms, row["transactionid"], item, user=visitor)
    raise InvalidMessage("event", row["event"], "view, addtocart or transaction was expected")


def yoochoose_click(row: Row, event_id: str) -> Event:
    """YooChoose's session, ISO time, item and category; category 0 stands for none."""
    category = None if row["category"] in ("", "0") else row["category"]
    return _click(event_id, _iso_ms(row["timestamp"]), row["item"], session=row["session"], category=category)


def yoochoose_buy(row: Row, event_id: str) -> Event:
    """YooChoose's session, ISO time, item, price and quantity, both 0 where unknown. There are no order ids: session and time make one."""
    time_ms = _iso_ms(row["timestamp"])
    line: dict[str, object] = {}
    if row["price"] not in ("", "0"):
        line["unit_price"] = row["price"]
    if row["quantity"] not in ("", "0"):
        line["quantity"] = row["quantity"]
    return _purchase(event_id, time_ms, f"{row['session']}-{time_ms}", row["item"], session=row["session"], line=line)


def diginetica_view(row: Row, event_id: str) -> Event:
    """Diginetica's `sessionId;userId;itemId;timeframe;eventdate`: the session's date and milliseconds since its start."""
    return _click(event_id, _diginetica_ms(row), row["itemId"], user=_known(row["userId"]), session=row["sessionId"])


def diginetica_purchase(row: Row, event_id: str) -> Event:
    """Diginetica's `sessionId;userId;timeframe;eventdate;ordernumber;itemId`."""
    user = _known(row["userId"])
    return _purchase(event_id, _diginetica_ms(row), row["ordernumber"], row["itemId"], user=user, session=row["sessionId"])


def _click(
    event_id: str,
    time_ms: str | int,
    item: str,
    *,
    user: str | None = None,
    session: str | None = None,
    action: str = "view",
    category: str | None = None,
) -> Click:
    fields: dict[str, object] = {"type": "click", "event_id": event_id, "event_time_ms": time_ms, "item_id": item, "action": action}
    fields |= {"user_id": user or None, "session_id": session or None, "category": category}
    return _built(Click, fields)


def _purchase(
    event_id: str,
    time_ms: str | int,
    order: str,
    item: str,
    *,
    user: str | None = None,
    session: str | None = None,
    line: Mapping[str, object] | None = None,
) -> Purchase:
    fields: dict[str, object] = {"type": "purchase", "event_id": event_id, "event_time_ms": time_ms, "order_id": order}
    fields |= {"lines": [{"item_id": item} | dict(line or {})], "currency": NO_CURRENCY}
    fields |= {"user_id": user or None, "session_id": session or None}
    return _built(Purchase, fields)


def _built(kind: type[E], fields: dict[str, object]) -> E:
    """Return the event after all limits are checked; numbers may come as text."""
    try:
        event = msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at `$.")
        field = path.rstrip("`")
        raise InvalidMessage(field or "row", fields.get(field.split("[")[0], fields), expected) from None
    wire.check_event(event, event.event_time_ms)
    return event


def _number(column: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidMessage(column, text, "a whole number was expected")
    return int(text)


def _known(user: str) -> str | None:
    return None if user in ("", "NA") else user


def _iso_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidMessage("timestamp", text, "a time such as 2014-04-07T10:51:09.277Z was expected") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _diginetica_ms(row: Row) -> int:
    return _midnight_ms(row["eventdate"]) + _number("timeframe", row["timeframe"])


@lru_cache(maxsize=1000)
def _midnight_ms(text: str) -> int:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InvalidMessage("eventdate", text, "a date such as 2016-05-09 was expected") from None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
