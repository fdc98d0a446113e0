"""`headrace drift ...`: what was told of drift, as a table and as a page. Commands import what they need when they run."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.deploy.settings import Settings

if TYPE_CHECKING:
    from headrace.deploy.drift_span import DriftSpan

drift_app = typer.Typer(help="What was seen of drift, and what was done about it.", no_args_is_help=True)

From = Annotated[str, typer.Option("--from", metavar="TIME", help="ISO 8601, milliseconds since 1970, or how long ago, such as '2h ago'.")]
To = Annotated[str, typer.Option("--to", metavar="TIME", help="Likewise; the present where not given.")]
Kafka = Annotated[str | None, typer.Option("--kafka", metavar="ADDR", help="Broker as host:port; HEADRACE_KAFKA where not given.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was found to this file as JSON.")]
Plain = Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")]


@drift_app.command("report")
def report(
    html: Annotated[Path, typer.Option("--html", metavar="FILE", dir_okay=False, help="Write the report to this file.")],
    from_: From = "24h ago",
    to: To = "now",
    kafka: Kafka = None,
    json_file: JsonFile = None,
    plain: Plain = False,
) -> None:
    """Write a report to send to a colleague: quality over time, each episode with causes and reactions, versions and decisions.

    The page needs nothing else: no network, no scripts. It looks well in light and dark, and on paper. Read are drift-alerts,
    drift-state, model-updates, model-releases and release-outcomes, as far back as the broker keeps them.
    """
    from headrace.deploy.drift_page import page, summary
    from headrace.schemas.wire import now_ms

    span = _read(kafka, from_, to, plain=plain)
    html.write_text(page(span, now_ms()), encoding="utf-8")
    typer.echo(summary(span))
    typer.echo(f"written to {html}")
    _write(json_file, span)


@drift_app.command("list")
def list_episodes(from_: From = "24h ago", to: To = "now", kafka: Kafka = None, json_file: JsonFile = None, plain: Plain = False) -> None:
    """List the episodes of drift in a span, one a line: begun, state, severity, signal, from and to, first cause, reaction."""
    from headrace.deploy.drift_words import level, stamp

    span = _read(kafka, from_, to, plain=plain)
    for episode in span.episodes:
        first, newest = episode.first, episode.newest
        cause = newest.causes[0].signal if newest.causes else "-"
        done = ", ".join(f"{reaction.name} {reaction.state}" for reaction in newest.reactions) or "only told"
        moved = f"{level(first.level_before)} -> {level(first.level_after)}"
        line = f"{stamp(first.created_ms)}  {newest.state:8}  {first.severity:8}  {first.signal:24}  {moved:18}  {cause:20}  {done}"
        typer.echo("".join(character if character.isprintable() else "?" for character in line))
    if not span.episodes:
        typer.echo("no drift was told in this span")
    _write(json_file, span)


def _read(kafka: str | None, from_: str, to: str, *, plain: bool) -> "DriftSpan":
    from headrace.deploy.counting import counting
    from headrace.deploy.drift_span import parse_moment, read_span
    from headrace.schemas.wire import now_ms
    from headrace.streams.broker import require_broker

    bootstrap = kafka or Settings.load().kafka
    now = now_ms()
    span = parse_moment("--from", from_, now), parse_moment("--to", to, now)
    require_broker(bootstrap)
    with counting("records", plain or not sys.stderr.isatty()) as show:
        return read_span(bootstrap, *span, lambda done, total: show(done, total, ""))


def _write(file: Path | None, span: "DriftSpan") -> None:
    """Write what was found as JSON: each episode's first and newest alert, and the figures of the span."""
    from msgspec import to_builtins

    if file is None:
        return
    found = {
        "from_ms": span.from_ms,
        "to_ms": span.to_ms,
        "hit_rate": span.hit_rate,
        "lists_with_next_step": span.answered,
        "records": span.counts,
        "versions": sorted({update.version for update in span.updates}),
        "releases": to_builtins(span.releases),
        "episodes": [
            {"episode_id": one.episode_id, "alerts": one.alerts, "first": to_builtins(one.first), "newest": to_builtins(one.newest)}
            for one in span.episodes
        ],
        "signals": to_builtins(span.states),
    }
    file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
