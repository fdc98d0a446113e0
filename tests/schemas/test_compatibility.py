"""Schemas change only in ways that leave publishers and readers of the committed version working."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace import schemas
from headrace.schemas import generate
from headrace.schemas.compatibility import Schema, breaking_changes

ROOT = Path(__file__).parents[2]
WRITTEN = Path(schemas.__file__).parent / "generated"

Change = Callable[[Schema], Any]


@pytest.fixture
def click() -> Schema:
    return raised(rendered("click.schema.json"), "1.0")


def rendered(name: str) -> Schema:
    schema: Schema = json.loads(generate.render()[name])
    return schema


def committed(commit: str) -> dict[str, Schema]:
    """Return the schemas of a commit; none where there is no such commit, no repository or no git."""
    git = shutil.which("git")
    if git is None:
        return {}
    place = f"{commit}:schemas/generated"
    listed = subprocess.run([git, "ls-tree", "--name-only", place], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split() if name.endswith(".schema.json")]
    texts = {name: subprocess.run([git, "show", f"{place}/{name}"], cwd=ROOT, capture_output=True, text=True, check=True) for name in names}
    return {name: json.loads(text.stdout) for name, text in texts.items()}


def written() -> dict[str, Schema]:
    return {path.name: json.loads(path.read_text()) for path in WRITTEN.glob("*.schema.json")}


def raised(schema: Schema, version: str) -> Schema:
    return schema | {"$id": f"{schema['$id'].rpartition(':')[0]}:{version}"}


def changed(schema: Schema, change: Change) -> Schema:
    other = copy.deepcopy(schema)
    change(other)
    return other


# The commit before is asked too: on a clean checkout the newest one always agrees with itself.
@pytest.mark.parametrize("commit", ["HEAD", "HEAD^"])
def test_nothing_breaks_those_who_use_the_committed_schemas(commit: str) -> None:
    old = committed(commit) or written()
    assert old
    for name, schema in old.items():
        assert name in generate.render(), f"{name}: the message is gone"
        assert breaking_changes(schema, rendered(name)) == []


def test_an_unchanged_schema_breaks_nothing() -> None:
    for schema in written().values():
        assert breaking_changes(schema, copy.deepcopy(schema)) == []


def test_words_may_change(click: Schema) -> None:
    def reword(schema: Schema) -> None:
        schema["description"] = "Somebody looked."
        schema["properties"]["item_id"]["description"] = "what was looked at"

    assert breaking_changes(click, changed(click, reword)) == []


def test_an_optional_field_may_be_added_with_a_later_minor_version_only(click: Schema) -> None:
    def add(schema: Schema) -> None:
        schema["properties"]["device"] = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}

    assert breaking_changes(click, raised(changed(click, add), "1.1")) == []
    [told] = breaking_changes(click, changed(click, add))
    assert told.startswith("$.device: a field was added under the same version")


PLANTED: list[tuple[str, str, Change]] = [
    ("a field goes", "$.price: the field was removed", lambda s: s["properties"].pop("price")),
    (
        "a needed field goes",
        "$.item_id: the field was removed",
        lambda s: (s["properties"].pop("item_id"), s["required"].remove("item_id")),
    ),
    ("a field becomes needed", "$.user_id: is required now", lambda s: s["required"].append("user_id")),
    (
        "a new field is needed",
        "$.device: is required now",
        lambda s: (s["properties"].update(device={"type": "string"}), s["required"].append("device")),
    ),
    ("a field may be left out", "$.event_id: may be left out now", lambda s: s["required"].remove("event_id")),
    ("another type", '$.item_id: type changed from "string" to "integer"', lambda s: s["properties"]["item_id"].update(type="integer")),
    ("a narrower type", "$.price: type changed", lambda s: s["properties"]["price"]["anyOf"][0].update(type="integer")),
    ("no null any more", "$.price: anyOf has 1 alternatives", lambda s: s["properties"]["price"]["anyOf"].pop()),
    ("a value goes", 'publishers of ["cart"] break', lambda s: s["properties"]["action"]["enum"].remove("cart")),
    ("a value comes", 'readers break at ["hover"]', lambda s: s["properties"]["action"]["enum"].append("hover")),
    ("another tag", "$.type: enum changed", lambda s: s["properties"]["type"].update(enum=["tap"])),
    ("another constant", "$.type: const changed", lambda s: s["properties"]["type"].update(const="click")),
    ("shorter at least", "minLength changed from 1 to 3; narrower", lambda s: s["properties"]["item_id"].update(minLength=3)),
    ("shorter at most", "maxLength changed from 128 to 64; narrower", lambda s: s["properties"]["item_id"].update(maxLength=64)),
    ("longer", "maxLength changed from 128 to 256; wider: readers", lambda s: s["properties"]["item_id"].update(maxLength=256)),
    ("a limit goes", "nothing; wider", lambda s: s["properties"]["event_time_ms"].pop("minimum")),
    ("a limit comes", "from nothing to 9; narrower", lambda s: s["properties"]["event_time_ms"].update(maximum=9)),
    ("another pattern", "$.item_id: pattern changed", lambda s: s["properties"]["item_id"].update(pattern="^[a-z]+$")),
    ("another default", "$.action: default changed", lambda s: s["properties"]["action"].update(default="cart")),
    ("unknown fields are taken", "${}: false became true", lambda s: s.update(additionalProperties=True)),
    ("a nested field goes", "$.attribution.query: the field was removed", lambda s: s["$defs"]["Attribution"]["properties"].pop("query")),
    (
        "a nested limit narrows",
        "$.attribution.position: maximum changed",
        lambda s: s["$defs"]["Attribution"]["properties"]["position"]["anyOf"][0].update(maximum=10),
    ),
]


@pytest.mark.parametrize(("expected", "change"), [planted[1:] for planted in PLANTED], ids=[planted[0] for planted in PLANTED])
def test_a_planted_change_is_found_even_under_a_later_minor_version(click: Schema, expected: str, change: Change) -> None:
    for new in (changed(click, change), raised(changed(click, change), "1.1")):
        assert any(expected in told for told in breaking_changes(click, new)), breaking_changes(click, new)


def test_places_of_an_array_and_values_of_a_map_are_compared() -> None:
    row = rendered("user-row.schema.json")

    def change(schema: Schema) -> None:
        schema["$defs"]["HistoryEntry"]["prefixItems"][1]["enum"] = ["view"]
        schema["properties"]["offsets"]["additionalProperties"]["type"] = "string"

    told = breaking_changes(row, changed(row, change))
    assert any(line.startswith("$.history[][1]: enum changed") for line in told)
    assert any(line.startswith("$.offsets{}: type changed") for line in told)
    [told_one] = breaking_changes(row, changed(row, lambda s: s["$defs"]["HistoryEntry"]["prefixItems"].pop()))
    assert "prefixItems has 4" in told_one


def test_a_place_may_be_added_to_an_array_with_a_later_minor_version_alone() -> None:
    row = raised(rendered("user-row.schema.json"), "1.8")
    longer = changed(row, lambda s: s["$defs"]["HistoryEntry"]["prefixItems"].append({"type": "string"}))
    assert breaking_changes(row, raised(longer, "1.9")) == []
    [told] = breaking_changes(row, longer)
    assert "prefixItems has 6" in told
    needed = changed(longer, lambda s: s["$defs"]["HistoryEntry"].update(minItems=6))
    assert any("minItems" in line for line in breaking_changes(row, raised(needed, "1.9")))


def test_a_new_major_version_may_change_anything_and_no_version_goes_back(click: Schema) -> None:
    assert breaking_changes(click, raised(changed(click, lambda s: s["properties"].clear()), "2.0")) == []
    assert breaking_changes(raised(click, "1.4"), raised(click, "1.3")) == ["$: the version goes back from 1.4 to 1.3"]
    assert breaking_changes(click, raised(rendered("purchase.schema.json"), "1.0")) == [
        "$: is the schema of urn:headrace:purchase, was of urn:headrace:click"
    ]


def test_a_schema_without_a_version_is_told_apart_from_a_safe_one(click: Schema) -> None:
    with pytest.raises(ValueError, match=r"\$id: a name and version"):
        breaking_changes(click | {"$id": "click.json"}, click)


def test_schemas_that_refer_to_themselves_are_compared_to_the_end(click: Schema) -> None:
    tree = raised(click, "1.0") | {
        "properties": {"root": {"$ref": "#/$defs/Node"}},
        "required": [],
        "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "size": {"type": "integer"}}}},
    }
    assert breaking_changes(tree, copy.deepcopy(tree)) == []
    told = breaking_changes(tree, changed(tree, lambda s: s["$defs"]["Node"]["properties"]["size"].update(type="string")))
    assert told == ['$.root.size: type changed from "integer" to "string"']
