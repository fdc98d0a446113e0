"""The gateway's OpenAPI parts, made from the message types, and a page of documentation that needs nothing from elsewhere."""

import json
from collections.abc import Iterable
from html import escape
from typing import Any

import msgspec
from msgspec import Struct

from headrace.schemas import Click, ModelRelease, Purchase
from headrace.streams.dashboard.messages import Frame, History
from headrace.streams.gateway_messages import (
    EventsAnswer,
    FeaturesAnswer,
    Health,
    Prediction,
    PredictRequest,
    Problem,
    Recommendations,
    RefusedEvents,
    RollbackRequest,
)
from headrace.streams.model_list import ModelList

Node = dict[str, Any]

MESSAGES: tuple[type[Struct], ...] = (
    Click,
    Purchase,
    EventsAnswer,
    RefusedEvents,
    Recommendations,
    PredictRequest,
    Prediction,
    FeaturesAnswer,
    Problem,
    Health,
    ModelList,
    ModelRelease,
    RollbackRequest,
    Frame,
    History,
)
JSON = "application/json"

_CLICK = {"type": "click", "event_id": "click-1", "event_time_ms": 1_790_000_000_000, "item_id": "lamp", "user_id": "ada"}
_PURCHASE = {
    "type": "purchase",
    "event_id": "buy-1",
    "event_time_ms": 1_790_000_060_000,
    "order_id": "order-1",
    "lines": [{"item_id": "lamp", "quantity": 1, "unit_price": 20.0}],
    "currency": "EUR",
    "session_id": "guest-7",
}
EVENT_EXAMPLES: Node = {
    "click": {"summary": "one event", "value": _CLICK},
    "batch": {"summary": "several", "value": {"events": [_CLICK, _PURCHASE]}},
}
PREDICT_EXAMPLES: Node = {
    "history": {"summary": "two steps", "value": {"history": [{"item_id": "lamp"}, {"item_id": "tent", "kind": "cart"}], "k": 5}},
}
EVENTS_SCHEMA: Node = {
    "oneOf": [
        {"$ref": "#/components/schemas/Click"},
        {"$ref": "#/components/schemas/Purchase"},
        {
            "type": "object",
            "required": ["events"],
            "properties": {
                "events": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1000,
                    "items": {"oneOf": [{"$ref": "#/components/schemas/Click"}, {"$ref": "#/components/schemas/Purchase"}]},
                }
            },
        },
    ]
}


def schema(message: type[Struct]) -> Node:
    """Return the reference to a message's schema."""
    return {"$ref": f"#/components/schemas/{message.__name__}"}


def body(content: Node, examples: Node) -> Node:
    """Return the OpenAPI words for a request body."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": content, "examples": examples}}}}


def replies(of: dict[int, tuple[type[Struct], str]]) -> dict[int | str, Node]:
    """Return the OpenAPI words for answers, given their type and description by status."""
    return {status: {"description": told, "content": {JSON: {"schema": schema(message)}}} for status, (message, told) in of.items()}


def with_components(document: Node) -> Node:
    """Add the schemas of all messages to an OpenAPI document and return it."""
    _, components = msgspec.json.schema_components(MESSAGES, ref_template="#/components/schemas/{name}")
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    return document


def page(document: Node) -> str:
    """Return an OpenAPI document as a page of HTML, without scripts."""
    info = document["info"]
    routes = [
        _route(method.upper(), path, operation) for path, methods in document["paths"].items() for method, operation in methods.items()
    ]
    schemas = [_schema(name, node) for name, node in sorted(document["components"]["schemas"].items())]
    return "".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
            f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('description', ''))} ",
            "The same as a document for programs: <a href=/openapi.json>/openapi.json</a>.</p>",
            *routes,
            "<h1>Messages</h1>",
            *schemas,
            "</html>",
        ]
    )


def _route(method: str, path: str, operation: Node) -> str:
    parts = [f"<h2><b>{method}</b> <code>{escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}</p>"]
    if told := operation.get("description"):
        parts.append(f"<p>{escape(told)}</p>")
    rows = [
        (parameter["name"], _kind(parameter["schema"]), parameter.get("description", "")) for parameter in operation.get("parameters", [])
    ]
    if rows:
        parts.append(_table(("parameter", "type", "meaning"), rows))
    examples = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("examples", {})
    parts += [f"<p>{escape(one['summary'])}:</p><pre>{escape(json.dumps(one['value'], indent=2))}</pre>" for one in examples.values()]
    answers = [
        (status, " or ".join(_kind(content.get("schema", {})) for content in answer.get("content", {}).values()), answer["description"])
        for status, answer in operation.get("responses", {}).items()
    ]
    parts.append(_table(("status", "answer", "when"), answers))
    return f"<section>{''.join(parts)}</section>"


def _schema(name: str, node: Node) -> str:
    needed = set(node.get("required", []))
    rows = [
        (field + ("" if field in needed else " (optional)"), _kind(part), part.get("description", ""))
        for field, part in node.get("properties", {}).items()
    ]
    told = f"<p>{escape(node.get('description', ''))}</p>"
    return f"<section id={escape(name, quote=True)}><h2>{escape(name)}</h2>{told}{_table(('field', 'type', 'meaning'), rows)}</section>"


def _kind(node: Node) -> str:
    """Say in a few words what a schema wants."""
    if "$ref" in node:
        return str(node["$ref"]).rpartition("/")[2]
    if alternatives := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(_kind(part) for part in alternatives)
    if "enum" in node:
        return " or ".join(map(str, node["enum"]))
    if node.get("type") == "array":
        return f"list of {_kind(node.get('items', {}))}"
    limits = [f"{word} {node[key]}" for key, word in (("minimum", "from"), ("maximum", "to"), ("default", "if not given,")) if key in node]
    return " ".join([str(node.get("type", "any")), *limits])


def _table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "section{border-top:1px solid #ddd;padding:.5rem 0}h2{font-size:1.1rem}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #eee}"
    "pre{background:#f5f5f5;padding:.6rem;overflow:auto}"
)
