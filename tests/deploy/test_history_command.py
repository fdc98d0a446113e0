"""`headrace features history`: a file of questions in, a file of answers out, in the same order."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from headrace.deploy.cli import app
from headrace.deploy.history_command import NoSuchService, UnreadableQuestions
from headrace.features.archive import ITEM_VERSIONS, USER_VERSIONS, Stretch, versions_table
from headrace.features.archive_folder import ArchiveFolder
from headrace.schemas import ItemRow, UserRow

SEEN_MS = 1_760_000_000_000
QUESTIONS = f"""label,user_id,item_id,event_timestamp
late,007,lamp,{SEEN_MS + 5}
nobody,7,lamp,{SEEN_MS + 5}
early,007,lamp,{SEEN_MS}
before,007,lamp,{SEEN_MS - 1}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    users = [(views, UserRow(shopper_id="007", views=views, seen_ms=SEEN_MS + views, offsets={"clicks/0": views})) for views in (0, 5)]
    archive = ArchiveFolder(tmp_path / "archive")
    archive.write(Stretch("user-features", 0, 0, 5), versions_table(USER_VERSIONS, users))
    archive.write(
        Stretch("item-features", 0, 0, 0), versions_table(ITEM_VERSIONS, [(0, ItemRow(item_id="lamp", views=3, seen_ms=SEEN_MS))])
    )
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    (tmp_path / "questions.csv").write_text(QUESTIONS)
    return tmp_path


def answer(home: Path, *options: str) -> str:
    command = ["features", "history", str(home / "questions.csv"), "--out", str(home / "answers.parquet"), "--plain", *options]
    done = CliRunner().invoke(app, command, catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_each_question_is_answered_in_its_place(home: Path) -> None:
    output = answer(home, "--json", str(home / "report.json"))
    assert "4 rows answered" in output
    rows = pq.read_table(home / "answers.parquet").to_pylist()
    assert [row["label"] for row in rows] == ["late", "nobody", "early", "before"]
    assert [row["user_activity__views"] for row in rows] == [5, None, 0, None]
    assert [row["item_activity__views"] for row in rows] == [3, 3, 3, None]
    assert json.loads((home / "report.json").read_text())["found"] == {"user_activity": 2, "item_activity": 3}
    assert not list(home.glob("*.part"))


def test_a_service_that_is_not_there_is_told_with_those_that_are(home: Path) -> None:
    with pytest.raises(NoSuchService, match=r"one of next_item, .*; the value is 'nothing'"):
        answer(home, "--service", "nothing")


def test_a_file_that_is_neither_csv_nor_parquet_is_told(home: Path) -> None:
    (home / "questions.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnreadableQuestions, match="a Parquet or a CSV file with a line of column names was expected"):
        answer(home)
