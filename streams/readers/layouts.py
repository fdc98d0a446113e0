"""The layouts that are known, and how a file's first line tells which it has."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.schemas.events import Event
from headrace.schemas.wire import InvalidMessage
from headrace.streams.readers import rows


@dataclass(frozen=True)
class Layout:
    """How the rows of a file become events.

    `columns` in any order make up the header line; where there is none, `first_line` is the form of the first row and
    `columns` their order. `orders` says that consecutive rows of one order at one time make one purchase; `timeless` that
    the file knows only the order within sessions.
    """

    name: str
    columns: tuple[str, ...]
    event: Callable[[rows.Row, str], Event]
    separator: str = ","
    first_line: re.Pattern[str] | None = None
    orders: bool = False
    timeless: bool = False


_ISO = r"\d{4}-\d\d-\d\d[T ][^,]*"
_MOVIELENS = ("user", "item", "rating", "timestamp")
_YOOCHOOSE = ("session", "timestamp", "item")
_DIGINETICA_VIEW = ("sessionId", "userId", "itemId", "timeframe", "eventdate")

LAYOUTS = (
    Layout(
        "diginetica_clicks_purchases",
        ("timestamp_ms", "type", "session_id", "user_id", "item_id", "order_id"),
        # Here each row stays one event, purchases too, so that the count of events is the count of rows.
        rows.prepared_click_or_purchase,
    ),
    Layout("diginetica_purchases", ("timestamp_ms", "session_id", "user_id", "item_id", "order_id"), rows.prepared_purchase, orders=True),
    Layout("yoochoose_clicks", ("timestamp_ms", "session_id", "item_id"), rows.prepared_click),
    Layout("retailrocket_sessions", ("session", "position", "item_id"), rows.ordered_click, timeless=True),
    Layout("movielens_100k_ratings", ("timestamp_ms", "user_id", "item_id", "rating"), rows.prepared_rating),
    Layout(
        "RetailRocket events.csv",
        ("timestamp", "visitorid", "event", "itemid", "transactionid"),
        rows.retailrocket_event,
        orders=True,
    ),
    Layout("Diginetica train-item-views.csv", _DIGINETICA_VIEW, rows.diginetica_view, ";"),
    Layout(
        "Diginetica train-purchases.csv",
        ("sessionId", "userId", "timeframe", "eventdate", "ordernumber", "itemId"),
        rows.diginetica_purchase,
        ";",
        orders=True,
    ),
    Layout(
        "YooChoose yoochoose-clicks.dat", (*_YOOCHOOSE, "category"), rows.yoochoose_click, first_line=re.compile(rf"\d+,{_ISO},\d+,[^,]*")
    ),
    Layout(
        "YooChoose yoochoose-buys.dat",
        (*_YOOCHOOSE, "price", "quantity"),
        rows.yoochoose_buy,
        first_line=re.compile(rf"\d+,{_ISO},\d+,\d+,\d+"),
        orders=True,
    ),
    Layout("MovieLens u.data", _MOVIELENS, rows.movielens_rating, "\t", re.compile(r"\d+\t\d+\t[\d.]+\t\d+")),
    Layout("MovieLens ratings.dat", _MOVIELENS, rows.movielens_rating, "::", re.compile(r"\d+::\d+::[\d.]+::\d+")),
    Layout("MovieLens ratings.csv", _MOVIELENS, rows.movielens_rating),
)

# Copies of the same file in the wild spell these columns differently.
_OTHER_SPELLINGS = {
    frozenset(("session_id", "user_id", "item_id", "timeframe", "eventdate")): (
        {"session_id": "sessionId", "user_id": "userId", "item_id": "itemId"},
        ";",
    ),
    frozenset(("userId", "movieId", "rating", "timestamp")): ({"userId": "user", "movieId": "item"}, ","),
}


@dataclass(frozen=True)
class Recognised:
    """A layout together with the order of the columns in this very file."""

    layout: Layout
    columns: tuple[str, ...]
    has_header: bool

    def split(self, line: str) -> list[str]:
        """Return the fields of a line. Raises InvalidMessage where their number is wrong."""
        fields = split(line, self.layout.separator)
        if len(fields) != len(self.columns):
            raise InvalidMessage("row", line, f"{len(self.columns)} columns ({', '.join(self.columns)}) were expected, not {len(fields)}")
        return fields


def recognise(first_line: str, path: Path) -> Recognised:
    """Return the layout that the first line shows. Raises InvalidMessage, which lists the layouts that are known."""
    for layout in LAYOUTS:
        if layout.first_line is not None:
            if layout.first_line.fullmatch(first_line):
                return Recognised(layout, layout.columns, has_header=False)
            continue
        columns = _columns(first_line, layout.separator)
        if len(columns) == len(layout.columns) and set(columns) == set(layout.columns):
            return Recognised(layout, columns, has_header=True)
    known = "; ".join(f"{layout.name} ({layout.separator.join(layout.columns)})" for layout in LAYOUTS)
    raise InvalidMessage(f"{path.name}:1", first_line, f"one of these layouts, or JSON lines of our own events, was expected: {known}")


def split(line: str, separator: str) -> list[str]:
    """Return the fields of a line; only quoted ones need a CSV reader."""
    return next(csv.reader([line], delimiter=separator)) if '"' in line else line.split(separator)


def _columns(line: str, separator: str) -> tuple[str, ...]:
    columns = tuple(column.strip() for column in split(line, separator))
    names, written_with = _OTHER_SPELLINGS.get(frozenset(columns), ({}, ""))
    return tuple(names.get(column, column) for column in columns) if written_with == separator else columns
