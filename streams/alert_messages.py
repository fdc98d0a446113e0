"""Drift alerts as others understand them: in the form of Alertmanager's API (v2), and as text for a chat."""

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct, field

from headrace.schemas import DriftAlert
from headrace.schemas.drift_alerts import DriftCause, DriftReaction

ALERT_NAME = "HeadraceDrift"
RUNBOOK = "docs/monitoring.md#headracedrift"
SHOWN_CAUSES = 5
_SEVERITIES = ("info", "warning", "critical")
_MARKS = {"info": "ℹ️", "warning": "⚠️", "critical": "🔥"}


class AlertmanagerAlert(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One alert as `POST /api/v2/alerts` takes it. Alerts of the same labels are one, whatever the annotations say."""

    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: str
    ends_at: str
    generator_url: str = field(default="", name="generatorURL")


def alertmanager_alert(alert: DriftAlert, starts_ms: int, ends_ms: int) -> AlertmanagerAlert:
    """Return an alert that burns from `starts_ms` to `ends_ms`, milliseconds since 1970; one that ends in the past is resolved."""
    picture = alert.picture or ""
    annotations = {
        "summary": summary(alert),
        "description": description(alert),
        "reactions": "; ".join(map(_reaction, alert.reactions)) or alert.reaction,
        "model_version": str(alert.model_version),
        "runbook": RUNBOOK,
    }
    if picture:
        annotations["picture"] = picture
    link = picture if picture.startswith(("http://", "https://")) else ""
    return AlertmanagerAlert(labels(alert), annotations, _time(starts_ms), _time(max(starts_ms, ends_ms)), link)


def labels(alert: DriftAlert) -> dict[str, str]:
    """Return what an alert is known by: the same from the start of an episode to its end, unless its severity changes."""
    named = {
        "alertname": ALERT_NAME,
        "signal": alert.signal,
        "severity": alert.severity,
        "kind": alert.kind,
        "episode": episode_of(alert),
        "segment": _segment(alert.segment),
    }
    return {name: value for name, value in named.items() if value}


def episode_of(alert: DriftAlert) -> str:
    """Return the episode that an alert belongs to; one without is an episode of its own."""
    return alert.episode_id or alert.alert_id


def summary(alert: DriftAlert) -> str:
    """Return one line: what moved, and how it stands."""
    where = f" ({_segment(alert.segment)})" if alert.segment else ""
    others = f" and {len(alert.signals) - 1} more" if len(alert.signals) > 1 else ""
    if alert.state == "resolved":
        return f"{alert.signal}{where}{others}: drift is over, at {alert.level_after:.4g}"
    return f"{alert.signal}{where}{others}: {alert.kind} drift from {alert.level_before:.4g} to {alert.level_after:.4g}"


def description(alert: DriftAlert) -> str:
    """Return some sentences: how it was seen, since when, how sure, what explains it."""
    told = [f"{alert.detector} saw it over the newest {alert.window} of {alert.observations} observations."]
    if alert.since_ms is not None:
        told.append(f"It began at {_time(alert.since_ms)} by the events' own time.")
    if alert.p_value is not None:
        told.append(f"Where nothing had changed, this would be seen with a chance of {alert.p_value:.2g}.")
    if alert.known_episode is not None:
        told.append(f"It looks like episode {alert.known_episode}, which is known.")
    if alert.causes:
        told.append(f"Strongest causes: {', '.join(map(_cause, alert.causes[:SHOWN_CAUSES]))}.")
    return " ".join(told)


def worth_telling(alert: DriftAlert, before: DriftAlert | None) -> bool:
    """Whether people should read of it: the start, the end, and a rise of the severity; that it goes on is no news."""
    if alert.state != "ongoing" or before is None:
        return True
    return _SEVERITIES.index(alert.severity) > _SEVERITIES.index(before.severity)


def slack_text(alert: DriftAlert) -> str:
    """Return the text of a chat message in Slack's markup, of which nothing in the alert can become a part."""
    mark = "✅" if alert.state == "resolved" else _MARKS[alert.severity]
    lines = [
        f"{mark} *{_plain(summary(alert))}*",
        f"_{alert.state}, {alert.severity}, model version {alert.model_version}, episode {_plain(episode_of(alert))}_",
        _plain(description(alert)),
        f"Done: {_plain('; '.join(map(_reaction, alert.reactions)) or alert.reaction)}",
    ]
    if alert.picture and alert.picture.startswith(("http://", "https://")):
        lines.append(f"<{_plain(alert.picture)}|picture>")
    return "\n".join(lines)


def _cause(cause: DriftCause) -> str:
    where = f" ({_segment(cause.segment)})" if cause.segment else ""
    return f"{cause.signal}{where} {cause.level_before:.4g} to {cause.level_after:.4g}, {cause.share:.0%}"


def _reaction(reaction: DriftReaction) -> str:
    stages = (("before", reaction.quality_before), ("at", reaction.quality_at), ("after", reaction.quality_after))
    measured: Sequence[str] = [f"{quality:.4g} {stage}" for stage, quality in stages if quality is not None]
    return f"{reaction.name} {reaction.state}" + (f" (hit rate {', '.join(measured)})" if measured else "")


def _segment(segment: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(segment.items()))


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
