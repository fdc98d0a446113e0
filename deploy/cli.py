"""The command `headrace`. Commands import what they need when they run, so that `headrace --help` answers at once."""

import json
import logging
import sys
from dataclasses import replace
from enum import StrEnum
from os import environ
from pathlib import Path
from typing import Annotated

import typer

from headrace.deploy.bench.cli import bench_app
from headrace.deploy.compress_command import compress
from headrace.deploy.drift_command import drift_app
from headrace.deploy.features_cli import features_app
from headrace.deploy.keys_command import keys_app
from headrace.deploy.models_command import models_app
from headrace.deploy.settings import Settings
from headrace.deploy.train_command import train

app = typer.Typer(
    help="Event-driven features and live models for shops.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
topics_app = typer.Typer(help="The Kafka topics.", no_args_is_help=True)
schemas_app = typer.Typer(help="The JSON Schemas and the AsyncAPI document.", no_args_is_help=True)
app.add_typer(features_app, name="features")
app.add_typer(bench_app, name="bench")
app.add_typer(models_app, name="models")
app.add_typer(drift_app, name="drift")
app.add_typer(topics_app, name="topics")
app.add_typer(schemas_app, name="schemas")
app.add_typer(keys_app, name="keys")
app.command()(train)
app.command()(compress)

Kafka = Annotated[str | None, typer.Option("--kafka", metavar="ADDR", help="Broker as host:port; HEADRACE_KAFKA where not given.")]
Redis = Annotated[str | None, typer.Option("--redis", metavar="URL", help="Redis as a URL; HEADRACE_REDIS where not given.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result to this file as JSON.")]
Folder = Annotated[Path | None, typer.Option("--folder", help="Where the generated files lie; in the package where not given.")]


class Start(StrEnum):
    """Where a reader of a topic begins."""

    BEGINNING = "beginning"
    END = "end"


class Part(StrEnum):
    """The parts that run as processes."""

    FEATURE_WORKER = "feature-worker"
    LEARNER = "learner"
    RECOMMENDER = "recommender"
    GATEWAY = "gateway"
    RELEASE_MANAGER = "release-manager"
    ARCHIVER = "archiver"
    ALERT_BRIDGE = "alert-bridge"


def main() -> None:
    """Run the command line. Errors of ours and of the network end it with one line and exit code 1, without a traceback."""
    run_app(app)


def run_app(command: typer.Typer) -> None:
    """Run a command line as `main` does."""
    try:
        command()
    except Exception as error:
        # Anything else is a mistake in Headrace, and its traceback is wanted.
        if not (type(error).__module__.startswith(("headrace.", "cimpl", "confluent_kafka")) or isinstance(error, OSError)):
            raise
        print(f"headrace: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def settings(json_file: JsonFile = None) -> None:
    """Print every setting as it is used; passwords in URLs are masked."""
    shown = Settings.load().shown()
    for variable, value in shown.items():
        typer.echo(f"{variable}={value}")
    if json_file is not None:
        json_file.write_text(json.dumps(shown, indent=2) + "\n")


@topics_app.command("list")
def list_topics(kafka: Kafka = None) -> None:
    """List Headrace's topics and whether the broker has them."""
    from headrace.schemas.topics import TOPICS
    from headrace.streams.broker import require_broker

    present = require_broker(_bootstrap(kafka)).topics
    for topic in TOPICS:
        state = f"{len(present[topic.name].partitions)} partitions" if topic.name in present else "missing"
        typer.echo(f"{topic.name:16} {state:13} {topic.cleanup:8} key: {topic.key:20} {topic.summary}")


@topics_app.command("create")
def create_topics(kafka: Kafka = None) -> None:
    """Create the topics that are missing."""
    from headrace.streams.broker import require_broker
    from headrace.streams.kafka import ensure_topics

    bootstrap = _bootstrap(kafka)
    require_broker(bootstrap)
    created = ensure_topics(bootstrap)
    typer.echo(f"created: {', '.join(created)}" if created else "all topics are there")


@schemas_app.command("generate")
def generate_schemas(folder: Folder = None) -> None:
    """Write the JSON Schemas and the AsyncAPI document."""
    from headrace.schemas import generate

    place = folder or _generated()
    generate.write(place)
    typer.echo(f"written to {place}")


@schemas_app.command("check")
def check_schemas(
    folder: Folder = None,
    against: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Schemas of an older version, which the present ones must not break.")
    ] = None,
) -> None:
    """Fail, naming the files, where what is written differs from what the code would write, or breaks those of an older version."""
    from headrace.schemas import generate
    from headrace.schemas.compatibility import broken

    told = [f"stale: {name}; write it anew with: headrace schemas generate" for name in generate.stale(folder or _generated())]
    told += [f"incompatible: {line}" for line in broken(against, generate.render())] if against is not None else []
    for line in told:
        typer.echo(line, err=True)
    if told:
        raise typer.Exit(1)
    typer.echo("all generated files are up to date" + ("" if against is None else ", and break nothing of the older version"))


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Shop data: ours as JSON lines, or a known data set.")],
    kafka: Kafka = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events a second; as fast as it goes where not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Stop after so many events.")] = None,
    open_sessions: Annotated[int, typer.Option(min=1, help="Sessions side by side, for a file without times.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed for the order, for a file without times.")] = 1,
    json_file: JsonFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Replay a file of clicks and purchases to Kafka. Exit code 1 where an acknowledgement is missing."""
    from msgspec.structs import asdict

    from headrace.deploy.publish_command import Replay, publish_file
    from headrace.streams import tracing

    bootstrap = _bootstrap(kafka)
    plain = plain or not sys.stderr.isatty()
    replay = Replay(file.name)
    tracing.set_up("publisher", share=Settings.load().trace_sample)
    try:
        publish_file(file, bootstrap, replay, rate=rate, limit=limit, open_sessions=open_sessions, seed=seed, plain=plain)
    finally:
        tracing.shut_down()
        if replay.seconds > 0:
            typer.echo(replay.line())
        if json_file is not None:
            json_file.write_text(json.dumps(asdict(replay) | {"events_per_s": replay.rate}, indent=2) + "\n")
    if replay.acknowledged < replay.published:
        raise typer.Exit(1)


@app.command()
def replay(
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Published then or later; all that Kafka has if not given.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Published before then; up to now if not given.")] = None,
    into: Annotated[int, typer.Option(min=0, help="The number of the Redis database for the shadow store.")] = 1,
    kafka: Kafka = None,
    redis: Redis = None,
    yes: Annotated[bool, typer.Option("--yes", help="Empty the database first, where it is not empty.")] = False,
    json_file: JsonFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Fold the history of clicks and purchases anew, into a shadow store beside the live one.

    For a changed feature definition, or to try one. Workers may run on: neither live rows nor topics are touched. A TIME is ISO 8601
    (2026-01-31T18:30Z; in UTC where no zone is given) or milliseconds since 1970. Redis must have room for the rows twice. With
    `headrace features switch` the shadow becomes the live store; one that ends at --to is for trying only.
    """
    from msgspec import to_builtins

    from headrace.deploy.row_commands import parse_time, replay_rows

    bootstrap, url = _bootstrap(kafka), redis or Settings.load().redis
    from_ms, to_ms = parse_time("--from", start), parse_time("--to", end)
    plain = plain or not sys.stderr.isatty()
    done = replay_rows(bootstrap, url, into, from_ms=from_ms, to_ms=to_ms, empty=yes, plain=plain)
    counts = f"{done.counted} counted, {done.repeated} repeated, {done.late} late, {done.refused} refused"
    typer.echo(f"{done.events} events replayed into database {into} in {done.seconds:.1f} s ({done.rate:.0f} a second): {counts}")
    if json_file is not None:
        json_file.write_text(json.dumps(to_builtins(done) | {"events_per_s": done.rate}, indent=2) + "\n")


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="Such as clicks, recommendations or drift-alerts.")],
    start: Annotated[Start, typer.Option("--from", help="Where to begin.")] = Start.END,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many messages.")] = None,
    kafka: Kafka = None,
    json_lines: Annotated[bool, typer.Option("--json-lines", help="Messages as JSON, as they can be published again.")] = False,
) -> None:
    """Print a topic's messages, one a line, as they come."""
    from headrace.deploy.tail_command import tail_lines

    for line in tail_lines(_bootstrap(kafka), topic, start=start.value, count=count, as_json=json_lines):
        typer.echo(line)


@app.command()
def run(
    part: Annotated[Part, typer.Argument(help="Which part of Headrace.")],
    kafka: Kafka = None,
    redis: Redis = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="For /metrics and /healthz; 0 takes any free one.")] = None,
) -> None:
    """Run one part in the foreground, with its log as JSON lines on standard error, until it is asked to stop."""
    from headrace.deploy.parts import run_part

    loaded = Settings.load()
    port = loaded.metrics_port if metrics_port is None else metrics_port
    run_part(part.value, replace(loaded, kafka=kafka or loaded.kafka, redis=redis or loaded.redis, metrics_port=port))


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Shop data as headrace publish reads it, or simulator for a simulated shop.")],
    models: Annotated[
        str, typer.Option(metavar="NAMES", help="Separated by commas.")
    ] = "headrace,headrace_frozen,headrace_refit,session_knn,covisitation,popularity",
    events: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the first events; all of a file, 20000 simulated ones.")
    ] = None,
    open_sessions: Annotated[int, typer.Option(min=1, help="Sessions side by side, for a file without times.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed for the order of a file without times, the models, and the intervals.")] = 1,
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model that the others are compared with; session_knn, or the first named.")
    ] = None,
    from_share: Annotated[float, typer.Option(min=0.0, max=0.99, help="Score from this share of the events on.")] = 0.5,
    json_file: JsonFile = None,
    png_file: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Draw NDCG@20 along the stream into this file.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Measure how well models predict the next item of a stream, each step first predicted from what was before it, then learned.

    NAMES: popularity, covisitation, session_knn, als, bpr, headrace; and each with _frozen (learns nothing after half of the stream),
    _refit (answers come from a copy renewed ten times) or _nightly (renewed at each new day of event time) behind its name. als, bpr
    and --png need the package's extra 'evaluate'. headrace_without_PART leaves out covisitation, neighbours, own_history, followers,
    two_hops, transformer, popularity or network; headrace_with_1_steps (2, 8) fine-tunes by as many steps a round in place of 4.

    Scored is each step of a shopper with a history, to another item than its last, which is left out of the ranking; all items seen so
    far are ranked. HR, NDCG and MRR at 5, 10 and 20, also for new items, new users, short and long histories, returns to own
    items, discoveries and purchases; intervals are of 95%, by bootstrap over shoppers. The same stream and questions for every model.
    """
    # Costs are told for one core. These are read while numpy and torch are loaded, so they come first.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environ.setdefault(threads, "1")
    from headrace.deploy.evaluate_command import evaluate as compare
    from headrace.deploy.evaluate_command import require_places, told, write

    require_places(json_file, png_file)
    compared = compare(
        data,
        models,
        events=events,
        open_sessions=open_sessions,
        seed=seed,
        baseline=baseline,
        from_share=from_share,
        plain=plain or not sys.stderr.isatty(),
    )
    for line in told(compared):
        typer.echo(line)
    write(compared, data.name, seed=seed, open_sessions=open_sessions, json_file=json_file, picture=png_file)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A file of shop events; a simulated shop if not given.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Events a second; 500 for the simulator, 1000 for a file.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Publish for so long; 60 for the simulator, all of a file.")] = None,
    json_file: JsonFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines of text in place of the live view.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Go on with the data of the last demo instead of a fresh start.")] = False,
    kill: Annotated[list[str] | None, typer.Option(metavar="PART@SECONDS", help="Kill a part at that time; may be given again.")] = None,
    kafka: Annotated[str | None, typer.Option("--kafka", metavar="ADDR", help="Use this broker; HEADRACE_KAFKA does the same.")] = None,
    redis: Annotated[str | None, typer.Option("--redis", metavar="URL", help="Use this Redis; HEADRACE_REDIS does the same.")] = None,
) -> None:
    """Start Kafka, Redis and every part, replay a shop's events, watch, and check that nothing was lost, doubled or torn.

    Ctrl-C ends the replay; what was published is still counted. Exit code 1 where the check finds a fault.
    """
    from headrace.deploy.demo import DemoOptions
    from headrace.deploy.demo_command import parse_kill, show_demo
    from headrace.streams import tracing

    kills = [parse_kill(text) for text in kill or ()]
    options = DemoOptions(data, rate, seconds, keep, kafka or environ.get("HEADRACE_KAFKA"), redis or environ.get("HEADRACE_REDIS"), kills)
    loaded = Settings.load()
    # The demo publishes in this process; its parts read the same variables.
    tracing.set_up("publisher", share=loaded.trace_sample)
    report = show_demo(options, loaded, plain=plain or not sys.stdout.isatty(), json_file=json_file)
    tracing.shut_down()
    if not report.exact:
        raise typer.Exit(1)


def _bootstrap(given: str | None) -> str:
    loaded = Settings.load()
    logging.basicConfig(level=loaded.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    return given or loaded.kafka


def _generated() -> Path:
    from headrace import schemas

    return Path(schemas.__file__).parent / "generated"


if __name__ == "__main__":
    main()
