"""`headrace models ...`: the model's versions, and an operator's word on them. Commands import what they need when they run."""

import getpass
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.deploy.settings import Settings

if TYPE_CHECKING:
    from headrace.schemas import ModelRelease
    from headrace.streams.model_list import ModelList, ModelVersion
    from headrace.streams.release_requests import ReleaseRequests

models_app = typer.Typer(
    help="The model's versions: which there are, who is answered by which, and an operator's word on it.", no_args_is_help=True
)

Kafka = Annotated[str | None, typer.Option("--kafka", metavar="ADDR", help="Broker as host:port; HEADRACE_KAFKA where not given.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result to this file as JSON.")]
Version = Annotated[int, typer.Argument(min=1, help="A version's number.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the decision.")]


@models_app.command("list")
def list_models(
    kafka: Kafka = None,
    count: Annotated[int, typer.Option("--count", min=1, max=200, help="How many of the newest versions are shown.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """List the newest versions, who is answered by which, and what the gate refused.

    A version's standing: stable (answers whoever is not on trial), newest (answers the others), on trial (between the two), passed
    (before the stable one), withdrawn (by a rollback). `whole` ones can be promoted. Hits are of lists that met a next step.
    """
    found = _read(kafka)
    for line in told(found, count):
        typer.echo(line)
    quarantined = _quarantined()
    for one in quarantined[:count]:
        typer.echo(f"quarantined {one['name']}: {one['check']}: {one['reason']}")
    _write(json_file, _builtins(found) | {"quarantined": quarantined})


@models_app.command("show")
def show_model(
    version: Annotated[str, typer.Argument(help="A version's number, or the name of a quarantined candidate.")],
    kafka: Kafka = None,
    json_file: JsonFile = None,
) -> None:
    """Show all that is known of one version, or of a candidate that the gate refused. Exit code 1 where there is none such."""
    if re.fullmatch(r"\d+", version):
        shown = next((_builtins(one) for one in _read(kafka).versions if one.version == int(version)), None)
    else:
        shown = next((one for one in _quarantined() if one["name"] == version), None)
    if shown is None:
        typer.echo(f"there is no version or quarantined candidate {version!r} among the newest; see: headrace models list", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps(shown, indent=2))
    _write(json_file, shown)


@models_app.command("promote")
def promote(version: Version, reason: Reason = "promoted by hand", kafka: Kafka = None, json_file: JsonFile = None) -> None:
    """Make a version the stable one. It must have been published whole and not be withdrawn. Waits until the decision counts."""
    _decide(kafka, json_file, lambda requests: requests.promote(version, reason))


@models_app.command("rollback")
def rollback(
    to: Annotated[
        int | None, typer.Option("--to", min=1, metavar="VERSION", help="Go back to this one; the stable one where not given.")
    ] = None,
    reason: Reason = "rolled back by hand",
    kafka: Kafka = None,
    json_file: JsonFile = None,
) -> None:
    """Answer all shoppers by the stable version at once, and withdraw all later ones for good; learning goes on from there.

    Where the stable version is itself bad, name an earlier one with --to. Waits until the decision counts.
    """
    _decide(kafka, json_file, lambda requests: requests.rollback(reason, to))


@models_app.command("pin")
def pin(reason: Reason = "pinned by hand", kafka: Kafka = None, json_file: JsonFile = None) -> None:
    """Let nothing but the stable version answer until `unpin`. Learning goes on unseen; nothing is promoted or rolled back."""
    _decide(kafka, json_file, lambda requests: requests.pin(reason))


@models_app.command("unpin")
def unpin(reason: Reason = "unpinned by hand", kafka: Kafka = None, json_file: JsonFile = None) -> None:
    """Let the newest version answer its share of shoppers again."""
    _decide(kafka, json_file, lambda requests: requests.unpin(reason))


def told(found: "ModelList", count: int) -> list[str]:
    """Return the list of versions as lines to read."""
    if found.decided:
        share = "pinned: all shoppers get it" if found.pinned else f"{found.trial_share:.0%} of shoppers get the newest"
        lines = [f"stable version {found.stable_version}, newest {found.newest_version}; {share}"]
        newest = found.decisions[0]
        lines.append(f"last decision: {newest.action} by {newest.decided_by} at {_time(newest.decided_ms)}: {newest.reason}")
    else:
        lines = [f"no decision yet: the newest version, {found.newest_version}, answers everyone"]
    lines.append(f"{'version':>9} {'standing':10} {'whole':5} {'created':19} {'trigger':7} {'learned':>9} {'loss':>8}  lists")
    for one in found.versions[:count]:
        loss = "-" if one.holdout_loss is None else f"{one.holdout_loss:.4f}"
        whole = "yes" if one.whole else ""
        lines.append(
            f"{one.version:9} {one.standing:10} {whole:5} {_time(one.created_ms):19} {one.trigger:7} {one.learned_events:9} {loss:>8}  "
            + _outcomes(one)
        )
    return lines


def _outcomes(one: "ModelVersion") -> str:
    return "; ".join(
        f"{seen.lane}: {seen.hit_rate:.1%} of {seen.answered} hit" + (f", {seen.clicks} clicks" if seen.clicks else "")
        for seen in one.outcomes
    )


def _decide(kafka: str | None, json_file: Path | None, ask: "Callable[[ReleaseRequests], ModelRelease]") -> None:
    from headrace.streams.broker import require_broker
    from headrace.streams.release_requests import ReleaseRequests
    from headrace.streams.signing import SigningKey, TrustedKeys

    loaded = Settings.load()
    bootstrap = kafka or loaded.kafka
    require_broker(bootstrap)
    who = re.sub(r"[^A-Za-z0-9._-]", "-", getpass.getuser())[:100] or "operator"
    release = ask(ReleaseRequests(bootstrap, who, SigningKey.load(loaded.signing_key), TrustedKeys(loaded.trusted_keys)))
    withdrawn = f"; versions up to {release.withdrawn_to} are withdrawn" if release.action == "rollback" else ""
    typer.echo(f"{release.action}: version {release.stable_version} is the stable one (decision {release.sequence}){withdrawn}")
    _write(json_file, _builtins(release))


def _read(kafka: str | None) -> "ModelList":
    from headrace.streams.broker import require_broker
    from headrace.streams.model_list import read_models
    from headrace.streams.signing import TrustedKeys

    loaded = Settings.load()
    require_broker(kafka or loaded.kafka)
    return read_models(kafka or loaded.kafka, TrustedKeys(loaded.trusted_keys))


def _quarantined() -> list[dict[str, object]]:
    """Return what the gate refused, the newest first, each with its name."""
    from headrace.streams.weight_store import WeightStore

    store = WeightStore(Settings.load().weight_store)
    if not store.files("quarantine"):
        return []
    from headrace.streams.quarantine import read_quarantine

    return [{"name": Path(one.batch_uri).stem, **_builtins(one)} for one in read_quarantine(store)]


def _write(json_file: Path | None, content: object) -> None:
    if json_file is not None:
        json_file.write_text(json.dumps(content, indent=2) + "\n")


def _builtins(message: object) -> dict[str, object]:
    from msgspec import to_builtins

    found: dict[str, object] = to_builtins(message)
    return found


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
