"""History that is folded group by group gives the rows of the events folded one after the other."""

from itertools import groupby
from operator import itemgetter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plain_fold import VIEWS, Arrival, alike, plain_rows

from headrace.features.backfill import PlacedChange, PlacedEvent, changes_after, fold_changes, fold_shopper, fold_visit, in_order, source_of
from headrace.features.place import Place
from headrace.schemas import Click, Event, OrderLine, Purchase, shopper_id
from headrace.schemas.feature_rows import Row

START_MS = 1_760_000_000_000
HOUR_MS = 3600 * 1000
ITEMS = st.sampled_from(["lamp", "chair", "table", "vase"])
SHOPPERS = [("ada", "v1"), ("ada", None), ("bob", "v1"), (None, "v2"), (None, "v3")]


@st.composite
def histories(draw: st.DrawFn) -> list[Arrival]:
    """Events of several shoppers, some of them sent twice or hours late, each in its shopper's partition; times are unlike."""
    log: list[Arrival] = []
    offsets: dict[str, int] = {}
    for number in range(draw(st.integers(0, 40))):
        user, visit = draw(st.sampled_from(SHOPPERS))
        time_ms = START_MS + draw(st.integers(0, 20)) * HOUR_MS + number
        event: Event
        if draw(st.integers(0, 3)):
            price = draw(st.sampled_from([None, 0.1, 2.3]))
            action = "cart" if draw(st.booleans()) else "view"
            event = Click(
                event_id=f"e{number}",
                event_time_ms=time_ms,
                item_id=draw(ITEMS),
                user_id=user,
                session_id=visit,
                action=action,
                price=price,
            )
        else:
            lines = [OrderLine(item_id=item, unit_price=0.3) for item in draw(st.lists(ITEMS, min_size=1, max_size=3))]
            event = Purchase(
                event_id=f"e{number}", event_time_ms=time_ms, order_id="o", lines=lines, currency="EUR", user_id=user, session_id=visit
            )
        if log and not draw(st.integers(0, 6)):
            event = replace(log[draw(st.integers(0, len(log) - 1))][0])
        source = source_of(event)
        offsets[source] = offsets.get(source, -1) + draw(st.integers(1, 3))
        published_ms = START_MS + 30 * HOUR_MS + draw(st.integers(0, 50))
        log.append((event, Place(source, offsets[source], published_ms)))
    return log


def folded_in_groups(arrivals: list[Arrival], shuffled: Random) -> dict[tuple[str, str], Row]:
    """Fold as many machines would: groups by key that come in any order, each sorted by itself."""
    rows: dict[tuple[str, str], Row] = {}
    changes: list[PlacedChange] = []
    visits: list[PlacedEvent] = []
    shoppers: dict[str, list[PlacedEvent]] = {}
    for placed in in_order(arrivals):
        shoppers.setdefault(shopper_id(placed.event), []).append(placed)
    for shopper, events in shuffled.sample(list(shoppers.items()), len(shoppers)):
        for step in fold_shopper(shopper, events):
            rows["user_activity", shopper] = step.after
            changes += changes_after(step)
            visits += [step.placed] if step.counted and step.placed.event.session_id is not None else []
    shuffled.shuffle(changes)
    shuffled.shuffle(visits)
    by_item = sorted(changes, key=lambda one: (one.change.item_id, one.moment_ms, one.change.source, one.change.offset))
    for item, of_item in groupby(by_item, key=lambda one: one.change.item_id):
        [*_, rows["item_activity", item]] = fold_changes(item, of_item)
    by_visit = sorted(
        ((one.event.session_id or "", *one[:1], one.place.source, one.place.offset, one) for one in visits), key=itemgetter(0, 1, 2, 3)
    )
    for visit, of_visit in groupby(by_visit, key=itemgetter(0)):
        [*_, rows["session_activity", visit]] = fold_visit(visit, map(itemgetter(4), of_visit))
    return rows


@given(histories(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_any_grouping_gives_the_rows_of_the_plain_fold_to_the_last_bit(log: list[Arrival], random: Random) -> None:
    plain = plain_rows((placed.event, placed.place) for placed in in_order(log))
    assert folded_in_groups(random.sample(log, len(log)), random) == plain


@given(histories(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_worker_that_reads_the_partitions_in_any_order_has_the_same_values(log: list[Arrival], random: Random) -> None:
    sources = {place.source: [one for one in log if one[1].source == place.source] for _, place in log}
    read = []
    while sources:
        source = random.choice(sorted(sources))
        read.append(sources[source].pop(0))
        if not sources[source]:
            del sources[source]
    worker, grouped = plain_rows(read), folded_in_groups(log, random)
    assert worker.keys() == grouped.keys()
    for (view, key), row in worker.items():
        values, others = list(VIEWS[view].values(row)), list(VIEWS[view].values(grouped[view, key]))
        # The offsets are a JSON object, whose order is that of reading.
        assert sorted(values.pop()[1:-1].split(",")) == sorted(others.pop()[1:-1].split(","))
        assert alike(values, others), (view, key)


@given(histories())
@settings(deadline=None)
def test_events_of_a_source_keep_the_order_of_their_offsets(log: list[Arrival]) -> None:
    taken: dict[str, int] = {}
    for placed in in_order(reversed(log)):
        assert placed.place.offset > taken.get(placed.place.source, -1)
        taken[placed.place.source] = placed.place.offset


def test_places_that_came_twice_count_once() -> None:
    click = Click(event_id="e1", event_time_ms=START_MS, item_id="lamp", user_id="ada", session_id="v1")
    arrival = click, Place(source_of(click), 0, START_MS)
    assert folded_in_groups([arrival, arrival], Random(1)) == folded_in_groups([arrival], Random(1))
