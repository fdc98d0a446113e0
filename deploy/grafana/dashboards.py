"""The Grafana dashboard of Headrace. `python -m headrace.deploy.grafana.dashboards` writes it anew to `dashboards/headrace.json`."""

import json
from pathlib import Path
from typing import Any

from headrace.deploy.grafana.panels import DATASOURCE, laid_out
from headrace.deploy.grafana.rows import ROWS

FILE = Path(__file__).parent / "dashboards" / "headrace.json"


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON model."""
    return {
        "uid": "headrace",
        "title": "Headrace",
        "description": "Is the shop's model healthy? From the events to the weights that answer.",
        "tags": ["headrace"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_part_choice()]},
        "annotations": {"list": _marks()},
        "panels": laid_out(ROWS),
    }


def rendered() -> str:
    """Return the dashboard as the file holds it."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def _part_choice() -> dict[str, Any]:
    query = 'label_values(up{job="headrace"}, part)'
    return {
        "name": "part",
        "label": "Part",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "part"},
        "definition": query,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "sort": 1,
    }


def _marks() -> list[dict[str, Any]]:
    """Return what is marked on every curve: drift, rollbacks and promotions; swaps are too many, and have curves of their own."""
    marked = [
        ("Drift", "red", "sum by (signal) (increase(headrace_drift_alerts_total[1m])) > 0", "drift: {{signal}}"),
        ("Rollback", "orange", 'sum(increase(headrace_releases_total{action="rollback"}[1m])) > 0', "rolled back"),
        ("Promotion", "blue", 'sum(increase(headrace_releases_total{action="promote"}[1m])) > 0', "promoted"),
    ]
    return [
        {
            "name": name,
            "datasource": DATASOURCE,
            "enable": True,
            "iconColor": color,
            "expr": expression,
            "titleFormat": title,
            "step": "15s",
        }
        for name, color, expression, title in marked
    ]


if __name__ == "__main__":
    FILE.write_text(rendered())
