"""`headrace features ...`: the Feast repository, and the rows as a whole. Commands import what they need when they run."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headrace.deploy.settings import Settings, masked

if TYPE_CHECKING:
    from headrace.deploy.history_command import HistoryReport

features_app = typer.Typer(help="The Feast repository, and the rows of the online store as a whole.", no_args_is_help=True)

Redis = Annotated[str | None, typer.Option("--redis", metavar="URL", help="Redis as a URL; HEADRACE_REDIS where not given.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result to this file as JSON.")]
Plain = Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")]
Yes = Annotated[bool, typer.Option("--yes", help="Empty the database without being asked.")]
Kafka = Annotated[str | None, typer.Option("--kafka", metavar="ADDR", help="Broker as host:port; HEADRACE_KAFKA where not given.")]


@features_app.command("apply")
def apply_features(
    registry: Annotated[Path | None, typer.Option(help="Feast's registry; in HEADRACE_HOME where not given.")] = None, redis: Redis = None
) -> None:
    """Write the entities, feature views and feature services into Feast's registry."""
    from headrace.deploy.feature_repository import apply

    loaded = Settings.load()
    place = registry or loaded.home / "feast" / "registry.db"
    place.parent.mkdir(parents=True, exist_ok=True)
    for name in apply(place, redis or loaded.redis, loaded.archive):
        typer.echo(name)
    typer.echo(f"written to {place}")


@features_app.command("document")
def document_features(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Where it is written.")] = Path("docs/features.md"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where the file is not as it would be written.")] = False,
) -> None:
    """Write the table of all features: meaning, unit, type, window or half-life, default, and how exact they are.

    It is made from the same tables of columns as Feast's definitions. Run it in the project's folder after a change of these.
    """
    from headrace.features.document import document

    text = document()
    if check:
        if not to.exists() or to.read_text(encoding="utf-8") != text:
            typer.echo(f"{to} is stale; write it with: headrace features document --to {to}", err=True)
            raise typer.Exit(1)
        typer.echo(f"{to} is up to date")
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    typer.echo(f"written to {to}")


@features_app.command("rebuild")
def rebuild_features(
    kafka: Kafka = None,
    redis: Redis = None,
    from_events: Annotated[bool, typer.Option("--from-events", help="Read all retained events again, not those of the last day.")] = False,
    yes: Yes = False,
    json_file: JsonFile = None,
    plain: Plain = False,
) -> None:
    """Empty the Redis database and fill it again from Kafka: rows from the changelogs, then the events of the last day.

    Feature workers that run restore the rows themselves, and this command watches them; where none runs, it does their work until
    all is read. Rows that other feature definitions made are not brought back: then all retained events are read. Events published
    meanwhile are not lost. Until the rows are back, whoever reads them finds none or older ones.
    """
    from msgspec import to_builtins

    from headrace.deploy.row_commands import keys_in, rebuild_rows, told

    loaded = Settings.load()
    url = redis or loaded.redis
    keys = keys_in(url)
    if not yes:
        typer.confirm(f"Empty the database {masked(url)}, which holds {keys} keys, and fill it again from Kafka?", abort=True)
    done = rebuild_rows(kafka or loaded.kafka, url, from_events=from_events, plain=plain or not sys.stderr.isatty())
    typer.echo(f"rebuilt by {done.by} in {done.seconds:.1f} s: {told(done.after)} (before: {told(done.before)})")
    if json_file is not None:
        json_file.write_text(json.dumps(to_builtins(done), indent=2) + "\n")


@features_app.command("backfill")
def backfill_features(
    events: Annotated[list[str], typer.Argument(help="Files or folders of JSON lines or Parquet, data files, or URLs that Spark knows.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where the rows go: a folder, or a URL that Spark knows.")],
    master: Annotated[
        str | None, typer.Option(help="Where Spark runs, such as local[2] or spark://host:7077; all cores of this machine if not given.")
    ] = None,
    versions: Annotated[Literal["last", "all"], typer.Option(help="Which of a row to write; all: one after each event.")] = "last",
    form: Annotated[Literal["auto", "json", "parquet"], typer.Option("--format", help="What EVENTS are; auto: look.")] = "auto",
    json_file: JsonFile = None,
    plain: Plain = False,
) -> None:
    """Fold a history of clicks and purchases on Spark, with the feature worker's own functions, into Parquet for Feast.

    EVENTS are as headrace publish reads them and headrace tail --json-lines prints them; folded in the order given. Where each tells its
    place in Kafka (source, offset, published_ms) that is used, else one is made up: a shopper's own partition, a running number, the
    event's time. Rows land in FOLDER/VIEW/day=YYYY-MM-DD, as the archive has them. Lines that are no events are left out and counted.
    Needs the package's extra 'spark', and Java 17 or newer; docs/backfill.md tells more.
    """
    from dataclasses import asdict

    from headrace.deploy.spark_backfill import backfill

    done = backfill(events, out, versions=versions, form=form, master=master, plain=plain or not sys.stderr.isatty())
    for reason in done.reasons:
        typer.echo(f"left out: {reason}", err=True)
    typer.echo(f"{done.events} events folded on {done.master} in {done.seconds:.1f} s, their places {done.places}")
    typer.echo(f"{done.counted} counted, {done.repeated} repeated, {done.late} late, {done.replayed} there twice, {done.refused} left out")
    typer.echo("rows written: " + ", ".join(f"{count} of {view}" for view, count in done.rows.items()) + f"; they are in {done.out}")
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(done) | {"events_per_s": done.rate}, indent=2) + "\n")


@features_app.command("switch")
def switch_features(
    database: Annotated[int, typer.Argument(min=0, help="The number of the Redis database with the shadow store.")],
    kafka: Kafka = None,
    redis: Redis = None,
    max_behind: Annotated[int, typer.Option(min=0, help="How many events may have come since the shadow was made.")] = 10_000,
    json_file: JsonFile = None,
    plain: Plain = False,
) -> None:
    """Make the rows of a shadow store (see headrace replay) the live ones, in one step.

    The shadow must be complete and made by this version's feature definitions. Its rows go to the changelogs first. Workers of the
    same definitions catch up with what came since; workers of others end, and are to be replaced by this version. The rows that
    were live lie in the other database afterwards, until it is emptied: the same command switches back.
    """
    from msgspec import to_builtins

    from headrace.deploy.row_commands import switch_rows, told

    loaded = Settings.load()
    done = switch_rows(
        kafka or loaded.kafka, redis or loaded.redis, database, max_behind=max_behind, plain=plain or not sys.stderr.isatty()
    )
    typer.echo(f"before: {told(done.before)}, definitions {done.definitions_before}; these lie in database {database} now")
    typer.echo(f"after:  {told(done.after)}, definitions {done.definitions}; {done.behind} events are left for the workers to read")
    if done.users_left_behind or done.items_left_behind:
        typer.echo(f"without events in the shadow, and so without rows now: {done.users_left_behind} users, {done.items_left_behind} items")
    if json_file is not None:
        json_file.write_text(json.dumps(to_builtins(done), indent=2) + "\n")


@features_app.command("verify")
def verify_features(
    kafka: Kafka = None,
    redis: Redis = None,
    database: Annotated[
        int | None, typer.Option(min=0, help="Verify the shadow store in this Redis database (see headrace replay), not the live one.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many differences are shown.")] = 20,
    json_file: JsonFile = None,
    plain: Plain = False,
) -> None:
    """Recompute every row from the raw events, by other code than the workers', and tell each difference. Exit code 1 for any.

    Rows are compared at the offsets that they carry, so events may flow meanwhile; both the row itself and what Feast reads of it.
    A row that is missing, or has not come as far as the store says, is a difference too. A row that differs, but may hold events
    which Kafka has deleted by now, is counted as unverifiable.
    """
    import msgspec

    from headrace.deploy.verify_command import told, verify_rows

    loaded = Settings.load()
    plain = plain or not sys.stderr.isatty()
    report = verify_rows(kafka or loaded.kafka, redis or loaded.redis, database, limit=limit, plain=plain)
    for line in told(report):
        typer.echo(line)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    if report.differences:
        raise typer.Exit(1)


@features_app.command("history")
def history_of_features(
    entities: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV or Parquet: keys of entities, and event_timestamp.")],
    out: Annotated[Path, typer.Option("--out", dir_okay=False, help="The Parquet file to write.")],
    service: Annotated[str, typer.Option(help="The feature service whose features are wanted.")] = "next_item",
    registry: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Feast's registry; in HEADRACE_HOME where not given.")
    ] = None,
    json_file: JsonFile = None,
    plain: Plain = False,
) -> None:
    """Make training data: for each row of a file, the features as an online read would have returned them at that instant.

    The file has a column for each key of the service (user_id, item_id), and event_timestamp: times as in ISO 8601, in UTC where no
    zone is told, or whole milliseconds since 1970. Other columns, such as a label, are kept. The answers have the same rows in the
    same order; where an entity had no row then, or one older than its time to live, its features are null. They are made from the
    Parquet files that `headrace run archiver` writes to HEADRACE_ARCHIVE; what came before its first run is not there. Visits are
    not archived.
    """
    from headrace.deploy.history_command import answer_file

    report = answer_file(entities, service, out, Settings.load(), registry=registry, plain=plain or not sys.stderr.isatty())
    _tell(report, out, json_file)


@features_app.command("examples")
def training_examples(
    out: Annotated[Path, typer.Option("--out", dir_okay=False, help="The Parquet file to write.")],
    events: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="Events as headrace publish reads them; those of Kafka if not given.")
    ] = None,
    kafka: Kafka = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many of the first events.")] = None,
    open_sessions: Annotated[int, typer.Option(min=1, help="Sessions side by side, for a file without times.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed for the order, for a file without times.")] = 1,
    registry: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Feast's registry; in HEADRACE_HOME where not given.")
    ] = None,
    json_file: JsonFile = None,
    plain: Plain = False,
) -> None:
    """Make what headrace train learns from: each step of EVENTS with its shopper's history just before, by Feast's point-in-time join.

    The histories come from the archive (see headrace features history), the steps from the clicks and purchases that Kafka has, or
    from a file: then its lines should tell their place in Kafka (source, offset, published_ms), else an event counts as published at
    its own time. A history is asked for one millisecond before that, so no step is in its own history.
    """
    from headrace.deploy.history_command import write_examples

    loaded = Settings.load()
    report = write_examples(
        events,
        out,
        replace(loaded, kafka=kafka or loaded.kafka),
        limit=limit,
        open_sessions=open_sessions,
        seed=seed,
        registry=registry,
        plain=plain or not sys.stderr.isatty(),
    )
    _tell(report, out, json_file)


def _tell(report: "HistoryReport", out: Path, json_file: Path | None) -> None:
    from msgspec import to_builtins

    typer.echo(report.line())
    typer.echo(f"written to {out}")
    if json_file is not None:
        json_file.write_text(json.dumps(to_builtins(report), indent=2) + "\n")
