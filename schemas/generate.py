"""The generated documents: a JSON Schema (2020-12) for each type of message, and one AsyncAPI 3.0.0 document of all topics.

They are made from the message types and `topics.py` alone, so they cannot tell anything that the code does not do.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from headrace.schemas.topics import (
    CLICKS,
    ITEM_CHANGES,
    MODEL_UPDATES,
    MODEL_WEIGHTS,
    PURCHASES,
    TOPICS,
    USER_FEATURES,
    Topic,
)
from headrace.schemas.wire import SCHEMA_MAJOR, SCHEMA_MINOR, cloud_event_type, data_schema, kebab

ASYNCAPI = "asyncapi.yaml"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
KAFKA_BINDING = "0.5.0"

FROM_THE_SHOP = (CLICKS, PURCHASES)
BETWEEN_PARTS = (ITEM_CHANGES, USER_FEATURES, MODEL_UPDATES, MODEL_WEIGHTS)

Node = dict[str, Any]


def write(folder: Path) -> None:
    """Write the documents, and remove those of messages that are no more. Other files are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    rendered = render()
    for name in _documents(folder) - set(rendered):
        (folder / name).unlink()
    for name, text in rendered.items():
        (folder / name).write_text(text, encoding="utf-8")


def stale(folder: Path) -> list[str]:
    """Return the names of the documents that are missing from `folder`, differ from the code or describe messages that are no more."""
    rendered = render()
    present = _documents(folder)
    differing = {name for name in present & set(rendered) if (folder / name).read_text(encoding="utf-8") != rendered[name]}
    return sorted(differing | (present ^ set(rendered)))


def render() -> dict[str, str]:
    """Return the text of each document by its file name."""
    documents = {f"{_name(message)}.schema.json": _json_schema(message) for message in _messages()}
    texts = {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}
    texts[ASYNCAPI] = yaml.dump(_asyncapi(), sort_keys=False, allow_unicode=True, width=120, Dumper=_WithoutAliases)
    return texts


def _json_schema(message: type[Struct]) -> Node:
    _, definitions = msgspec.json.schema_components([message], ref_template="#/$defs/{name}")
    own = definitions.pop(message.__name__)
    document = {"$schema": DIALECT, "$id": data_schema(message.__name__).decode(), **own}
    return document | ({"$defs": definitions} if definitions else {})


def _asyncapi() -> Node:
    _, definitions = msgspec.json.schema_components(_messages(), ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}.0",
            "description": "Shop events in; features, recommendations, model updates and drift alerts out.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {name: operation for topic in TOPICS for name, operation in _operations(topic)},
        "components": {
            "messages": {_message_name(topic): _message(topic) for topic in TOPICS},
            "schemas": {name: _draft_7(definition) for name, definition in definitions.items()},
        },
    }


def _channel(topic: Topic) -> Node:
    # Kafka's settings are strings; the binding wants whole numbers, and a list of clean-up policies.
    settings = topic.broker_config()
    configuration = {key: [value] if key == "cleanup.policy" else int(value) for key, value in settings.items()}
    return {
        "address": topic.name,
        "description": f"{topic.summary[0].upper()}{topic.summary[1:]}.",
        "messages": {_message_name(topic): {"$ref": f"#/components/messages/{_message_name(topic)}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _operations(topic: Topic) -> Iterable[tuple[str, Node]]:
    """Return what Headrace itself does with the topic: a shop that publishes clicks does the opposite of `receive`."""
    actions = ("receive",) if topic in FROM_THE_SHOP else ("send", "receive") if topic in BETWEEN_PARTS else ("send",)
    for action in actions:
        yield (
            f"{action}-{topic.name}",
            {
                "action": action,
                "channel": {"$ref": f"#/channels/{topic.name}"},
                "summary": f"Headrace {action}s {topic.summary}.",
                "messages": [{"$ref": f"#/channels/{topic.name}/messages/{_message_name(topic)}"}],
            },
        )


def _message(topic: Topic) -> Node:
    key = {"type": "string", "description": topic.key}
    shared = {"name": _message_name(topic), "bindings": {"kafka": {"key": key, "bindingVersion": KAFKA_BINDING}}}
    if topic.message is None:
        return shared | {"title": "Part", "summary": topic.summary, "contentType": "application/octet-stream"}
    name = topic.message.__name__
    return shared | {
        "title": name,
        "summary": topic.summary,
        "contentType": "application/json",
        "headers": _headers(name),
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }


def _headers(name: str) -> Node:
    """CloudEvents 1.0 in the Kafka headers (binary content mode) and W3C Trace Context. Readers do without what is absent."""
    return {
        "type": "object",
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": {"type": "string", "minLength": 1, "description": "the event's own id"},
            "ce_source": {"type": "string", "minLength": 1, "description": "who sent it"},
            "ce_type": {"type": "string", "const": cloud_event_type(name).decode()},
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_dataschema": {"type": "string", "const": data_schema(name).decode(), "description": "the JSON Schema's $id"},
            "content-type": {"type": "string", "const": "application/json"},
            "traceparent": {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
        },
    }


def _draft_7(node: Any) -> Any:
    """Return a schema in the words of AsyncAPI's own dialect, which follows draft 7: there a tuple's places stand in `items`."""
    if isinstance(node, list):
        return [_draft_7(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {"items" if name == "prefixItems" else name: _draft_7(part) for name, part in node.items()}


def _messages() -> list[type[Struct]]:
    return [topic.message for topic in TOPICS if topic.message is not None]


def _message_name(topic: Topic) -> str:
    return "model-weights-part" if topic.message is None else _name(topic.message)


def _name(message: type[Struct]) -> str:
    return kebab(message.__name__)


def _documents(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*") if path.name == ASYNCAPI or path.name.endswith(".schema.json")}


class _WithoutAliases(yaml.SafeDumper):
    """Writes every part out in full: anchors would hide what a reader looks for."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
