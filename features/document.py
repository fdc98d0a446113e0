"""`docs/features.md`, written from the tables of columns that Feast's definitions and our reader follow."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from headrace.features.asked import ASKED_VIEWS, AskedView, taste_of_user
from headrace.features.columns import ITEMS, SESSIONS, USERS, VIEWS, View
from headrace.features.item_row import HALF_LIFE_MS as ITEM_HALF_LIFE_MS
from headrace.features.online_store import SESSION_KEPT_MS
from headrace.features.place import REMEMBERED
from headrace.features.services import SERVICES
from headrace.features.taste import HALF_LIFE_MS, KIND_WEIGHTS, PAUSE_MS
from headrace.features.user_row import HISTORY_LENGTH
from headrace.features.windows import ALLOWED_LATENESS_MS, DAY_MS, HOUR_MS, MINUTE_MS, WINDOWS
from headrace.schemas import ItemRow, SessionRow, UserRow
from headrace.schemas.wire import MAX_FUTURE_MS

_EMPTY: dict[str, Any] = {
    USERS.name: UserRow(shopper_id="nobody"),
    ITEMS.name: ItemRow(item_id="nothing"),
    SESSIONS.name: SessionRow(session_id="nowhere"),
}
_HEAD = "<!-- Written by `headrace features document`. Change the tables of columns, and run it again. -->"


def document() -> str:
    """Return the document as Markdown."""
    parts = [_HEAD, "# Features", _paragraphs(_INTRODUCTION), "## Feature services", _services(), "## Stored views", _STORED]
    parts += [_section(view, _of_stored(view), _values_of_stored(view)) for view in VIEWS]
    parts += ["## Views of the time of asking", _paragraphs(_ASKED)]
    parts += [_section(view, _of_asked(view), _values_of_asked(view)) for view in ASKED_VIEWS]
    parts += ["## How exact they are", _paragraphs(_EXACTNESS)]
    return "\n\n".join(parts) + "\n"


def _services() -> str:
    rows = [(f"`{one.name}`", one.description, ", ".join(f"`{part.name}`" for part in one.parts), len(one.columns)) for one in SERVICES]
    return _table(("service", "what for", "views", "features"), rows)


def _section(view: View | AskedView, told: str, defaults: Sequence[Any]) -> str:
    rows = [
        (f"`{column.name}`", column.meaning, column.unit, column.kind.removesuffix("_val").replace("_", " "), column.span, _shown(default))
        for column, default in zip(view.columns, defaults, strict=True)
    ]
    heads = ("feature", "meaning", "unit", "type", "window or half-life", "default")
    return f"### `{view.name}`\n\n{told}\n\n{_table(heads, rows)}"


def _of_stored(view: View) -> str:
    return f"Key: `{view.join_key}`. Time to live: {_duration(view.ttl_s * 1000)}."


def _of_asked(view: AskedView) -> str:
    keys = ", ".join(f"`{base.join_key}`" for base in view.of)
    return f"Keys: {keys}, and `asked_ms`. Computed from {' and '.join(f'`{base.name}`' for base in view.of)}."


def _values_of_stored(view: View) -> Sequence[Any]:
    return view.values(_EMPTY[view.name])


def _values_of_asked(view: AskedView) -> Sequence[Any]:
    return view.values([_EMPTY[base.name] for base in view.of], ["nothing"] * len(view.of), 0, taste_of_user)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return "empty list"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def _duration(time_ms: int) -> str:
    for unit_ms, name, least in ((DAY_MS, "d", 2), (HOUR_MS, "h", 1), (MINUTE_MS, "min", 1)):
        if time_ms % unit_ms == 0 and time_ms // unit_ms >= least:
            return f"{time_ms // unit_ms} {name}"
    return f"{time_ms / 1000:g} s"


def _paragraphs(text: str) -> str:
    """Return the text with its lines filled anew, since numbers were put in."""
    return "\n\n".join(fill(part, 132, break_long_words=False, break_on_hyphens=False) for part in text.split("\n\n"))


_WINDOW_SPANS = "; ".join(
    f"{_duration(length_ms * count)} covers {_duration(length_ms * (count - 1))} to {_duration(length_ms * count)} "
    f"(panes of {_duration(length_ms)} at its far end)"
    for length_ms, count in WINDOWS.values()
)

_INTRODUCTION = """What is known of shoppers, items and visits, feature by feature. In Feast and in our reader a feature's full name is
`view__feature`, as in `user_activity__steps`; several views have features of the same name, so ask Feast with
`full_feature_names=True`. Money is in the currency of the events, not converted. Times are milliseconds since 1970, in UTC.

Where there is no row, every feature of the view is null. The tables' default is what a row says before anything has told
the feature; lists are empty then."""

_STORED = """Kept by the feature worker, one row for each entity, and read as they are."""

_ASKED = """Computed from the stored rows when somebody asks, by the same functions (`features/asked.py`) in Feast's on-demand views and
in our reader. They take the time of asking, `asked_ms`. One that lies before the row's newest event is taken as the time of that
event, so that no age is negative. Where a row that is needed is missing or past its time to live, they are null, except `seen_before`,
which needs the shopper alone."""

_EXACTNESS = f"""**Windows** follow event time and end at the time of asking. They are sums of panes, so their far end moves in steps:
{_WINDOW_SPANS}. Their near end is exact.

**Lateness.** An event may arrive up to {_duration(ALLOWED_LATENESS_MS)} behind the newest event of the same shopper (or item) and
source partition: within that, it corrects the windows. A later one is left out of the windows and counted in `late`; totals ever,
decayed counts and the history take it in all the same. Decayed counts halve every {_duration(HALF_LIFE_MS)} for shoppers and every
{_duration(ITEM_HALF_LIFE_MS)} for items, seen from the row's newest event.

**Duplicates.** An event that its publisher sends twice (the same `event_id`) counts once, if it comes again among the last {REMEMBERED}
events of the shopper in one topic partition; `repeated` counts those that were found. Beyond that horizon it counts twice. What Kafka
or a restarted worker delivers again counts once without any horizon, since a row knows the offsets that it holds.

**The future.** An event whose time lies more than {_duration(MAX_FUTURE_MS)} ahead is refused where it enters, so that no row is frozen
at a time to come.

**Taste and visit** are told by the last {HISTORY_LENGTH} steps. A view weighs {KIND_WEIGHTS["view"]:g}, a cart addition
{KIND_WEIGHTS["cart"]:g}, a purchase {KIND_WEIGHTS["purchase"]:g}, each halved every {_duration(HALF_LIFE_MS)}. All fade alike, so
a taste changes with new steps only. A visit ends with a pause of more than {_duration(PAUSE_MS)}.

**Age and time to live.** A row's age counts from `seen_ms`, when its newest event was published, to the time of asking. Our reader
(`features/reader.py`, and `GET /v1/features` of the gateway) tells no feature of a row that is older than its view's time to live,
and says that it is stale and how old it is. Feast's on-demand views keep to the time to live too. Feast's stored views do **not** when
they are read online: Feast 0.67 serves them at any age, and a caller has to look at `seen_ms`. Its historical reads do. Redis itself
drops visits {_duration(SESSION_KEPT_MS)} after their last event, and keeps shoppers and items."""
