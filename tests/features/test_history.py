"""History answers what an online read would have returned at that instant: no later version, none out of its time to live."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from past import (
    HOUR_MS,
    REPEATED,
    SEED,
    START_MS,
    VIEWS,
    Answer,
    Online,
    Past,
    answers_of,
    as_of,
    asked,
    comparable,
    differences,
    make_past,
    opened,
)

from headrace.features.archive import ARCHIVED, USER_VERSIONS, Stretch, versions_table
from headrace.features.archive_folder import ArchiveFolder
from headrace.features.columns import ITEM_VIEW, SESSION_VIEW, USER_VIEW
from headrace.features.history import CannotAnswer, point_in_time
from headrace.features.online_store import OnlineStore, connect
from headrace.features.reader import FeatureReader
from headrace.features.services import FEATURE_SERVICE, RANKING
from headrace.schemas import UserRow


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, shop_data: Callable[[str], Path]) -> Past:
    return make_past(tmp_path_factory.mktemp("past"), shop_data("diginetica_clicks_purchases.csv.gz"))


def test_history_gives_what_an_online_read_gave_at_that_instant(past: Past) -> None:
    found = point_in_time(past.store, asked(past.questions), FEATURE_SERVICE)
    assert differences(answers_of(found), past.answers) == 0
    # The questions are such that it matters: rows and nulls, by time to live and by never having been there.
    for view in VIEWS:
        nulls = sum(answer[f"{view}__seen_ms"] is None for answer in past.answers)
        assert 0.1 < nulls / len(past.questions) < 0.9


def test_the_questions_come_back_in_their_order_with_their_own_columns_and_index(past: Past) -> None:
    questions = asked(past.questions)
    questions.index = pd.Index(range(5000, 5000 + len(questions)))
    found = point_in_time(past.store, questions, FEATURE_SERVICE)
    pd.testing.assert_frame_equal(found[list(questions.columns)], questions)
    assert len(past.questions) - len(set(past.questions)) >= REPEATED


def test_feasts_own_call_gives_the_same_answers(past: Past) -> None:
    service = past.store.get_feature_service(FEATURE_SERVICE)
    found = past.store.get_historical_features(entity_df=asked(past.questions), features=service, full_feature_names=True).to_df()
    assert found["label"].tolist() == list(range(len(past.questions)))
    assert differences(answers_of(found), past.answers) == 0


Versions = list[dict[str, Any]]
Join = Callable[[Versions, int], dict[str, Any] | None]


def valid(versions: Versions, asked_ms: int) -> dict[str, Any] | None:
    return next((row for row in reversed(versions) if row["seen_ms"] <= asked_ms), None)


def newest_whenever(versions: Versions, asked_ms: int) -> dict[str, Any] | None:
    return versions[-1] if versions else None


def one_version_later(versions: Versions, asked_ms: int) -> dict[str, Any] | None:
    known = sum(row["seen_ms"] <= asked_ms for row in versions)
    return versions[min(known, len(versions) - 1)] if known else None


def one_version_earlier(versions: Versions, asked_ms: int) -> dict[str, Any] | None:
    known = sum(row["seen_ms"] <= asked_ms for row in versions)
    return versions[known - 2] if known > 1 else None


def joined(past: Past, join: Join) -> list[Answer]:
    """Answer the questions by a join of a test's own over the archive's files."""
    versions: dict[tuple[str, str], Versions] = {}
    for view in VIEWS.values():
        rows = pq.ParquetDataset(past.archive / view.name, partitioning=None).read().to_pylist()
        for row in sorted(rows, key=lambda row: (row["event_timestamp"], row["created_timestamp"], row["changelog_offset"])):
            held = versions.setdefault((view.name, row[view.join_key]), [])
            if not held or held[-1]["created_timestamp"] != row["created_timestamp"]:
                held.append(row)
    answers = []
    for asked_ms, *keys in past.questions:
        answer: Answer = {}
        for view, key in zip((VIEWS[USER_VIEW], VIEWS[ITEM_VIEW]), keys, strict=True):
            row = join(versions.get((view.name, key), []), asked_ms)
            told = row if row is not None and asked_ms - row["seen_ms"] <= view.ttl_s * 1000 else {}
            answer |= {f"{view.name}__{column.name}": comparable(told.get(column.name)) for column in view.columns}
        answers.append(answer)
    return answers


def test_the_checker_passes_an_honest_join(past: Past) -> None:
    assert differences(joined(past, valid), past.answers) == 0


@pytest.mark.parametrize("leak", [newest_whenever, one_version_later, one_version_earlier])
def test_the_checker_finds_a_join_that_leaks_or_lags(past: Past, leak: Join) -> None:
    assert differences(joined(past, leak), past.answers) > len(past.questions) * 0.05


def test_the_checker_finds_versions_that_are_stamped_too_early(past: Past, tmp_path: Path) -> None:
    for archived in ARCHIVED.values():
        table = pq.ParquetDataset(past.archive / archived.view.name, partitioning=None).read()
        early = pa.array(pc.subtract(table["event_timestamp"], pa.scalar(HOUR_MS, pa.duration("ms"))))
        leaking = table.set_column(1, table.schema.field("event_timestamp"), early)
        ArchiveFolder(tmp_path / "archive").write(Stretch(archived.topic.name, 0, 0, 10**6), leaking)
    store = opened(tmp_path)
    found = point_in_time(store, asked(past.questions), FEATURE_SERVICE)
    assert differences(answers_of(found), past.answers) > len(past.questions) * 0.05


def test_entities_without_a_valid_row_are_nulls_where_they_were_asked(past: Past) -> None:
    [place, *_] = [place for place, answer in enumerate(past.answers) if answer[f"{USER_VIEW}__steps"] is not None]
    asked_ms, user, _ = past.questions[place]
    long_after_ms = asked_ms + 300 * 24 * HOUR_MS
    found = point_in_time(
        past.store,
        asked(
            [(asked_ms, "nobody", "-"), (asked_ms, user, "-"), (START_MS - 1, user, "-"), (long_after_ms, user, "-"), (asked_ms, user, "-")]
        ),
        [f"{USER_VIEW}:steps", f"{USER_VIEW}:history_items"],
    )
    steps = past.answers[place][f"{USER_VIEW}__steps"]
    assert found[f"{USER_VIEW}__steps"].tolist() == [pd.NA, steps, pd.NA, pd.NA, steps]
    assert [value is None for value in found[f"{USER_VIEW}__history_items"]] == [True, False, True, True, False]
    assert f"{USER_VIEW}__views" not in found.columns


def test_what_depends_on_the_time_of_asking_is_as_the_reader_told_it_then(past: Past, clean_redis: str) -> None:
    store = OnlineStore(connect(clean_redis))
    reader = FeatureReader(store)
    expected: dict[Any, Answer] = {}
    for question, online in as_of(Online(), past.arrivals, random.Random(SEED).sample(past.questions, 300)):
        asked_ms, user, item = question
        store.write(users=[online.users[user]] if user in online.users else [], items=[online.items[item]] if item in online.items else [])
        [read] = reader.read(RANKING, [{"user_id": user, "item_id": item}], asked_ms)
        expected[question] = {name: comparable(value) for name, value in read.items()}
    found = point_in_time(past.store, asked(list(expected)), RANKING.name)
    assert [name for name in found.columns if "__" in name] == list(RANKING.columns)
    assert differences(answers_of(found), list(expected.values())) == 0
    assert found["user_now__age_s"].notna().sum() > 100


def test_times_and_keys_may_be_told_in_several_ways(past: Past) -> None:
    questions = [question for question in past.questions if question[1].isdigit()][:50]
    expected = answers_of(point_in_time(past.store, asked(questions), FEATURE_SERVICE))
    frame = asked(questions)
    in_ms = [asked_ms for asked_ms, _, _ in questions]
    for other in (
        frame.assign(event_timestamp=in_ms),
        frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None)),
        frame.assign(event_timestamp=[time.isoformat() for time in frame["event_timestamp"]]),
        frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_convert("Asia/Tokyo")),
        frame.assign(user_id=frame["user_id"].astype(int)),
        pa.Table.from_pandas(frame),
    ):
        assert answers_of(point_in_time(past.store, other, FEATURE_SERVICE)) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"drop": "event_timestamp"}, "event_timestamp: a column with the instants asked about was expected; there are user_id"),
        ({"drop": "item_id"}, "item_id: a column with this key was expected; there are user_id"),
        ({"event_timestamp": "yesterday"}, "event_timestamp: times as in ISO 8601"),
        ({"event_timestamp": None}, "event_timestamp: row 0 tells no time"),
        ({"user_id": 1.5}, "user_id: texts or whole numbers were expected; a value is 1.5"),
    ],
)
def test_a_question_that_makes_no_sense_is_told_by_its_column(past: Past, change: dict[str, Any], told: str) -> None:
    frame = asked(past.questions[:3])
    frame = frame.drop(columns=change["drop"]) if "drop" in change else frame.assign(**change)
    with pytest.raises(CannotAnswer, match=told):
        point_in_time(past.store, frame, FEATURE_SERVICE)


def test_visits_have_no_history_and_it_says_so(past: Past) -> None:
    frame = asked(past.questions[:3]).assign(session_id="s")
    with pytest.raises(CannotAnswer, match="session_activity: its rows have no changelog, so no history"):
        point_in_time(past.store, frame, [f"{SESSION_VIEW}:views"])


def test_an_empty_archive_and_no_questions_give_nulls_and_nothing(past: Past, tmp_path: Path) -> None:
    found = point_in_time(opened(tmp_path), asked(past.questions[:3]), FEATURE_SERVICE)
    assert found[f"{USER_VIEW}__steps"].isna().all()
    assert len(point_in_time(past.store, asked([]), FEATURE_SERVICE)) == 0


def test_a_feature_that_older_files_lack_is_null_there(tmp_path: Path) -> None:
    rows = [(number, UserRow(shopper_id="ada", steps=number, views=number, seen_ms=START_MS + number)) for number in (1, 2)]
    tables = [versions_table(USER_VERSIONS, [row]) for row in rows]
    ArchiveFolder(tmp_path / "archive").write(Stretch("user-features", 0, 1, 1), tables[0].drop_columns(["views"]))
    ArchiveFolder(tmp_path / "archive").write(Stretch("user-features", 0, 2, 2), tables[1])
    questions = asked([(START_MS + 1, "ada", ""), (START_MS + 2, "ada", "")])
    found = point_in_time(opened(tmp_path), questions, [f"{USER_VIEW}:views", f"{USER_VIEW}:steps"])
    assert found[f"{USER_VIEW}__views"].tolist() == [pd.NA, 2]
    assert found[f"{USER_VIEW}__steps"].tolist() == [1, 2]


def test_how_far_it_is_is_told_for_each_view(past: Past) -> None:
    told: list[tuple[str, float]] = []
    point_in_time(past.store, asked(past.questions[:3]), FEATURE_SERVICE, lambda view, share: told.append((view, share)))
    assert [(view, share) for view, share in told if share == 1.0] == [(USER_VIEW, 1.0), (ITEM_VIEW, 1.0)]
