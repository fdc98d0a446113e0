"""Monitoring as code: dashboards, rules and settings name only what is really exported, and the tools themselves accept them."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from promql import labels_grouped_by, metrics_named

from headrace.deploy.grafana import dashboards
from headrace.deploy.parts import PARTS
from headrace.deploy.processes import free_port
from headrace.streams.metrics import GOAL_BOUNDS_S, MetricsServer

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
# What Prometheus itself adds to each series, and the alert states that it exports.
TARGET_LABELS = {"job", "instance", "part"}
OF_PROMETHEUS = {"up": TARGET_LABELS, "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity"}}


def tool(name: str) -> str:
    """Return the path of a tool; skip the test without it, unless this is CI, where nothing may be skipped."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not on PATH, and CI skips nothing; install Prometheus")
    if found is None:
        pytest.skip(f"{name} is not on PATH")
    return found


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """The labels of each series that some part exports, by its full name. Every module of ours that makes metrics is loaded."""
    for file in sorted((ROOT / "streams").rglob("*.py")):
        if re.search(r"^from prometheus_client import", file.read_text(), re.M):
            importlib.import_module(".".join(["headrace", *file.relative_to(ROOT).with_suffix("").parts]))
    found: dict[str, set[str]] = {}
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    for collector in REGISTRY._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            for suffix in suffixes[collector._type]:
                found[f"{collector._name}{suffix}"] = {*collector._labelnames, *({"le"} if suffix == "_bucket" else ())}
        else:
            found |= {sample.name: set(sample.labels) for family in collector.collect() for sample in family.samples}
    return found


@pytest.fixture(scope="module")
def recorded() -> dict[str, set[str]]:
    """The labels of each recorded series."""
    found: dict[str, set[str]] = {}
    for rule in RULES:
        if "record" in rule:
            found.setdefault(rule["record"], set()).update(labels_grouped_by(rule["expr"]), rule.get("labels", {}))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Yield place and expression of everything that dashboard and rules ask."""
    board = dashboards.dashboard()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", filled(target["expr"])
    for mark in board["annotations"]["list"]:
        yield f"mark {mark['name']}", filled(mark["expr"])
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]


def filled(expression: str) -> str:
    return expression.replace("$__rate_interval", "1m").replace("$part", ".*")


def test_what_an_expression_names_is_read_off_it() -> None:
    expression = (
        'sum by (part, le) (rate(a_bucket{le="0.25",kind=~"x{y"}[5m])) / on (part) group_left () b_total offset 10m > 2 or c:d:sum unless e'
    )
    assert list(metrics_named(expression)) == [("a_bucket", {"le", "kind"}), ("b_total", set()), ("c:d:sum", set()), ("e", set())]
    assert labels_grouped_by(expression) == {"part", "le"}


@pytest.mark.parametrize(("place", "expression"), expressions())
def test_every_metric_and_label_that_is_asked_for_is_exported(
    place: str, expression: str, exported: dict[str, set[str]], recorded: dict[str, set[str]]
) -> None:
    known = exported | recorded | OF_PROMETHEUS
    named = list(metrics_named(expression))
    assert named, place
    for metric, matched in named:
        assert metric in known, f"{place} asks for {metric}, which no part exports"
        assert matched <= known[metric] | TARGET_LABELS, f"{place} matches on labels that {metric} does not have"
    grouped = set().union(*(known[metric] for metric, _ in named)) | TARGET_LABELS
    assert labels_grouped_by(expression) <= grouped, f"{place} groups by labels that none of its metrics has"


def test_the_bounds_of_the_goals_are_bounds_of_the_histograms() -> None:
    bounds = {bound for rule in RULES for bound in re.findall(r'le="([^"]+)"', rule["expr"])}
    assert bounds == {str(bound) for bound in GOAL_BOUNDS_S}


def test_the_dashboard_file_is_what_the_code_makes() -> None:
    assert dashboards.FILE.read_text() == dashboards.rendered(), "write it anew: python -m headrace.deploy.grafana.dashboards"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboards.dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    sources = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    asked = {panel["datasource"]["uid"] for panel in dashboards.dashboard()["panels"] if "datasource" in panel}
    assert asked <= {source["uid"] for source in sources}
    assert {urllib.parse.urlsplit(source["url"]).hostname for source in sources} <= set(SERVICES)


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_says_how_bad_it_is_and_where_to_read_on_and_is_tested(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    document, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / document).read_text(), re.M)
    assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert f"alertname: {rule['alert']}\n" in (PROMETHEUS / "tests/rules_test.yml").read_text()


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_scraped_at_the_port_on_which_it_answers(part: str) -> None:
    [job] = [job for job in prometheus_settings()["scrape_configs"] if job["job_name"] == "headrace"]
    targets = {static["labels"]["part"]: static["targets"] for static in job["static_configs"]}
    assert targets[part] == [f"{part}:{8000 if part == 'gateway' else 9100}"]


def test_what_prometheus_talks_to_runs_in_compose() -> None:
    settings = prometheus_settings()
    hosts = {
        target.rpartition(":")[0] for job in settings["scrape_configs"] for static in job["static_configs"] for target in static["targets"]
    }
    hosts |= {
        target.rpartition(":")[0]
        for peer in settings["alerting"]["alertmanagers"]
        for s in peer["static_configs"]
        for target in s["targets"]
    }
    assert hosts - {"127.0.0.1"} <= set(SERVICES)


def test_alertmanager_routes_lead_to_receivers_and_addresses_stand_in_files() -> None:
    text = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text()
    settings = yaml.safe_load(text)
    receivers = {receiver["name"]: receiver for receiver in settings["receivers"]}
    routes = [settings["route"], *settings["route"]["routes"]]
    assert {route["receiver"] for route in routes} == set(receivers)
    assert {key for receiver in receivers.values() for key in receiver} == {"name", "webhook_configs", "slack_configs"}
    assert [receiver["webhook_configs"][0]["url_file"] for receiver in receivers.values() if "webhook_configs" in receiver]
    assert [receiver["slack_configs"][0]["api_url_file"] for receiver in receivers.values() if "slack_configs" in receiver]
    assert not re.search(r"(?<!_)url: |https?://(?!127\.0\.0\.1)", text)
    named = set(re.findall(r"Headrace\w+", " ".join(str(rule) for rule in settings["inhibit_rules"])))
    assert {name for name in named if name not in ("HeadraceDrift", "HeadraceFreshness")} <= {rule["alert"] for rule in ALERTS}


def test_promtool_accepts_settings_and_rules_and_the_rules_do_what_they_say() -> None:
    check = tool("promtool")
    run(check, "check", "config", str(PROMETHEUS / "prometheus.yml"))
    run(check, "test", "rules", str(PROMETHEUS / "tests/rules_test.yml"))


def test_promtool_accepts_what_a_part_exports(exported: dict[str, set[str]]) -> None:
    text = scraped()
    assert {name for name in exported if name.startswith("headrace_")} - set(re.findall(r"^# TYPE (\S+)", text, re.M))
    done = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("exported")
def test_a_real_prometheus_answers_everything_that_is_asked(tmp_path: Path) -> None:
    server = MetricsServer("feature-worker", "127.0.0.1", 0)
    server.ready.set()
    with prometheus(tmp_path, server.port) as ask:
        deadline = time.monotonic() + 30
        while not ask("headrace_ready == 1"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for _, expression in expressions():
            ask(expression)
        assert ask('headrace_build_info{component="feature-worker"}')[0]["metric"]["part"] == "feature-worker"


@contextmanager
def prometheus(folder: Path, port: int) -> Iterator[Any]:
    """Run a Prometheus with our rules that scrapes a part at `port`; give a function that returns the result of a query."""
    shutil.copy(PROMETHEUS / "rules.yml", folder)
    part = {"targets": [f"127.0.0.1:{port}"], "labels": {"part": "feature-worker"}}
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "headrace", "static_configs": [part]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    command = [
        tool("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield lambda query: asked(address, query)
        finally:
            process.terminate()
            process.wait(10)


def asked(address: str, query: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10) as answer:
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 503:
            # It reads what it has stored.
            return []
        raise AssertionError(f"{query}: {error.read().decode()}") from None
    except urllib.error.URLError:
        # It is not up yet.
        return []
    assert told["status"] == "success"
    return told["data"]["result"]


def scraped() -> str:
    server = MetricsServer("feature-worker", "127.0.0.1", 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def prometheus_settings() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    return settings


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_each_part_as_a_process_exports_who_it_is_and_how_it_is(tmp_path: Path) -> None:
    """The text that promtool reads above is that of a process that has done nothing else."""
    program = (
        "import urllib.request; from headrace.streams import lifetime; from headrace.streams.metrics import MetricsServer; "
        "lifetime.log_as_json('archiver'); port = MetricsServer('archiver', '127.0.0.1', 0).port; "
        "print(urllib.request.urlopen(f'http://127.0.0.1:{port}/metrics').read().decode())"
    )
    text = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    for wanted in (
        r'headrace_build_info\{component="archiver",python="3\.\d+\.\d+",version="[\d.]+"\} 1\.0',
        r"headrace_ready 0\.0",
        r'headrace_log_messages_total\{level="error"\} 0\.0',
        r"process_cpu_seconds_total \d",
        r"process_resident_memory_bytes \d",
    ):
        assert re.search(rf"^{wanted}", text, re.M), wanted
