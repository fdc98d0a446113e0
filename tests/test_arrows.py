"""Imports point one way, schemas <- features, online_model <- streams <- deploy, and what takes seconds to load waits for its use."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT: dict[str, set[str]] = {
    "schemas": set(),
    "features": {"schemas"},
    "online_model": {"schemas"},
    "streams": {"schemas", "features", "online_model"},
    "deploy": {"schemas", "features", "online_model", "streams"},
}

LIGHT = ["headrace.deploy.cli", "headrace.features.online_store", "headrace.streams.feature_worker"]
HEAVY = ["torch", "feast", "faust", "pandas"]


def rooms_imported(source: str, inside: str) -> Iterator[tuple[int, str]]:
    """Yield line and room of each import of ours, at any depth of the source of a module in the room `inside`."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [f"headrace.{inside}"]
        elif isinstance(node, ast.ImportFrom) and node.module == "headrace":
            names = [f"headrace.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            parts = name.split(".")
            if parts[0] == "headrace" and len(parts) > 1:
                yield node.lineno, parts[1]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules
    wrong = [
        f"{module.relative_to(ROOT)}:{line} imports {other}"
        for module in modules
        for line, other in rooms_imported(module.read_text(encoding="utf-8"), room)
        if other not in MAY_IMPORT[room] | {room}
    ]
    assert wrong == []


def test_every_form_of_import_is_seen() -> None:
    source = """
import headrace.streams.kafka
from headrace import deploy
from headrace.features.place import Place
from headracer import streams
def late():
    from headrace.schemas import Click
"""
    assert list(rooms_imported(source, "schemas")) == [(2, "streams"), (3, "deploy"), (4, "features"), (7, "schemas")]


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_loads_nothing_heavy(module: str) -> None:
    program = f"import json, sys, {module}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    loaded = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(loaded.stdout) == []
