"""From a file's name to its events."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from headrace.schemas import wire
from headrace.schemas.events import Click, Event, Purchase
from headrace.schemas.wire import InvalidMessage
from headrace.streams.readers.layouts import Recognised, recognise, split
from headrace.streams.readers.lines import open_lines
from headrace.streams.readers.order import MAX_LINES, interleave_sessions, merge_orders

OnBadRow = Callable[[InvalidMessage], None]


def open_events(
    path: str | Path,
    *,
    open_sessions: int = 64,
    seed: int = 1,
    on_bad_row: OnBadRow | None = None,
    name: str | None = None,
) -> Iterator[Event]:
    """Return the events of a file, plain or gzipped, in the file's order; its first line tells the layout (`LAYOUTS`).

    Event ids are `name` (by default the file's name up to its first dot) and the row's number, so the same file gives the
    same ids each time. Lines that begin with `{` are our own events as JSON and keep their ids. A file without times is
    read with `open_sessions` sessions side by side, drawn with `seed` (see `order.interleave_sessions`).

    Raises InvalidMessage, with file, line, field and value, at the first bad row; or hands it to `on_bad_row` and goes on.
    """
    path = Path(path)
    first_line = _first_line(path)
    if first_line is None:
        return iter(())
    if first_line.startswith("{"):
        return _good_rows(path, _own_event, skip=0, on_bad_row=on_bad_row)
    file = recognise(first_line, path)
    stem = name or path.name.split(".")[0]

    def event(line: bytes, row: int) -> Event:
        try:
            fields = file.split(line.decode())
        except UnicodeDecodeError:
            raise InvalidMessage("row", line, "UTF-8 was expected") from None
        return file.layout.event(dict(zip(file.columns, fields, strict=True)), f"{stem}-{row}")

    events = _good_rows(path, event, skip=int(file.has_header), on_bad_row=on_bad_row)
    if file.layout.orders:
        return merge_orders(events)
    if file.layout.timeless:
        return interleave_sessions(events, open_sessions, seed)
    return events


def count_events(path: str | Path) -> int:
    """Return how many events the file holds, counted from its lines alone: a check on whoever reads it with `open_events`."""
    path = Path(path)
    first_line = _first_line(path)
    if first_line is None:
        return 0
    file = None if first_line.startswith("{") else recognise(first_line, path)
    with open_lines(path) as lines:
        if file is not None and file.has_header:
            next(lines)
        if file is None or not file.layout.orders:
            return sum(1 for _ in lines)
        return _count_orders(file, (split(line.decode(), file.layout.separator) for _, line in lines))


def _count_orders(file: Recognised, rows: Iterable[list[str]]) -> int:
    """Count rows, taking consecutive rows as one where all but item, price and quantity agree and there is an order."""
    varying = {"item_id", "itemid", "itemId", "item", "price", "quantity"}
    kept = [place for place, column in enumerate(file.columns) if column not in varying]
    click_only = file.columns.index("transactionid") if "transactionid" in file.columns else None
    total, lines, previous = 0, 0, None
    for fields in rows:
        order = None if click_only is not None and not fields[click_only] else [fields[place] for place in kept]
        if order is not None and order == previous and lines < MAX_LINES:
            lines += 1
        else:
            total, lines = total + 1, 1
        previous = order
    return total


def _good_rows(path: Path, parse: Callable[[bytes, int], Event], *, skip: int, on_bad_row: OnBadRow | None) -> Iterator[Event]:
    with open_lines(path) as lines:
        for row, (number, line) in enumerate(lines, start=1 - skip):
            if row < 1:
                continue
            try:
                event = parse(line, row)
            except InvalidMessage as error:
                located = InvalidMessage(f"{path.name}:{number} {error.field}", error.value, error.expected)
                if on_bad_row is None:
                    raise located from None
                on_bad_row(located)
                continue
            yield event


def _own_event(line: bytes, row: int) -> Event:
    try:
        kind = msgspec.json.decode(line, type=_Tag).type
    except msgspec.DecodeError:
        kind = None
    event: Event = wire.decode(Purchase, line) if kind == "purchase" else wire.decode(Click, line)
    wire.check_event(event, event.event_time_ms)
    return event


class _Tag(msgspec.Struct):
    type: str = "click"


def _first_line(path: Path) -> str | None:
    with open_lines(path) as lines:
        first = next(lines, None)
    return None if first is None else first[1].decode(errors="replace")
