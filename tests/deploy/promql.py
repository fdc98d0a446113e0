"""What a PromQL expression names: enough of the language to hold dashboards and rules to the metrics that there are."""

import re
from collections.abc import Iterator

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)\s*(?P<labels>\{[^}]*\})?(?P<call>\s*\()?")
_MATCHER = re.compile(r"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)")
_WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "inf", "nan", "offset"}


def metrics_named(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric that an expression names, with the labels that it matches on."""
    text = _GROUPING.sub(" ", _RANGE.sub(" ", _STRING.sub('""', expression)))
    for match in _SELECTOR.finditer(text):
        # A function or an aggregation is followed by a parenthesis, which a metric never is.
        if match["call"] is None and match["name"].lower() not in _WORDS:
            yield match["name"], set(_MATCHER.findall(match["labels"] or ""))


def labels_grouped_by(expression: str) -> set[str]:
    """Return the labels by which an expression groups or joins."""
    return {name.strip() for group in _GROUPING.findall(expression) for name in group.split(",") if name.strip()}
