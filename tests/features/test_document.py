"""The document of features is written from the tables, and is not stale."""

import re
from pathlib import Path

from typer.testing import CliRunner

from headrace.deploy.cli import app
from headrace.features.asked import ASKED_VIEWS
from headrace.features.columns import VIEWS
from headrace.features.document import document

DOCUMENT = Path(__file__).parents[2] / "docs" / "features.md"


def test_the_document_is_what_the_tables_say_now() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: headrace features document"


def test_every_feature_of_every_view_has_a_row_with_all_cells_but_the_window_filled() -> None:
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", document(), re.M | re.S))
    assert list(sections) == [view.name for view in (*VIEWS, *ASKED_VIEWS)]
    for view in (*VIEWS, *ASKED_VIEWS):
        rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.*) \| (.+) \| (.*) \| (.+) \|$", sections[view.name], re.M)
        assert [row[0] for row in rows] == [column.name for column in view.columns]
        assert all(row[1].strip() and row[3].strip() and row[5].strip() for row in rows)


def test_the_command_writes_the_document_and_tells_of_a_stale_one(tmp_path: Path) -> None:
    file = tmp_path / "docs" / "features.md"
    runner = CliRunner()
    asked = ["features", "document", "--to", str(file)]
    assert runner.invoke(app, [*asked, "--check"]).exit_code == 1
    written = runner.invoke(app, asked)
    assert (written.exit_code, file.read_text(encoding="utf-8")) == (0, document())
    assert runner.invoke(app, [*asked, "--check"]).exit_code == 0
    file.write_text("old", encoding="utf-8")
    stale = runner.invoke(app, [*asked, "--check"])
    assert stale.exit_code == 1
    assert "headrace features document" in stale.output
