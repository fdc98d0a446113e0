"""Whether a JSON Schema may take the place of an older one: a pure comparison, made for the schemas that `generate` writes.

The rule is the same for every topic, whoever publishes it. Old messages must stay valid, since publishers of the old version go
on and compacted topics keep their records. New messages must be what old readers expect, save for optional fields that are
added together with a raise of the minor version: those an old reader passes over. A new major version may change anything.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

_WORDS_ONLY = {"$schema", "$id", "$defs", "$comment", "title", "description", "examples"}
_COMPARED_BY_PART = {"properties", "required", "items", "prefixItems", "additionalProperties", "anyOf", "allOf", "oneOf"}
_LOWER_LIMITS = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_UPPER_LIMITS = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_ABSENT = object()


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return what would break a reader or a publisher of the `old` schema, a line each with the field's path; none if it is safe.

    The versions are taken from `$id`, as in `urn:headrace:click:1.0`. Raises ValueError where one has none.
    """
    old_name, old_major, old_minor = _version(old)
    new_name, new_major, new_minor = _version(new)
    if old_name != new_name:
        return [f"$: is the schema of {new_name}, was of {old_name}"]
    if (new_major, new_minor) < (old_major, old_minor):
        return [f"$: the version goes back from {old_major}.{old_minor} to {new_major}.{new_minor}"]
    if new_major > old_major:
        return []
    return _Comparison(old, new, may_add=new_minor > old_minor).differences(old, new, "$")


def broken(folder: Path, rendered: Mapping[str, str]) -> list[str]:
    """Return what the `rendered` schemas, by file name, would break of the older ones in `folder`, a line each with file and path."""
    found = []
    for path in sorted(folder.glob("*.schema.json")):
        if path.name in rendered:
            old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(rendered[path.name])
            found += [f"{path.name}: {line}" for line in breaking_changes(old, new)]
        else:
            found.append(f"{path.name}: there is no such message any more")
    return found


class _Comparison:
    def __init__(self, old: Schema, new: Schema, *, may_add: bool) -> None:
        self._old_definitions = old.get("$defs", {})
        self._new_definitions = new.get("$defs", {})
        self._may_add = may_add
        self._under_way: set[tuple[str, str]] = set()

    def differences(self, old: Any, new: Any, path: str) -> list[str]:
        """Compare two schemas that stand at the same place; each may be True, False or a reference."""
        references = tuple(schema.get("$ref", "") if isinstance(schema, dict) else "" for schema in (old, new))
        if all(references):
            if references in self._under_way:
                return []
            self._under_way.add((references[0], references[1]))
            found = self._resolved(old, new, path)
            self._under_way.discard((references[0], references[1]))
            return found
        return self._resolved(old, new, path)

    def _resolved(self, old: Any, new: Any, path: str) -> list[str]:
        old, new = _resolve(old, self._old_definitions), _resolve(new, self._new_definitions)
        if not isinstance(old, dict) or not isinstance(new, dict):
            return [] if old == new else [f"{path}: {_shown(old)} became {_shown(new)}"]
        return [
            *self._keywords(old, new, path),
            *self._fields(old, new, path),
            *self._required(old, new, path),
            *self._parts(old, new, path),
        ]

    def _keywords(self, old: Schema, new: Schema, path: str) -> list[str]:
        found = []
        for name in sorted((old.keys() | new.keys()) - _WORDS_ONLY - _COMPARED_BY_PART):
            before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
            if not _same(before, after):
                found.append(f"{path}: {name} changed from {_shown(before)} to {_shown(after)}{_effect(name, before, after)}")
        return found

    def _fields(self, old: Schema, new: Schema, path: str) -> list[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        found = []
        for name in sorted(before.keys() | after.keys()):
            place = f"{path}.{name}"
            if name not in after:
                found.append(f"{place}: the field was removed; old messages that hold it, and readers that need it, break")
            elif name not in before and name not in new.get("required", []) and not self._may_add:
                found.append(f"{place}: a field was added under the same version; raise SCHEMA_MINOR, so that old readers pass over it")
            elif name in before:
                found += self.differences(before[name], after[name], place)
        return found

    def _required(self, old: Schema, new: Schema, path: str) -> list[str]:
        before, after = set(old.get("required", [])), set(new.get("required", []))
        now_needed = [f"{path}.{name}: is required now; messages without it break" for name in sorted(after - before)]
        now_missing = [
            f"{path}.{name}: may be left out now; readers that need it break"
            for name in sorted(before - after)
            if name in new.get("properties", {})
        ]
        return now_needed + now_missing

    def _parts(self, old: Schema, new: Schema, path: str) -> list[str]:
        found = []
        for name in ("items", "additionalProperties"):
            found += self.differences(old.get(name, True), new.get(name, True), f"{path}{'[]' if name == 'items' else '{}'}")
        for name in ("prefixItems", "anyOf", "allOf", "oneOf"):
            before, after = old.get(name, []), new.get(name, [])
            if name == "prefixItems" and self._may_add:
                # Readers pass over places behind those that they know; that old arrays stay valid, `minItems` tells.
                after = after[: len(before)]
            if len(before) != len(after):
                found.append(f"{path}: {name} has {len(after)} alternatives or places, had {len(before)}")
                continue
            for index, (one, other) in enumerate(zip(before, after, strict=True)):
                found += self.differences(one, other, f"{path}[{index}]" if name == "prefixItems" else path)
        return found


def _version(schema: Schema) -> tuple[str, int, int]:
    match = re.fullmatch(r"(urn:[^:]+:[^:]+):(\d+)\.(\d+)", str(schema.get("$id")))
    if match is None:
        raise ValueError(f"$id: a name and version such as urn:headrace:click:1.0 was expected; the value is {schema.get('$id')!r}")
    return match[1], int(match[2]), int(match[3])


def _resolve(schema: Any, definitions: dict[str, Schema]) -> Any:
    while isinstance(schema, dict) and "$ref" in schema:
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        if name not in definitions:
            raise ValueError(f"$ref: a definition of this schema was expected; the value is {schema['$ref']!r}")
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = definitions[name] | beside
    return schema


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return sorted(map(_shown, old)) == sorted(map(_shown, new))
    # True equals 1 in Python, not in JSON.
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


def _effect(name: str, old: Any, new: Any) -> str:
    """Say whom the change breaks, where that can be told."""
    if name == "enum" and isinstance(old, list) and isinstance(new, list):
        gone = [value for value in old if value not in new]
        added = [value for value in new if value not in old]
        return (f"; publishers of {_shown(gone)} break" if gone else "") + (f"; readers break at {_shown(added)}" if added else "")
    if name in _LOWER_LIMITS | _UPPER_LIMITS:
        numbers = {value for value in (old, new) if value is not _ABSENT}
        tightest = max(numbers) if name in _LOWER_LIMITS else min(numbers)
        return "; narrower: publishers break" if new == tightest else "; wider: readers break"
    return ""


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value, sort_keys=True, ensure_ascii=False)
