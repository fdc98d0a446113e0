"""What every row must hold, worked out anew from the raw events in one go: a second opinion that shares no fold with the first.

Where the worker folds event after event, this asks DuckDB about all of them at once: a window is a sum over events that lie in
it, a decayed count is a sum of powers, a history is a sort. It knows the definitions, not how they are kept up.

The tables, in the order in which they are filled: `events` and `lines` (the raw events: an order has one line for each of its
lines, a click has one), `reached` (for each row and source partition, the last offset that the row claims to hold), then by
`settle` `marked` (events, with whether each is counted or was sent twice), `visited` (the same as the rows of visits see it) and
`touches` (which event touches which row).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.features.columns import DAY_S, ITEM_VIEW, SESSION_VIEW, USER_VIEW
from headrace.features.place import REMEMBERED, Place
from headrace.features.windows import ALLOWED_LATENESS_MS, WINDOWS
from headrace.schemas import Click, Event, shopper_id

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

HISTORY_LENGTH = 50
HALF_LIVES_MS = {USER_VIEW: 7 * DAY_S * 1000, ITEM_VIEW: DAY_S * 1000, SESSION_VIEW: DAY_S * 1000}
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Unreached:
    """A row that is not there, or lacks events: by source the offset that it must have reached, and when that event was published.

    `published_ms` is 0 where only `add_named` told of the events.
    """

    entity: str
    offsets: dict[str, int]
    published_ms: int


# What a row must hold, by column: those of its feature view, and `newest_ms`, `recent`, `causes`, `price_ms`, `category_ms`.
Expected = dict[str, Any]


def create_tables(db: "DuckDBPyConnection") -> None:
    """Create the tables for raw events and for what rows have reached, empty."""
    db.execute(_TABLES)


def add_events(db: "DuckDBPyConnection", arrivals: Sequence[tuple[Event, Place]]) -> None:
    """Add raw events, in any order, each with its place in Kafka; each place once."""
    import pyarrow as pa

    events: list[tuple[Any, ...]] = []
    lines: list[tuple[Any, ...]] = []
    for event, place in arrivals:
        at = place.source, place.offset
        told = (*at, place.published_ms, event.event_id, event.event_time_ms, shopper_id(event), event.session_id)
        if isinstance(event, Click):
            events.append((*told, event.action, None))
            lines.append((*at, 0, event.item_id, 0, event.price, event.category))
        else:
            events.append((*told, "purchase", event.total))
            lines += [(*at, number, line.item_id, line.quantity, line.unit_price, None) for number, line in enumerate(event.lines)]
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    _insert(db, "events", events, [text, whole, whole, text, whole, text, text, text, real])
    _insert(db, "lines", lines, [text, whole, whole, text, whole, real, text])


def add_reached(db: "DuckDBPyConnection", view: str, rows: Sequence[tuple[str, Mapping[str, int]]]) -> None:
    """Add how far rows of a view say that they have come: entities with their offsets."""
    import pyarrow as pa

    told = [(view, entity, source, offset) for entity, offsets in rows for source, offset in offsets.items()]
    _insert(db, "reached", told, [pa.string(), pa.string(), pa.string(), pa.int64()])


def settle(db: "DuckDBPyConnection") -> None:
    """Tell the events that count from those that were sent twice, and which rows each touches; call it once all events are there.

    An event is passed over where one of its id is among the last 128 that count, of the same shopper (for the row of a visit, of
    the same visit) and source partition. Whether those count is asked by the same rule; so all repeats are taken for passed over
    at first, and the rule is applied until nothing changes. Each turn settles at least one more event of each, nearly always all.
    """
    for table, entity in (("marked", "shopper"), ("visited", "session")):
        db.execute(_MARK.format(table=table, entity=entity))
        while True:
            db.execute(_MARK_AGAIN.format(table=table, entity=entity))
            changed = f"{table} USING (source, place) WHERE again.counts != {table}.counts"
            [[count]] = db.execute(f"SELECT count(*) FROM again JOIN {changed}").fetchall()  # noqa: S608
            if not count:
                break
            same = f"{table}.source = again.source AND {table}.place = again.place"
            db.execute(f"UPDATE {table} SET counts = again.counts FROM again WHERE {same}")  # noqa: S608
    db.execute(_TOUCH)


def expected_rows(db: "DuckDBPyConnection", view: str) -> Iterator[tuple[str, Expected]]:
    """Yield each entity of a view whose row has reached any event, in their order, with what it must hold by column."""
    found = db.execute(_EXPECTED.format(half_life_ms=HALF_LIVES_MS[view], pane=_PANE), {"view": view})
    names = [description[0] for description in found.description or ()]
    while rows := found.fetchmany(ROWS_AT_ONCE):
        for row in rows:
            held = dict(zip(names, row, strict=True))
            yield held.pop("entity"), _finished(held)


def add_named(db: "DuckDBPyConnection", view: str, places: Sequence[tuple[str, str, int]]) -> None:
    """Add events that rows of a view are known to have been given, as (entity, source, offset)."""
    import pyarrow as pa

    _insert(db, "named", [(view, *place) for place in places], [pa.string(), pa.string(), pa.string(), pa.int64()])


def unreached(db: "DuckDBPyConnection", view: str, bounds: Mapping[str, int]) -> Iterator[Unreached]:
    """Yield the entities whose rows lack events that they must hold: those up to the offset that `bounds` gives for each source,
    and those that were added by `add_named`."""
    import pyarrow as pa

    _insert(db, "bounds", [(view, *bound) for bound in bounds.items()], [pa.string(), pa.string(), pa.int64()])
    found = db.execute(_UNREACHED, {"view": view})
    while rows := found.fetchmany(ROWS_AT_ONCE):
        for entity, sources, published_ms in rows:
            yield Unreached(entity, {part["source"]: part["place"] for part in sources}, published_ms)


def _finished(held: Expected) -> Expected:
    sources = held.pop("sources") or []
    held["offsets"] = {part["source"]: part["place"] for part in sources}
    held["newest_ms"] = {part["source"]: part["newest_ms"] for part in sources if part["newest_ms"] is not None}
    held["recent"] = {part["source"]: [(one["event_id"], one["place"]) for one in reversed(part["recent"] or [])] for part in sources}
    held["causes"] = [(one["event_id"], one["published_ms"]) for part in sources for one in (part["recent"] or [])[:1]]
    for name, value in held.items():
        if value is None and name.startswith(("pane_", "history_")):
            held[name] = []
    return held


def _insert(db: "DuckDBPyConnection", table: str, rows: Sequence[tuple[Any, ...]], kinds: Sequence[Any]) -> None:
    import pyarrow as pa

    if rows:
        columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
        db.register("portion", pa.table(columns, names=[f"c{number}" for number in range(len(columns))]))
        db.execute(f"INSERT INTO {table} SELECT * FROM portion")  # noqa: S608
        db.unregister("portion")


_TABLES = """
CREATE TABLE events (
    source VARCHAR, place BIGINT, published_ms BIGINT, event_id VARCHAR, time_ms BIGINT, shopper VARCHAR, session VARCHAR, kind VARCHAR,
    total DOUBLE
);
CREATE TABLE lines (source VARCHAR, place BIGINT, line BIGINT, item VARCHAR, quantity BIGINT, price DOUBLE, category VARCHAR);
CREATE TABLE reached ("view" VARCHAR, entity VARCHAR, source VARCHAR, place BIGINT);
CREATE TABLE bounds ("view" VARCHAR, source VARCHAR, place BIGINT);
CREATE TABLE named ("view" VARCHAR, entity VARCHAR, source VARCHAR, place BIGINT);
"""

_MARK = """
CREATE OR REPLACE TABLE {table} AS
SELECT *, row_number() OVER (PARTITION BY {entity}, source, event_id ORDER BY place) = 1 AS counts FROM events WHERE {entity} IS NOT NULL
"""

_MARK_AGAIN = f"""
CREATE OR REPLACE TEMP TABLE again AS
WITH doubtful AS (SELECT DISTINCT {{entity}}, source FROM (
    SELECT {{entity}}, source FROM {{table}} GROUP BY {{entity}}, source, event_id HAVING count(*) > 1)
), numbered AS (
    SELECT *, count(*) FILTER (counts) OVER (PARTITION BY {{entity}}, source ORDER BY place) - counts::BIGINT AS counted_before
    FROM {{table}} SEMI JOIN doubtful USING ({{entity}}, source)
), compared AS (
    SELECT *, max(counted_before) FILTER (counts) OVER (
        PARTITION BY {{entity}}, source, event_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS twin
    FROM numbered
)
SELECT source, place, coalesce(counted_before - twin > {REMEMBERED}, true) AS counts FROM compared
"""  # noqa: S608

_TOUCH = f"""
CREATE OR REPLACE TABLE touches AS
WITH orders AS (
    SELECT source, place, sum(quantity * price) AS amount FROM lines GROUP BY source, place
), plain AS (
    SELECT source, place, event_id, published_ms, time_ms, counts, shopper, session, (kind = 'view')::BIGINT AS views,
        (kind = 'cart')::BIGINT AS carts, (kind = 'purchase')::BIGINT AS purchases,
        CASE WHEN kind = 'purchase' THEN coalesce(total, amount, 0.0) ELSE 0.0 END AS amount
    FROM marked LEFT JOIN orders USING (source, place)
), parts AS (
    SELECT source, place, item, sum(quantity)::BIGINT AS units, first(price ORDER BY line) FILTER (price IS NOT NULL) AS price,
        first(category) AS category, coalesce(sum(quantity * price), 0.0) AS amount
    FROM lines GROUP BY source, place, item
)
SELECT '{USER_VIEW}' AS "view", shopper AS entity, source, place, event_id, published_ms, time_ms, counts, views, carts, purchases,
    amount, 0 AS units, NULL::DOUBLE AS price, NULL::VARCHAR AS category
FROM plain
UNION ALL
SELECT '{SESSION_VIEW}', session, source, place, event_id, published_ms, time_ms, true, views, carts, purchases, amount, 0, NULL, NULL
FROM plain JOIN (SELECT source, place FROM visited WHERE counts) USING (source, place)
UNION ALL
SELECT '{ITEM_VIEW}', item, source, place, event_id, published_ms, time_ms, true, views, carts, purchases, parts.amount, units, price,
    category
FROM plain JOIN parts USING (source, place) WHERE counts
"""  # noqa: S608

# Where the pane of an event begins, seen from the row's newest one; null for what is older than all windows.
_PANE = (
    "CASE "
    + " ".join(
        f"WHEN time_ms // {length_ms} > newest_ms // {length_ms} - {count} THEN time_ms // {length_ms} * {length_ms}"
        for length_ms, count in WINDOWS.values()
    )
    + " END"
)

_EXPECTED = f"""
WITH mine AS MATERIALIZED (
    SELECT touches.* FROM touches JOIN reached USING ("view", entity, source) WHERE "view" = $view AND touches.place <= reached.place
), counted AS MATERIALIZED (
    SELECT *, max(time_ms) OVER (PARTITION BY entity) AS newest_ms, coalesce(time_ms + {ALLOWED_LATENESS_MS} < max(time_ms) OVER (
        PARTITION BY entity, source ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), false) AS is_late
    FROM mine WHERE counts
), faded AS (
    SELECT *, pow(0.5, (newest_ms - time_ms) / {{half_life_ms}}) AS weight, {{pane}} AS pane_ms FROM counted
), totals AS (
    SELECT entity, sum(views)::BIGINT AS views, sum(carts)::BIGINT AS carts, sum(purchases)::BIGINT AS purchases,
        sum(amount) AS spend, sum(amount) AS revenue, sum(units)::BIGINT AS units,
        sum(weight * views) AS decayed_views, sum(weight * carts) AS decayed_carts, sum(weight * purchases) AS decayed_purchases,
        sum(weight * amount) AS decayed_spend, max(time_ms) FILTER (purchases > 0) AS last_purchase_ms,
        last(price ORDER BY time_ms, price) FILTER (price IS NOT NULL) AS price, min(price) AS lowest_price, max(price) AS highest_price,
        coalesce(max(time_ms) FILTER (price IS NOT NULL), 0) AS price_ms,
        last(category ORDER BY time_ms, category) FILTER (category IS NOT NULL) AS category,
        coalesce(max(time_ms) FILTER (category IS NOT NULL), 0) AS category_ms,
        count(*) FILTER (is_late) AS late, min(time_ms) AS first_ms, max(time_ms) AS updated_ms, max(published_ms) AS seen_ms
    FROM faded GROUP BY entity
), repeats AS (
    SELECT entity, count(*) FILTER (NOT counts) AS repeated FROM mine GROUP BY entity
), panes AS (
    SELECT entity, list(pane_ms ORDER BY pane_ms) AS pane_starts_ms, list(views ORDER BY pane_ms) AS pane_views,
        list(carts ORDER BY pane_ms) AS pane_carts, list(purchases ORDER BY pane_ms) AS pane_purchases,
        list(amount ORDER BY pane_ms) AS pane_amounts
    FROM (
        SELECT entity, pane_ms, sum(views)::BIGINT AS views, sum(carts)::BIGINT AS carts, sum(purchases)::BIGINT AS purchases,
            sum(amount) AS amount
        FROM faded WHERE NOT is_late AND pane_ms IS NOT NULL GROUP BY entity, pane_ms
    ) GROUP BY entity
), steps AS (
    SELECT entity, item, time_ms, lines.price, lines.category,
        CASE WHEN views > 0 THEN 'view' WHEN carts > 0 THEN 'cart' ELSE 'purchase' END AS kind,
        row_number() OVER (PARTITION BY entity ORDER BY time_ms DESC, purchases DESC, source DESC, place DESC, line DESC) AS age
    FROM counted JOIN lines USING (source, place) WHERE "view" = '{USER_VIEW}'
), histories AS (
    SELECT entity, max(age) AS steps,
        list(item ORDER BY age DESC) FILTER (age <= {HISTORY_LENGTH}) AS history_items,
        list(kind ORDER BY age DESC) FILTER (age <= {HISTORY_LENGTH}) AS history_kinds,
        list(time_ms ORDER BY age DESC) FILTER (age <= {HISTORY_LENGTH}) AS history_times_ms,
        list(price ORDER BY age DESC) FILTER (age <= {HISTORY_LENGTH}) AS history_prices,
        list(category ORDER BY age DESC) FILTER (age <= {HISTORY_LENGTH}) AS history_categories
    FROM steps GROUP BY entity
), partitions AS (
    SELECT entity, list({{{{source: source, place: place, newest_ms: newest_ms, recent: recent}}}} ORDER BY source) AS sources
    FROM (
        SELECT entity, source, max(place) AS place, max(time_ms) FILTER (counts) AS newest_ms,
            list({{{{event_id: event_id, place: place, published_ms: published_ms}}}} ORDER BY place DESC) FILTER (counts)
                [:{REMEMBERED}] AS recent
        FROM mine GROUP BY entity, source
    ) GROUP BY entity
)
SELECT * FROM totals LEFT JOIN repeats USING (entity) LEFT JOIN panes USING (entity) LEFT JOIN histories USING (entity)
LEFT JOIN partitions USING (entity) ORDER BY entity
"""  # noqa: S608

_UNREACHED = """
WITH must AS (
    SELECT entity, source, touches.place, published_ms
    FROM touches JOIN bounds USING ("view", source) WHERE "view" = $view AND touches.place <= bounds.place
    UNION ALL
    SELECT entity, source, place, 0 FROM named WHERE "view" = $view
), furthest AS (
    SELECT entity, source, max(place) AS place, max(published_ms) AS published_ms FROM must GROUP BY entity, source
), rows AS (
    SELECT entity, source, place FROM reached WHERE "view" = $view
)
SELECT entity, list({source: source, place: furthest.place} ORDER BY source), max(published_ms)
FROM furthest LEFT JOIN rows USING (entity, source)
WHERE coalesce(rows.place < furthest.place, true) GROUP BY entity ORDER BY entity
"""
