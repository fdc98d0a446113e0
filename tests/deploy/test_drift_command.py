"""`headrace drift report` and `headrace drift list`, on a real Kafka that tells of two episodes."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec import Struct
from typer.testing import CliRunner

from headrace.deploy.cli import app
from headrace.deploy.drift_page import page
from headrace.deploy.drift_span import DriftSpan, parse_moment
from headrace.deploy.row_commands import NotATime
from headrace.schemas import DriftAlert, DriftState, ModelRelease, ModelUpdate, ReleaseOutcomes, VersionOutcome, encode, headers
from headrace.schemas.drift_alerts import DriftCause, DriftReaction
from headrace.schemas.topics import BY_NAME
from headrace.schemas.wire import now_ms
from headrace.streams import kafka as clients

NASTY = "<script>alert(1)</script>"
VOID = {"meta", "link", "br", "rect", "line", "circle", "path"}


class Page(HTMLParser):
    """Checks that tags close in order, and gathers the text and the names of tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def alert(number: int, signal: str, state: str, at_ms: int, **more: object) -> DriftAlert:
    fields = {
        "alert_id": f"alert-{number}-{state}",
        "signal": signal,
        "detector": "windows",
        "severity": "critical",
        "level_before": 2.0,
        "level_after": 4.0,
        "window": 512,
        "observations": 9000,
        "model_version": 7,
        "event_time_ms": at_ms,
        "created_ms": at_ms,
        "reaction": "learning rates are doubled",
        "episode_id": f"episode-{number}",
        "state": state,
        "p_value": 1e-9,
        "causes": [
            DriftCause(signal=f"category={NASTY}", share=0.75, level_before=0.1, level_after=0.4, segment={"category": NASTY}),
            DriftCause(signal="price", share=0.25, level_before=3.0, level_after=4.0),
        ],
    }
    return DriftAlert(**(fields | more))  # type: ignore[arg-type]


def told(at_ms: int) -> list[tuple[str, str, Struct]]:
    reaction = DriftReaction(name="learn_faster", state="kept", quality_before=0.31, quality_at=0.12, quality_after=0.29)
    update = {"model": "next-item", "kind": "snapshot", "base_version": 7, "weights_sha256": "ab" * 32, "base_sha256": "ab" * 32}
    update |= {"payload_sha256": "ab" * 32, "payload_bytes": 1, "payload_parts": 1, "payload_offset": 0, "trigger": "drift"}
    update |= {"feature_service": "s", "learned_events": 1, "learned_offsets": {}, "learned_published_ms": [], "holdout_loss": None}
    release = {"model": "next-item", "sequence": 1, "action": "rollback", "stable_version": 6, "stable_sha256": "ab" * 32}
    release |= {"withdrawn_to": 7, "trial_share": 0.1, "reason": f"fewer hits {NASTY}", "decided_by": "release-manager"}
    outcome = VersionOutcome(version=7, lane="trial", answered=1000, hits=310, reciprocal_ranks=100.0)
    return [
        ("drift-alerts", "loss", alert(1, "prequential_loss", "started", at_ms - 3000)),
        ("drift-alerts", "loss", alert(1, "prequential_loss", "resolved", at_ms - 1000, reactions=[reaction], level_after=2.1)),
        ("drift-alerts", "price", alert(2, "price", "started", at_ms - 500, severity="warning")),
        ("model-updates", "m", ModelUpdate(version=7, created_ms=at_ms - 900, live_holdout_loss=None, **update)),  # type: ignore[arg-type]
        ("model-releases", "m", ModelRelease(decided_ms=at_ms - 800, **release)),  # type: ignore[arg-type]
        (
            "release-outcomes",
            "m",
            ReleaseOutcomes(model="next-item", instance="r", started_ms=at_ms - 2000, ended_ms=at_ms - 1000, versions=[outcome]),
        ),
        (
            "drift-state",
            "price",
            DriftState(
                signal="price",
                detector="windows",
                state="drifting",
                level=4.0,
                baseline=3.0,
                histogram_then=[0.5, 0.5, 0.0],
                histogram_now=[0.1, 0.2, 0.7],
                edges=[0.0, 1.0, 2.0, 3.0],
                reported_ms=at_ms,
            ),
        ),
    ]


@pytest.fixture
def told_kafka(fresh_topics: str) -> str:
    at_ms = now_ms()
    producer = clients.producer(fresh_topics, "test")
    for topic, key, message in told(at_ms):
        tags = headers(message, event_id="e", time_ms=at_ms, source="test")
        producer.produce(BY_NAME[topic].name, encode(message), key, headers=tags)
    assert producer.flush(10.0) == 0
    return fresh_topics


def test_the_report_shows_each_episode_and_escapes_what_a_shop_has_named(told_kafka: str, tmp_path: Path) -> None:
    html, found = tmp_path / "report.html", tmp_path / "found.json"
    command = ["drift", "report", "--from", "1h ago", "--html", str(html), "--json", str(found), "--kafka", told_kafka, "--plain"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2 episodes of drift, 1 of which still goes on; the gravest: prequential_loss." in result.output
    assert "Lists held 31.0% of 1,000 next steps; 1 version went live, with 1 rollback." in result.output
    text = html.read_text()
    shown = Page(text)
    assert shown.open == []
    assert "script" not in shown.tags
    assert NASTY not in text
    assert any(NASTY in part for part in shown.text)
    for wanted in ('id="episode-1"', 'id="episode-2"', "learn_faster", "31.0%", "12.0%", "29.0%", "going on", "resolved"):
        assert wanted in text
    assert not any(word in text for word in ("http://", "https://", "url(", "@import"))
    told = json.loads(found.read_text())
    assert [(one["episode_id"], one["alerts"]) for one in told["episodes"]] == [("episode-1", 2), ("episode-2", 1)]
    assert (told["hit_rate"], told["versions"]) == (0.31, [7])


def test_episodes_are_listed_one_a_line(told_kafka: str) -> None:
    result = CliRunner().invoke(app, ["drift", "list", "--from", "1h ago", "--kafka", told_kafka])
    assert result.exit_code == 0, result.output
    first, second = result.output.splitlines()
    assert ("resolved" in first, "prequential_loss" in first, "learn_faster kept" in first) == (True, True, True)
    assert ("started" in second, "price" in second, "only told" in second) == (True, True, True)


def test_a_span_without_anything_is_a_page_that_says_so() -> None:
    text = page(DriftSpan(0, 3_600_000), 7_200_000)
    assert Page(text).open == []
    assert "No drift was told in this span. Nobody reported how lists did; 0 versions went live, with no rollback." in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("now", 10_000_000), ("2h ago", 2_800_000), ("90m ago", 4_600_000), ("1.5 hours ago", 4_600_000), ("1970-01-01T01:00Z", 3_600_000)],
)
def test_moments_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert parse_moment("--from", text, 10_000_000) == expected


def test_what_is_no_moment_is_refused_with_what_can_be_read() -> None:
    with pytest.raises(NotATime, match=r"--from: .*'yesterdayish'; `2h ago`"):
        parse_moment("--from", "yesterdayish", 0)
