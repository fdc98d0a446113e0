"""The generated documents say what the code does: schemas and reader refuse the same messages, and nothing written is stale."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jsonschema.protocols import Validator

from headrace import schemas
from headrace.schemas import InvalidMessage, decode, generate
from headrace.schemas.topics import TOPICS
from headrace.schemas.wire import kebab

WRITTEN = Path(schemas.__file__).parent / "generated"
GOLDEN = Path(__file__).parent / "golden"
KINDS = {kebab(topic.message.__name__): topic.message for topic in TOPICS if topic.message}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN, tmp_path / "generated"))


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(generate.render()[generate.ASYNCAPI])
    return document


def validator(name: str) -> Validator:
    schema = json.loads(generate.render()[f"{name}.schema.json"])
    return jsonschema.Draft202012Validator(schema)


def golden(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_bytes().splitlines()[0])
    return body


def spoilt(body: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "an unknown field", body | {"colour": 1}
    for field in schema["required"]:
        if field != "type":
            yield f"without {field}", {name: value for name, value in body.items() if name != field}
    for field in schema["properties"]:
        for value in (True, -1, 1.5, "", "\x00", "x" * 2000, [], [[]], {}, {"a": "b"}, 2**53):
            yield f"{field} = {value!r:.20}", body | {field: value}


def test_what_is_written_is_what_the_code_says() -> None:
    assert generate.stale(WRITTEN) == []


def test_rendering_twice_gives_the_same_bytes() -> None:
    assert generate.render() == generate.render()


def test_an_edited_a_missing_and_a_superfluous_document_are_stale(copied: Path) -> None:
    assert generate.stale(copied) == []
    (copied / "click.schema.json").write_text((copied / "click.schema.json").read_text().replace("Click", "Clack"))
    (copied / "purchase.schema.json").unlink()
    (copied / "basket.schema.json").write_text("{}")
    (copied / "NOTES.txt").write_text("ours")
    assert generate.stale(copied) == ["basket.schema.json", "click.schema.json", "purchase.schema.json"]
    generate.write(copied)
    assert generate.stale(copied) == []
    assert (copied / "NOTES.txt").read_text() == "ours"


def test_an_empty_folder_is_stale_throughout(tmp_path: Path) -> None:
    assert generate.stale(tmp_path / "nothing") == sorted(generate.render())


@pytest.mark.parametrize("name", KINDS)
def test_each_schema_is_a_schema_and_its_name_is_the_one_in_the_headers(name: str) -> None:
    schema = json.loads(generate.render()[f"{name}.schema.json"])
    jsonschema.Draft202012Validator.check_schema(schema)
    attributes = dict(json.loads((GOLDEN / f"{name}.json").read_bytes().splitlines()[1]))
    assert schema["$id"] == attributes["ce_dataschema"]
    assert schema["title"] == KINDS[name].__name__
    assert schema["description"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", KINDS)
def test_a_message_as_it_is_sent_follows_its_schema(name: str) -> None:
    validator(name).validate(golden(name))


@pytest.mark.parametrize("name", KINDS)
def test_schema_and_reader_refuse_the_same_messages(name: str) -> None:
    judge, body = validator(name), golden(name)
    refused = 0
    for what, message in spoilt(body, judge.schema):
        try:
            decode(KINDS[name], json.dumps(message).encode())
            read = True
        except InvalidMessage:
            read = False
        follows = judge.is_valid(message)
        # Base64 is an annotation in JSON Schema: only the reader sees whether the text is any.
        if not what.startswith("raw = "):
            assert read == follows, f"{name} with {what}: the reader {'takes' if read else 'refuses'} it, the schema does not agree"
        refused += not follows
    assert refused > 20


def test_spoilt_nested_parts_are_refused() -> None:
    purchase, row = golden("purchase"), golden("user-row")
    purchase["lines"][0]["quantity"] = 0
    assert not validator("purchase").is_valid(purchase)
    row["history"][0][1] = "stare"
    assert not validator("user-row").is_valid(row)


def test_every_topic_is_in_the_asyncapi_document_with_its_settings(asyncapi: dict[str, Any]) -> None:
    assert asyncapi["asyncapi"] == "3.0.0"
    assert list(asyncapi["channels"]) == [topic.name for topic in TOPICS]
    for topic in TOPICS:
        channel = asyncapi["channels"][topic.name]
        assert channel["address"] == topic.name
        binding = channel["bindings"]["kafka"]
        assert binding["partitions"] == topic.partitions
        told = {name: value[0] if isinstance(value, list) else str(value) for name, value in binding["topicConfiguration"].items()}
        assert told == topic.broker_config()


def test_operations_are_told_from_where_headrace_stands(asyncapi: dict[str, Any]) -> None:
    actions: dict[str, set[str]] = {topic.name: set() for topic in TOPICS}
    for operation in asyncapi["operations"].values():
        actions[operation["channel"]["$ref"].removeprefix("#/channels/")].add(operation["action"])
    assert actions["clicks"] == actions["purchases"] == {"receive"}
    assert actions["recommendations"] == actions["drift-alerts"] == actions["dead-letters"] == {"send"}
    assert all(actions.values())


def test_messages_carry_key_headers_and_payload_and_weights_are_bytes(asyncapi: dict[str, Any]) -> None:
    for name, message in asyncapi["components"]["messages"].items():
        assert message["bindings"]["kafka"]["key"]["type"] == "string"
        if name == "model-weights-part":
            assert message["contentType"] == "application/octet-stream"
            assert "payload" not in message
            continue
        assert message["contentType"] == "application/json"
        attributes = dict(json.loads((GOLDEN / f"{name}.json").read_bytes().splitlines()[1]))
        assert set(attributes) == set(message["headers"]["properties"])
        jsonschema.Draft7Validator(message["headers"]).validate(attributes)
        assert not jsonschema.Draft7Validator(message["headers"]).is_valid(attributes | {"ce_type": "headrace.other.v1"})


def test_every_reference_leads_somewhere(asyncapi: dict[str, Any]) -> None:
    found = list(references(asyncapi))
    assert len(found) > 40
    for reference in found:
        node: Any = asyncapi
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
        assert node


@pytest.mark.parametrize("name", KINDS)
def test_payloads_in_asyncapi_take_and_refuse_messages_like_the_schemas(asyncapi: dict[str, Any], name: str) -> None:
    schema = asyncapi | {"$ref": f"#/components/schemas/{KINDS[name].__name__}"}
    jsonschema.Draft7Validator(schema).validate(golden(name))
    assert not jsonschema.Draft7Validator(schema).is_valid(golden(name) | {"colour": 1})
    if name == "user-row":
        assert not jsonschema.Draft7Validator(schema).is_valid(golden(name) | {"history": [["lamp", "stare", 5]]})


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for part in node.values():
            yield from references(part)
    elif isinstance(node, list):
        for part in node:
            yield from references(part)
