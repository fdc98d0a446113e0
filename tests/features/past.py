"""A past that tests of history share: shop events folded one by one, what was readable meanwhile, and the archive of all versions."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from msgspec.structs import replace

from headrace.deploy.feature_repository import apply, open_store
from headrace.features.archive import ARCHIVED, ArchivedView, Stretch, versions_table
from headrace.features.archive_folder import ArchiveFolder
from headrace.features.columns import ITEM_VIEW, USER_VIEW, View
from headrace.features.item_row import changes_of, fold_item
from headrace.features.place import Place
from headrace.features.user_row import fold_user
from headrace.schemas import Click, Event, ItemRow, UserRow, shopper_id
from headrace.schemas.feature_rows import Row
from headrace.streams.readers import open_events

EVENTS = 4000
QUESTIONS = 3000
REPEATED = 50
SEED = 7
START_MS = 1_750_000_000_000
HOUR_MS = 3_600_000
# Two thirds of a year in all, so that many rows outlive their time to live, of 30 and 90 days; some events share a millisecond.
GAPS_MS = [0, 0, 1, 250, HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS]
VIEWS = {archived.view.name: archived.view for archived in ARCHIVED.values()}

# When, which shopper, which item.
Question = tuple[int, str, str]
Answer = dict[str, Any]
Arrival = tuple[Event, Place]


@dataclass
class Past:
    """The archive's folder, Feast's store, questions in a random order, and the answers that the online store gave at these instants."""

    archive: Path
    store: Any
    arrivals: list[Arrival]
    questions: list[Question]
    answers: list[Answer]


@dataclass
class Online:
    """What the online store holds: rows are folded as the worker does, one event after another, and `versions` are what it sends."""

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
        """Return what a read of both views gives at this instant."""
        asked_ms, shopper, item = question
        return laid_out(VIEWS[USER_VIEW], self.users.get(shopper), asked_ms) | laid_out(VIEWS[ITEM_VIEW], self.items.get(item), asked_ms)


def make_past(folder: Path, data: Path) -> Past:
    noise = random.Random(SEED)
    arrivals = list(placed(islice(open_events(data), EVENTS), noise))
    questions = random_questions(arrivals, noise)
    online = Online()
    answers = {question: at.read(question) for question, at in as_of(online, arrivals, questions)}
    for archived in ARCHIVED.values():
        put_down(folder / "archive", archived, online.versions[archived.view.name], noise)
    return Past(folder / "archive", opened(folder), arrivals, questions, [answers[question] for question in questions])


def opened(folder: Path) -> Any:
    """Return Feast's store over the archive in a folder; its Redis is never asked."""
    registry, url = folder / "feast" / "registry.db", "redis://127.0.0.1:1/0"
    apply(registry, url, folder / "archive")
    return open_store(registry, url)


def placed(events: Iterable[Event], noise: random.Random) -> Iterator[Arrival]:
    """Yield the events with times that spread over months, each a little before its publication, and their places in Kafka."""
    offsets: dict[str, int] = {}
    published_ms = START_MS
    for event in events:
        published_ms += noise.choice(GAPS_MS)
        source = f"{'clicks' if isinstance(event, Click) else 'purchases'}/{sum(shopper_id(event).encode()) % 4}"
        offsets[source] = offsets.get(source, -1) + 1
        yield replace(event, event_time_ms=published_ms - noise.randrange(2000)), Place(source, offsets[source], published_ms)


def random_questions(arrivals: Sequence[Arrival], noise: random.Random) -> list[Question]:
    """Return questions about the very instant of an event, just before it, soon after, and long after; some of them twice."""
    shoppers = [shopper_id(event) for event, _ in arrivals]
    items = [[change.item_id for change in changes_of(event, place)] for event, place in arrivals]
    questions = []
    for _ in range(QUESTIONS):
        at = noise.randrange(len(arrivals))
        asked_ms = arrivals[at][1].published_ms + noise.choice([0, -1, 1, noise.randrange(2400 * HOUR_MS), -noise.randrange(HOUR_MS)])
        shopper = shoppers[at] if noise.random() < 0.7 else noise.choice([*noise.sample(shoppers, 3), "nobody"])
        questions.append((asked_ms, shopper, noise.choice([items[at][0], items[at][0], *noise.choice(items), "nothing"])))
    questions += noise.sample(questions, REPEATED)
    noise.shuffle(questions)
    return questions


def as_of(online: Online, arrivals: Sequence[Arrival], questions: Iterable[Question]) -> Iterator[tuple[Question, Online]]:
    """Fold the events in turn, and yield each question when all that was published up to its instant is taken in."""
    waiting = sorted(set(questions), reverse=True)
    for event, place in arrivals:
        while waiting and waiting[-1][0] < place.published_ms:
            yield waiting.pop(), online
        online.take_in(event, place)
    yield from ((question, online) for question in reversed(waiting))


def put_down(archive: Path, archived: ArchivedView[Any], rows: Sequence[Any], noise: random.Random) -> None:
    """Write row versions as the archiver does, in stretches; some are sent a second time, after later ones, as a crash has it."""
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
    """Return questions as a frame, with a column of its own."""
    times = pd.Series([datetime.fromtimestamp(asked_ms / 1000, UTC) for asked_ms, _, _ in questions], dtype="datetime64[ns, UTC]")
    users, items = [user for _, user, _ in questions], [item for _, _, item in questions]
    return pd.DataFrame({"user_id": users, "event_timestamp": times, "label": range(len(questions)), "item_id": items})


def laid_out(view: View, row: Row | None, asked_ms: int) -> Answer:
    """Return a row under the full names of its view's columns, nulls where it is missing or out of its time to live."""
    valid = row is not None and asked_ms - row.seen_ms <= view.ttl_s * 1000
    values = view.values(row) if valid else [None] * len(view.columns)
    return {f"{view.name}__{column.name}": comparable(value) for column, value in zip(view.columns, values, strict=True)}


def answers_of(frame: pd.DataFrame) -> list[Answer]:
    """Return the features of a frame, row by row."""
    rows = frame[[name for name in frame.columns if "__" in name]].astype(object).to_dict("records")
    return [{name: None if value is pd.NA else comparable(value) for name, value in row.items()} for row in rows]


def comparable(value: Any) -> Any:
    """Return a value as plain Python in which not a number equals itself."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if hasattr(value, "tolist") and not isinstance(value, str):
        value = value.tolist()
    return [comparable(part) for part in value] if isinstance(value, list | tuple) else value


def differences(found: Sequence[Answer], expected: Sequence[Answer]) -> int:
    """The checker: return in how many rows a value differs from the one expected. A null number is not a number in pandas."""
    assert len(found) == len(expected)

    def same(ours: Any, theirs: Any) -> bool:
        return bool(ours == theirs) or (ours == "nan" and theirs is None)

    return sum(any(not same(ours[name], theirs[name]) for name in theirs) for ours, theirs in zip(found, expected, strict=True))
