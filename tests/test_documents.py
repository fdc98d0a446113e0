"""What the documents say of settings, topics and files is so."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from headrace.deploy.settings import Settings, variable_of
from headrace.schemas.topics import TOPICS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ROOMS = ("schemas", "features", "online_model", "streams", "deploy", "tests", "docs", "examples")


def test_the_readme_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `(HEADRACE_\w+)` \| (?:`([^`]*)`)? *\|", (ROOT / "README.md").read_text(), re.M)
    assert rows == [(variable_of(field.name), str(getattr(Settings(), field.name))) for field in fields(Settings)]


def test_the_architecture_lists_every_topic_with_its_key_and_partitions() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \| (\d+) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.M)
    assert rows == [(topic.name, topic.key, str(topic.partitions)) for topic in TOPICS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    linked = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)`", text)
    assert [name for name in [*linked, *named] if not (ROOT / name).exists()] == []
