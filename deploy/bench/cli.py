"""`headrace bench ...`: figures, each beside its peer's. Commands import what they need when they run."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from headrace.deploy.bench.dashboard_command import dashboard
from headrace.deploy.settings import Settings

# A catalogue from which a hundred are recommended, and of which a thousand change.
LEAST_ITEMS = 2000

bench_app = typer.Typer(help="Figures of Headrace, each measured beside its peer's in one run.", no_args_is_help=True)
bench_app.command("dashboard")(dashboard)


@bench_app.command("features")
def features(
    events: Annotated[int, typer.Option(min=1000, help="Events of the backlog; other backlogs are no longer than it either.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats, of which medians are told.")] = 5,
    only: Annotated[str, typer.Option(metavar="NAMES", help="Some of latency,throughput,reads,growth,two-workers.")] = "",
    users: Annotated[int, typer.Option(min=10, help="Shoppers of the backlog.")] = 100_000,
    few_users: Annotated[int, typer.Option(min=10, help="Growth: the users of the small shop.")] = 10_000,
    many_users: Annotated[int, typer.Option(min=10, help="Growth: those of the large one; about 6 KB of memory each.")] = 2_000_000,
    latency_s: Annotated[float, typer.Option(min=0.5, help="Latency: seconds at each rate on each path.")] = 15.0,
    reads_share: Annotated[float, typer.Option(min=0.01, help="Reads: a factor for the number of calls.")] = 1.0,
    quix: Annotated[bool, typer.Option("--quix/--no-quix", help="Install the peer Quix Streams, in an environment of its own.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the events.")] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Empty the broker's topics and the Redis that are given.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write figures and raw samples to this file.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Measure the feature side, each figure beside its peer, and say which goals are met. Needs a quiet machine, and Linux.

    Starts a Kafka and a Redis of its own and removes them again. Where HEADRACE_KAFKA or HEADRACE_REDIS are set, those are used
    instead, and EMPTIED: Headrace's topics are deleted and all databases of the Redis are flushed, so --yes must be given.

    latency: milliseconds from publish to readable by Feast's own get_online_features, at 500 and 2,000 events/s, beside a
    confluent-kafka consumer that writes the same bytes with a redis-py pipeline (readable_ms_500, readable_ms_2000).

    throughput: events a second of one worker process on a backlog, all views on, and how many times those of Quix Streams (the
    better of its Redis sink and a write for each event) and of a Faust table, each with ONE counter (events_per_s,
    ratio_to_quix, ratio_to_faust, cost_us_per_event); memory of a user's row (bytes_per_user).

    reads: time of a feature service for 1, 100 and 500 entities over that of a redis-py pipeline of the same rows
    (read_ratio_1, ..._100, ..._500).

    growth: CPU time per event with 2,000,000 users over that with 10,000 (growth_ratio); needs 14 GB of memory for so many, and
    takes fewer where it is not there.

    two-workers: events a second of two workers over those of one (two_worker_speedup).

    How each was measured is written into the JSON. All of it takes about an hour; the estimate is printed first.
    """
    from headrace.deploy.bench.feature_benchmark import MEASUREMENTS, Options, measure_features
    from headrace.deploy.bench.feature_report import verdicts
    from headrace.deploy.bench.ground import prepared_ground
    from headrace.deploy.bench.progress import shown_progress

    chosen = _chosen(only, MEASUREMENTS)
    options = Options(events, repeats, chosen, users, few_users, many_users, latency_s, reads_share, quix, seed)
    bootstrap, redis_url = os.environ.get("HEADRACE_KAFKA"), os.environ.get("HEADRACE_REDIS")
    _require_consent(bootstrap, redis_url, yes=yes)
    # Coordinators that are still loading, and topics that are gone, belong to the course of it.
    logging.getLogger("headrace.kafka").setLevel(logging.ERROR)
    home = Settings.load().home.absolute()
    _ask_for_quiet(options.seconds())
    with (
        shown_progress(options.steps, plain=plain or not sys.stderr.isatty()) as progress,
        prepared_ground(home / "bench", bootstrap, redis_url, progress.tell) as ground,
    ):
        found = measure_features(ground, home, options, progress)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    for name, value, goal, met in verdicts(found):
        typer.echo(f"{name:38} {value:>12}   goal: {goal:16} {'met' if met else 'NOT MET'}")


@bench_app.command("swap")
def swap(
    only: Annotated[str, typer.Option(metavar="NAMES", help="Some of freshness,load,pauses,delta.")] = "",
    rate: Annotated[float, typer.Option(min=1, help="Freshness: events a second.")] = 1000.0,
    seconds: Annotated[float, typer.Option(min=5, help="Freshness: how long it is measured, after a warm-up.")] = 60.0,
    swaps: Annotated[int, typer.Option(min=20, help="Load: how many updates are swapped in.")] = 1000,
    swaps_per_s: Annotated[float, typer.Option(min=1, help="Load: how many of them a second, in spells of 4 s.")] = 20.0,
    asked_per_s: Annotated[
        float, typer.Option(min=1, help="Load: questions a second; a gateway that cannot answer so many tells nothing of swaps.")
    ] = 200.0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Measure how fast weights travel and what whoever asks notices of it, and say which goals are met. Needs a quiet machine, and Linux.

    Starts a Kafka and a Redis of its own and removes them again.

    freshness: milliseconds from an event to its effect in served weights, gate included, with all parts at work (freshness_ms), and from
    the end of a training step to its weights being served by the slower of two scorers (publish_to_served_ms).

    load: a gateway is asked again and again while updates of 1,000 touched rows are swapped in, and while none are, in turn: failed and
    torn answers, and the p99 with swaps over that without (swaps, failed, torn, p99_ratio).

    pauses: in one process, the longest wait for the live weights while another thread swaps (longest_pause_ms), beside that without.

    delta: bytes of a delta of 1,000 rows over those of a snapshot of 1,000,000 x 64 (delta_share), and the time to apply it
    (delta_apply_ms).
    """
    from headrace.deploy.bench.progress import shown_progress
    from headrace.deploy.bench.swap_benchmark import MEASUREMENTS, Options, measure_swap, verdicts

    chosen = _chosen(only, MEASUREMENTS)
    options = Options(rate, seconds, swaps, swaps_per_s, asked_per_s, chosen)
    logging.getLogger("headrace.kafka").setLevel(logging.ERROR)
    _ask_for_quiet(options.expected_s())
    with shown_progress(len(chosen), plain=plain or not sys.stderr.isatty()) as progress:
        found = measure_swap(Settings.load().home.absolute() / "bench", options, progress)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    for name, value, goal, met in verdicts(found):
        typer.echo(f"{name:38} {value:>12.4g}   goal: {goal:16} {'met' if met else 'NOT MET'}")


@bench_app.command("scorer")
def scorer(
    items: Annotated[str, typer.Option(metavar="COUNTS", help="Sizes of the catalogue, of 64 numbers an item.")] = "10000,100000,1000000",
    batches: Annotated[str, typer.Option(metavar="COUNTS", help="Histories scored together.")] = "1,16,128",
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds for each peer, size and batch; three calls at least.")] = 1.0,
    http_items: Annotated[
        str, typer.Option(metavar="COUNTS", help="Sizes of the catalogue behind HTTP; empty for none.")
    ] = "10000,40000,100000",
    connections: Annotated[int, typer.Option(min=1, help="HTTP: connections that ask at the same time.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="HTTP: repeats, in turns, of which medians are told.")] = 3,
    http_seconds: Annotated[float, typer.Option(min=0.1, help="HTTP: seconds of each repeat.")] = 2.0,
    index_items: Annotated[
        str, typer.Option(metavar="COUNTS", help="Sizes of the catalogue for the approximate index; empty for none.")
    ] = "100000",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Measure how fast histories are scored against a whole catalogue, for the 100 best items, beside peers with the same weights.

    Peers: eager torch (the module's forward pass, all logits, torch.topk), the same with the items' unit vectors kept, and ONNX Runtime
    with the exported model. All have the same random weights, get the same histories, and take one thread; that their answers are
    equal is checked first. In the process: requests/s, p50, p99, the share of the memory or arithmetic limit measured in the same
    run, and the ratio to eager torch, for each size and batch. Behind HTTP: the same small application around each peer, on the
    loopback, which answers together what waits together.

    CUDA is measured where torch sees a GPU; the JSON says "no GPU here" where it does not. Needs the extra 'compress'. Takes about five
    minutes, and 4 GB of memory for a million items. Leave the machine alone meanwhile.
    """
    _keep_to_one_thread()
    import msgspec

    from headrace.deploy.bench.progress import shown_progress
    from headrace.deploy.bench.scorer_benchmark import Options, measure_scorer, verdicts

    options = Options(
        _counts("items", items, LEAST_ITEMS),
        _counts("batches", batches, 1),
        seconds,
        _counts("http-items", http_items, LEAST_ITEMS),
        connections,
        repeats,
        http_seconds,
        _counts("index-items", index_items, LEAST_ITEMS),
    )
    with shown_progress(options.steps, plain=plain or not sys.stderr.isatty()) as progress:
        found = measure_scorer(options, progress)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    typer.echo(
        f"{'peer':32}{'items':>9}{'batch':>7}{'req/s':>10}{'p50 ms':>10}{'p99 ms':>10}{'of limit':>10}{'to eager':>10}{'to kept':>9}"
    )
    for row in found["rows"]:
        typer.echo(
            f"{row.peer:32}{row.items:>9}{row.batch:>7}{row.requests_per_s:>10.0f}{row.p50_ms:>10.3f}{row.p99_ms:>10.3f}"
            f"{row.share_of_limit:>10.2f}{row.ratio_to_eager:>10.2f}{row.ratio_to_kept:>9.2f}"
        )
    for row in found["http"]:
        typer.echo(
            f"{row.peer:32}{row.items:>9}{'HTTP':>7}{row.requests_per_s:>10.0f}{row.p50_ms:>10.3f}{row.p99_ms:>10.3f}{'':>10}{row.ratio_to_eager:>10.2f}"
        )
    for entry in found["index"]:
        typer.echo(
            f"index of {entry.items} items: recall@100 {entry.recall_at_100:.3f}, one question {entry.p50_ms:.3f} ms, "
            f"exact search {entry.exact_p50_ms:.3f} ms, built in {entry.build_s:.1f} s, 1,000 changed rows in {entry.update_1000_ms:.0f} ms"
        )
    cuda = found["cuda"]
    typer.echo(f"CUDA: {cuda if isinstance(cuda, str) else f'{len(cuda)} rows in the JSON'}")
    for name, value, goal, met in verdicts(found):
        typer.echo(f"{name:44} {value:>40}   goal: {goal:8} {'met' if met else 'NOT MET'}")


@bench_app.command("gate")
def gate(
    each: Annotated[int, typer.Option(min=1, help="Bad updates of each kind, and campaigns of fake clicks.")] = 100,
    warm_up: Annotated[int, typer.Option(min=20, help="Honest rounds before the first of them.")] = 60,
    corruptions: Annotated[int, typer.Option(min=0, help="Corrupted messages and files of the chain of weights.")] = 1000,
    schedules: Annotated[int, typer.Option(min=0, help="Random schedules of delivery.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the stream, the weights and what is planted.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Plant bad updates in a learner's rounds, count what gets out, and say which goals are met. Needs nothing but CPU.

    A tuner learns RetailRocket's sessions in rounds of 256 events, as the learner does (a simulated shop's where HEADRACE_DATA has no such
    file). At each of --each rounds copies of it get the same round with something bad in it: numbers that are not finite, rates a
    thousand times too high, targets exchanged among histories, item rows zeroed (30% of all, or the 100 most popular), rows or ids
    exchanged (all, or the 100 most popular): how many pass (published_bad), by which check they were caught (caught_by), and the share
    of honest rounds that pass (honest_pass_rate).

    Campaigns: from each of these rounds on, for 8 rounds, 5% or 20% of all clicks are by fake shoppers on one item, drawn by lot among
    those that some held-out shoppers are shown. exposure_ratio_5pct and ..._20pct: in how many of their lists of 20 it stands, over
    that before, at the worst of four looks, over all campaigns; `exposure` has medians and the worst tenth.

    The chain: corrupted messages and files that were taken in (corruptions_accepted), and schedules of lost, doubled, reordered and forged
    updates after which a scorer's weights were wrong (schedules_wrong).

    control: a plain gate (a paired test at 5% on held-back events), and no guard against fake clicks, in the same run. gate_ms: processor
    time of a verdict. Takes about 15 minutes; --each 10 a minute or two.
    """
    _keep_to_one_thread()
    import torch

    from headrace.deploy.bench.gate_benchmark import Options, measure_gate, verdicts
    from headrace.deploy.bench.progress import shown_progress

    torch.set_num_threads(1)
    options = Options(each=each, warm_up=warm_up, corruptions=corruptions, schedules=schedules, seed=seed)
    with shown_progress(options.steps_of_progress, plain=plain or not sys.stderr.isatty()) as progress:
        found = measure_gate(Settings.load().data, options, progress)
    typer.echo(f"learned from: {found['data']}", err=True)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    for name, value, goal, met in verdicts(found):
        typer.echo(f"{name:38} {value:>12}   goal: {goal:16} {'met' if met else 'NOT MET'}")


def _chosen(only: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the measurements that are asked for, all where none are named. Raises BadParameter."""
    chosen = tuple(name.strip() for name in only.split(",")) if only else tuple(names)
    if unknown := set(chosen) - set(names):
        raise typer.BadParameter(f"--only: some of {','.join(names)} were expected; the value holds {', '.join(sorted(unknown))}")
    return chosen


def _ask_for_quiet(seconds: float) -> None:
    typer.echo(f"this takes about {seconds / 60:.0f} minutes; leave the machine alone meanwhile", err=True)
    if (load := os.getloadavg()[0]) > 0.5:
        typer.echo(f"the machine is not quiet (load {load:.1f}): figures will be off", err=True)


def _keep_to_one_thread() -> None:
    """Keep the libraries of linear algebra to one thread; call it before they are imported."""
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")


def _counts(option: str, text: str, least: int) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(",") if part.strip())
        if min(counts, default=least) < least:
            raise ValueError
    except ValueError:
        told = f"whole numbers of {least} or more with commas between were expected; the value is {text}"
        raise typer.BadParameter(f"--{option}: {told}") from None
    return counts


@bench_app.command("drift")
def drift(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each kind of drift.")] = 30,
    only: Annotated[
        str, typer.Option(metavar="NAMES", help="Some of false-alarms,abrupt,gradual,recurring,feature-shift,episodes,reaction,detectors.")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="4 seeds, 300,000 events without drift, and 1 of the long runs: two minutes.")
    ] = False,
    events: Annotated[int, typer.Option(min=100_000, help="Events of the stream without drift.")] = 1_000_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes at work at the same time.")] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write figures and what each run told to this file.")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Install the peers Evidently and alibi-detect, in an environment of their own.")
    ] = True,
    plain: Annotated[bool, typer.Option("--plain", help="A line each second in place of the bar.")] = False,
) -> None:
    """Plant drift in a shop's stream and see what the shipped watches make of it; say which goals are met. Needs nothing but CPU.

    The stream has hours and weekdays; its signals come from a model that is tested on each event and then learns it.

    false-alarms: alerts in a million events without drift (events_without_drift, false_alarms).

    abrupt, gradual, recurring, feature-shift: a fifth of the shoppers change their taste at once, or within 20,000 events, or away and
    back again; one feature moves by half its standard deviation. For each {runs, seen, median_delay_events, cause_first}.

    episodes: alerts for each of 20 drifts in one run (alerts_per_drift).

    reaction: NDCG lost after the taste of all shoppers changed, with reaction over without (lost_quality_ratio; by_changed_share has
    85% and 20% too), and NDCG without over that with a reaction to a false alarm (false_alarm_quality_ratio), by the whole model.

    detectors: each detector alone, on River's SEA, STAGGER, Agrawal, Sine and Mixed (known_streams, known_streams_together), and on the
    shop without and with an abrupt change of taste (detectors_on_the_shop): false alarms, drifts missed, and delays, by one rule for all.
    Beside River's and ours stand two outside peers on consecutive windows: evidently, by the test and limit that it chooses itself, and
    alibi_detect, by Fisher's exact or Kolmogorov-Smirnov's test at 1e-4 (its online detectors are left out: to set their thresholds for
    so few false alarms takes minutes, anew after each finding). At first use they are installed with uv from a lock of hashes into
    HEADRACE_HOME/bench (1.3 GB) and run as another process (peer_versions); without a network the rest goes on without them, and
    peers_left_out says why. --no-peers leaves them out.

    The estimate of how long it takes is printed first.
    """
    from headrace.deploy.bench.drift_benchmark import PARTS, Options, measure_drift, verdicts
    from headrace.deploy.bench.drift_comparison import rows
    from headrace.deploy.bench.progress import shown_progress

    chosen = _chosen(only, PARTS)
    options = Options(seeds, events, chosen, workers=workers, peers=peers)
    if quick:
        options = Options(min(seeds, 4), min(events, 300_000), chosen, 1, 1, 1, workers, peers)
    typer.echo(f"this takes about {options.seconds() / 60:.0f} minutes", err=True)
    with shown_progress(options.steps, plain=plain or not sys.stderr.isatty()) as progress:
        found = measure_drift(options, Settings.load().home.absolute(), progress)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    for row in rows(found):
        typer.echo(row)
    for name, value, goal, met in verdicts(found):
        typer.echo(f"{name:50} {value:>22}   goal: {goal:14} {'met' if met else 'NOT MET'}")


def _require_consent(bootstrap: str | None, redis_url: str | None, *, yes: bool) -> None:
    given = [name for name, value in (("HEADRACE_KAFKA", bootstrap), ("HEADRACE_REDIS", redis_url)) if value]
    if not given:
        return
    what = f"{' and '.join(given)} given: Headrace's topics there are deleted, and all databases of the Redis are flushed"
    if not yes:
        raise typer.BadParameter(f"{what}. Say --yes if that is meant, or unset them for servers of the benchmark's own")
    typer.echo(what, err=True)
