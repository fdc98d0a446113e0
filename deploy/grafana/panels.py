"""What the dashboard's panels are made of, in the JSON model of Grafana's dashboards (schema version 39)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "headrace-prometheus"}
WIDTH, HEIGHT, STAT_HEIGHT = 24, 8, 4
Kind = Literal["timeseries", "stat", "state-timeline"]


@dataclass(frozen=True)
class Panel:
    """One panel: `queries` are pairs of a PromQL expression and the name of its lines, `unit` one of Grafana's units.

    `steps` are values from which on the colour changes, each with its colour; the first holds from the beginning.
    """

    title: str
    told: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    steps: Mapping[float, str] = field(default_factory=dict)
    minimum: float | None = 0.0
    maximum: float | None = None

    @property
    def height(self) -> int:
        """Rows of the grid."""
        return STAT_HEIGHT if self.kind == "stat" else HEIGHT


@dataclass(frozen=True)
class Row:
    """A headed row of panels."""

    title: str
    panels: Sequence[Panel]


def laid_out(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the panels of all rows with ids and places, filled from left to right, 24 columns wide."""
    made: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        made.append(
            {"id": len(made) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": _place(0, top, WIDTH, 1)}
        )
        top, left, tallest = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            made.append(_panel(panel, len(made) + 1, _place(left, top, panel.width, panel.height)))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return made


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps = [{"value": None, "color": "green"}, *({"value": value, "color": color} for value, color in panel.steps.items())]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "palette-classic"},
    }
    if panel.kind != "timeseries":
        defaults["color"] = {"mode": "thresholds"}
    defaults |= {name: limit for name, limit in (("min", panel.minimum), ("max", panel.maximum)) if limit is not None}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.told,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


_OPTIONS: dict[Kind, dict[str, Any]] = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "area", "textMode": "auto"},
    "state-timeline": {"showValue": "auto", "mergeValues": True, "legend": {"displayMode": "list", "placement": "bottom"}},
}
