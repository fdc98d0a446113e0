"""What Feast's on-demand views run: rows are put together again from the columns that Feast read, and handed to `asked.py`.

Feast runs such a view on columns: a list for each feature, of as many values as there are entities. It keeps the text of the
function and runs that by itself, so the functions in `definitions.py` import this module when they are called.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.features.asked import ASKED_VIEWS, AskedView, taste_of_user
from headrace.features.columns import ITEMS, SESSIONS, USERS, Kind, View
from headrace.schemas import HistoryEntry, ItemRow, Pane, SessionRow, UserRow

ASKED_MS = "asked_ms"
Columns = Mapping[str, Sequence[Any]]

_HISTORY = ("history_items", "history_kinds", "history_times_ms", "history_prices", "history_categories")
_PANES = ("pane_starts_ms", "pane_views", "pane_carts", "pane_purchases", "pane_amounts")
_LISTS = {"history": _HISTORY, "panes": _PANES}
# The columns of each stored view that computed ones need.
INPUTS: dict[str, tuple[str, ...]] = {
    USERS.name: (*_HISTORY, *_PANES, "last_purchase_ms", "updated_ms", "seen_ms"),
    ITEMS.name: ("views", "purchases", *_PANES, "price", "lowest_price", "highest_price", "category", "updated_ms", "seen_ms"),
    SESSIONS.name: ("views", "carts", "purchases", "first_ms", "updated_ms", "seen_ms"),
}
_ROWS: dict[str, tuple[type[Any], str]] = {
    USERS.name: (UserRow, "shopper_id"),
    ITEMS.name: (ItemRow, "item_id"),
    SESSIONS.name: (SessionRow, "session_id"),
}
_BY_NAME = {view.name: view for view in ASKED_VIEWS}
_SAMPLES: dict[Kind, Any] = {
    "int64_val": 1,
    "double_val": 1.0,
    "string_val": "text",
    "int64_list_val": [1],
    "double_list_val": [1.0],
    "string_list_val": ["text"],
}


class MixedColumns(ValueError):
    """Feast was asked with short names for a view of two others, whose columns of the same name it then takes for one."""

    def __init__(self, view: AskedView) -> None:
        bases = " and ".join(base.name for base in view.of)
        super().__init__(f"{view.name} needs {bases}, which have columns of the same names; ask Feast with full_feature_names=True")


def answer(name: str, inputs: Columns) -> dict[str, list[Any]]:
    """Return the columns of the computed view `name`, given those that Feast read, the join keys and `asked_ms`.

    Raises MixedColumns.
    """
    view = _BY_NAME[name]
    if not all(base.join_key in inputs for base in view.of):
        # When it applies a view, Feast calls it with made-up columns, to see of which types the answers are.
        return {column.name: [_SAMPLES[column.kind]] for column in view.columns}
    _require_own_columns(view, inputs)
    rows = zip(*(_rows(base, inputs) for base in view.of), strict=True)
    entities = zip(*(inputs[base.join_key] for base in view.of), strict=True)
    values = [view.values(*asked, taste_of_user) for asked in zip(rows, entities, map(int, inputs[ASKED_MS]), strict=True)]
    # Feast takes names as it was asked for them: online it does not shorten or lengthen any.
    prefix = f"{name}__" if _asked_by_full_names(view, inputs) else ""
    columns = list(zip(*values, strict=True)) or [()] * len(view.columns)
    return {f"{prefix}{column.name}": list(told) for column, told in zip(view.columns, columns, strict=True)}


def _rows(view: View, inputs: Columns) -> Iterator[Any]:
    """Yield the row of each entity, None for one without."""
    kinds = {column.name: column.kind for column in view.columns}
    names = INPUTS[view.name]
    row, id_field = _ROWS[view.name]
    columns = zip(*(inputs[f"{view.name}__{name}"] for name in names), strict=True)
    for entity, values in zip(inputs[view.join_key], columns, strict=True):
        told = {name: value for name, raw in zip(names, values, strict=True) if (value := _told(raw, kinds[name])) is not None}
        if "seen_ms" not in told:
            yield None
            continue
        for field, parts in _LISTS.items():
            if parts[0] in told:
                side_by_side = zip(*(told.pop(part) for part in parts), strict=True)
                told[field] = [_PARTS[field](*entry) for entry in side_by_side]
        yield row(**{id_field: entity}, **told)


def _told(value: Any, kind: Kind) -> Any:
    """Return a value; None for NaN, and a whole number where the historical read has made a float of it for the sake of its NaN."""
    if value is None or value != value:
        return None
    return int(value) if kind == "int64_val" else value


def _entry(item_id: str, kind: Any, time_ms: int, price: float, category: str) -> HistoryEntry:
    return HistoryEntry(item_id, kind, time_ms, _told(price, "double_val"), category or None)


_PARTS: dict[str, Any] = {"history": _entry, "panes": Pane}


def _asked_by_full_names(view: AskedView, inputs: Columns) -> bool:
    """Whether Feast was asked by full names. It adds the others behind."""
    base = view.of[0].name
    return next(name for name in inputs if name in ("seen_ms", f"{base}__seen_ms")) != "seen_ms"


def _require_own_columns(view: AskedView, inputs: Columns) -> None:
    seen = [inputs[f"{base.name}__seen_ms"] for base in view.of]
    if len(seen) > 1 and seen[0] is seen[1]:
        raise MixedColumns(view)
