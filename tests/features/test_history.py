"""History answers what an online read would have returned at that instant: no later version, none out of its time to live."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from msgspec.structs import replace

from headrace.deploy.feature_repository import apply, open_store
from headrace.features.archive import ARCHIVED, ITEM_VERSIONS, USER_VERSIONS, ArchivedView, Stretch, versions_table
from headrace.features.archive_folder import ArchiveFolder
from headrace.features.as_of import Versions, valid_versions
from headrace.features.columns import ITEM_VIEW, SESSION_VIEW, USER_VIEW, View
from headrace.features.history import CannotAnswer, point_in_time
from headrace.features.item_row import changes_of, fold_item
from headrace.features.online_store import FEATURE_SERVICE
from headrace.features.place import Place
from headrace.features.user_row import fold_user
from headrace.schemas import Click, Event, ItemRow, UserRow, shopper_id
from headrace.schemas.feature_rows import Row
from headrace.streams.readers import open_events

EVENTS = 4000
QUESTIONS = 3000
SEED = 7
START_MS = 1_750_000_000_000
HOUR_MS = 3_600_000
# Two thirds of a year in all, so that many rows outlive their time to live, of 30 and 90 days; some events share a millisecond.
GAPS_MS = [0, 0, 1, 250, HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS]
VIEWS = {archived.view.name: archived.view for archived in ARCHIVED.values()}

Question = tuple[int, str, str]
Answer = dict[str, Any]


def placed(events: Sequence[Event], noise: random.Random) -> Iterator[tuple[Event, Place]]:
    """Yield the events with times that spread over months, each a little before its publication, and their places in Kafka."""
    offsets: dict[str, int] = {}
    published_ms = START_MS
    for event in events:
        published_ms += noise.choice(GAPS_MS)
        source = f"{'clicks' if isinstance(event, Click) else 'purchases'}/{sum(shopper_id(event).encode()) % 4}"
        offsets[source] = offsets.get(source, -1) + 1
        yield replace(event, event_time_ms=published_ms - noise.randrange(2000)), Place(source, offsets[source], published_ms)


@dataclass
class Online:
    """What the online store held: rows are folded as the worker does, one event after another, and `versions` are what was sent."""

    users: dict[str, UserRow] = field(default_factory=dict)
    items: dict[str, ItemRow] = field(default_factory=dict)
    versions: dict[str, list[Row]] = field(default_factory=lambda: {USER_VIEW: [], ITEM_VIEW: []})

    def take_in(self, event: Event, place: Place) -> None:
        shopper = shopper_id(event)
        self.users[shopper] = fold_user(self.users.get(shopper, UserRow(shopper_id=shopper)), event, place)
        self.versions[USER_VIEW].append(self.users[shopper])
        for change in changes_of(event, place):
            item = change.item_id
            self.items[item] = fold_item(self.items.get(item, ItemRow(item_id=item)), change)
            self.versions[ITEM_VIEW].append(self.items[item])

    def read(self, question: Question) -> Answer:
        """Return what a read of both views gave at this instant."""
        asked_ms, shopper, item = question
        return laid_out(VIEWS[USER_VIEW], self.users.get(shopper), asked_ms) | laid_out(VIEWS[ITEM_VIEW], self.items.get(item), asked_ms)


def laid_out(view: View, row: Row | None, asked_ms: int) -> Answer:
    valid = row is not None and asked_ms - row.seen_ms <= view.ttl_s * 1000
    values = view.values(row) if valid else [None] * len(view.columns)
    return {f"{view.name}__{column.name}": comparable(value) for column, value in zip(view.columns, values, strict=True)}


def comparable(value: Any) -> Any:
    """Return a value as plain Python in which nothing is null in two ways and not a number equals itself."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if hasattr(value, "tolist") and not isinstance(value, str):
        value = value.tolist()
    return [comparable(part) for part in value] if isinstance(value, list) else value


@dataclass
class Past:
    """A history: the archive's folder, questions in a random order, and the answers that the online store gave at these instants."""

    archive: Path
    store: Any
    questions: list[Question]
    answers: list[Answer]
    repeated: int


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, shop_data: Callable[[str], Path]) -> Past:
    noise = random.Random(SEED)
    folder = tmp_path_factory.mktemp("past")
    arrivals = list(placed(list(islice(open_events(shop_data("diginetica_clicks_purchases.csv.gz")), EVENTS)), noise))
    shoppers = [shopper_id(event) for event, _ in arrivals]
    items = [change.item_id for event, place in arrivals for change in changes_of(event, place)]
    times = [place.published_ms for _, place in arrivals]
    questions: list[Question] = []
    for _ in range(QUESTIONS):
        at = noise.randrange(len(arrivals))
        # The very instant of an event, just before it, soon after, or long after.
        asked_ms = times[at] + noise.choice([0, -1, 1, noise.randrange(100 * 24 * HOUR_MS), -noise.randrange(HOUR_MS)])
        near = shoppers[at] if noise.random() < 0.7 else noise.choice([*shoppers, "nobody"])
        questions.append((asked_ms, near, noise.choice([items[min(at, len(items) - 1)], *noise.sample(items, 2), "nothing"])))
    questions += noise.sample(questions, 50)
    noise.shuffle(questions)

    online, answers, waiting = Online(), {}, sorted(set(questions), reverse=True)
    for event, place in arrivals:
        while waiting and waiting[-1][0] < place.published_ms:
            question = waiting.pop()
            answers[question] = online.read(question)
        online.take_in(event, place)
    answers |= {question: online.read(question) for question in waiting}
    for archived in ARCHIVED.values():
        put_down(folder / "archive", archived, online.versions[archived.view.name], noise)
    url = "redis://127.0.0.1:1/0"
    apply(folder / "feast" / "registry.db", url, folder / "archive")
    store = open_store(folder / "feast" / "registry.db", url)
    return Past(folder / "archive", store, questions, [answers[question] for question in questions], 50)


def put_down(archive: Path, archived: ArchivedView[Any], rows: Sequence[Any], noise: random.Random) -> None:
    """Write row versions as the archiver does, in stretches; a few are sent a second time, after a later one, as a crash has it."""
    sent = list(rows)
    for _ in range(100):
        at = noise.randrange(len(sent))
        sent.insert(min(len(sent), at + noise.randrange(1, 6)), sent[at])
    numbered = list(enumerate(sent))
    while numbered:
        part, numbered = numbered[:997], numbered[997:]
        stretch = Stretch(archived.topic.name, 0, part[0][0], part[-1][0])
        ArchiveFolder(archive).write(stretch, versions_table(archived, part))


def asked(questions: Sequence[Question]) -> pd.DataFrame:
    times = [datetime.fromtimestamp(asked_ms / 1000, UTC) for asked_ms, _, _ in questions]
    users, items = [user for _, user, _ in questions], [item for _, _, item in questions]
    return pd.DataFrame({"user_id": users, "event_timestamp": times, "label": range(len(questions)), "item_id": items})


def answers_of(frame: pd.DataFrame) -> list[Answer]:
    names = [name for name in frame.columns if "__" in name]
    rows = frame[names].astype(object).to_dict("records")
    return [{name: None if value is pd.NA or value is None else comparable(value) for name, value in row.items()} for row in rows]


def differences(found: Sequence[Answer], expected: Sequence[Answer]) -> int:
    """The checker: in how many rows a value differs from what the online store gave. A null number is not a number in pandas."""
    assert len(found) == len(expected)

    def same(ours: Any, theirs: Any) -> bool:
        return bool(ours == theirs) or (ours == "nan" and theirs is None)

    return sum(any(not same(ours[name], theirs[name]) for name in theirs) for ours, theirs in zip(found, expected, strict=True))


def test_history_gives_what_an_online_read_gave_at_that_instant(past: Past) -> None:
    found = point_in_time(past.store, asked(past.questions), FEATURE_SERVICE)
    assert differences(answers_of(found), past.answers) == 0
    # The questions are such that it matters: rows and nulls, by time to live and by never having been there.
    nulls = sum(answer[f"{USER_VIEW}__steps"] is None for answer in past.answers)
    assert len(past.questions) * 0.1 < nulls < len(past.questions) * 0.9


def test_the_questions_come_back_in_their_order_with_their_own_columns_and_index(past: Past) -> None:
    questions = asked(past.questions)
    questions.index = pd.Index(range(5000, 5000 + len(questions)))
    found = point_in_time(past.store, questions, FEATURE_SERVICE)
    pd.testing.assert_frame_equal(found[list(questions.columns)], questions)
    assert len(past.questions) - len(set(past.questions)) >= past.repeated
