"""What `headrace bench features` has found: the figures that are asked for, the raw samples, and what they were measured on."""

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import confluent_kafka
from msgspec import Struct, to_builtins

from headrace.deploy.bench.ground import Ground
from headrace.deploy.bench.growth import GrowthSample
from headrace.deploy.bench.latency import RATES, Latency
from headrace.deploy.bench.memory import RowMemory, available_bytes
from headrace.deploy.bench.peer_environments import QUIX
from headrace.deploy.bench.reads import ENTITIES, ReadTimes
from headrace.deploy.bench.throughput import Rate
from headrace.deploy.bench.two_workers import Speedup

PACKAGES = ("confluent-kafka", "redis", "hiredis", "feast", "faust-streaming", "msgspec")


class Throughput(Struct):
    """One repeat of the throughput measurement; a peer that was left out is None."""

    headrace: Rate
    quix_sink: Rate | None
    quix_each: Rate | None
    faust: Rate


class Samples(Struct):
    """All that was measured, one entry a repeat (latency: one each path and rate, reads: one each number of entities)."""

    latency: list[Latency] = []
    throughput: list[Throughput] = []
    reads: list[ReadTimes] = []
    growth: list[GrowthSample] = []
    two_workers: list[Speedup] = []
    memory: RowMemory | None = None


class ReadableMs(Struct):
    """Milliseconds from publish to readable; medians over the repeats. `plain_...` are those of the plain path."""

    p50: float
    p99: float
    plain_p50: float
    plain_p99: float


def figures(samples: Samples, repeats: int) -> dict[str, Any]:
    """Return the figures by their names, None for what was not measured. Ratios are medians of the ratios within a repeat."""
    runs = samples.throughput
    found: dict[str, Any] = {f"readable_ms_{rate}": to_builtins(readable(samples.latency, rate)) for rate in RATES}
    found |= {
        "events_per_s": _median(run.headrace.events_per_s for run in runs),
        "ratio_to_quix": _median(_quix_ratio(run) for run in runs if run.quix_sink and run.quix_each),
        "ratio_to_faust": _median(run.headrace.events_per_s / run.faust.events_per_s for run in runs),
    }
    for entities in ENTITIES:
        found[f"read_ratio_{entities}"] = _median(times.ratio for times in samples.reads if times.entities == entities)
    found |= {
        "growth_ratio": _median(sample.ratio for sample in samples.growth),
        "two_worker_speedup": _median(sample.ratio for sample in samples.two_workers),
        "bytes_per_user": samples.memory and samples.memory.bytes_per_user,
        "repeats": repeats,
    }
    return found


def further_figures(samples: Samples) -> dict[str, Any]:
    """Return what is worth knowing beside them."""
    runs, reads, pairs = samples.throughput, samples.reads, samples.two_workers
    found: dict[str, Any] = {
        "cost_us_per_event": _median(run.headrace.cpu_us_per_event for run in runs),
        "quix_sink_events_per_s": _median(run.quix_sink.events_per_s for run in runs if run.quix_sink),
        "quix_each_events_per_s": _median(run.quix_each.events_per_s for run in runs if run.quix_each),
        "faust_events_per_s": _median(run.faust.events_per_s for run in runs),
        "ratio_to_quix_each": _median(run.headrace.events_per_s / run.quix_each.events_per_s for run in runs if run.quix_each),
        "worker_memory_bytes": _median(run.headrace.memory_bytes for run in runs),
        "bytes_per_full_user": samples.memory and samples.memory.bytes_per_full_user,
        "two_worker_cost_ratio": _median(pair.cost_ratio for pair in pairs),
        "two_worker_most_possible": _median(pair.most_possible for pair in pairs),
        "growth_cost_us_few": _median(sample.few.cpu_us_per_event for sample in samples.growth),
        "growth_cost_us_many": _median(sample.many.cpu_us_per_event for sample in samples.growth),
    }
    for entities in ENTITIES:
        same = [times for times in reads if times.entities == entities]
        found[f"read_columns_ratio_{entities}"] = _median(times.columns / times.pipeline for times in same)
        found[f"feast_to_ours_{entities}"] = _median(times.feast / times.headrace for times in same)
    return found


def readable(samples: Sequence[Latency], rate: int) -> ReadableMs | None:
    """Return the latency at one rate; None where it was not measured."""
    paths = [[sample for sample in samples if sample.rate == rate and sample.path == path] for path in ("headrace", "plain")]
    if not all(paths):
        return None
    return ReadableMs(*(statistics.median(sample.quantile(share) for sample in path) for path in paths for share in (0.5, 0.99)))


def surroundings(ground: Ground) -> dict[str, Any]:
    """Return the machine and the versions that the figures were measured on."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    machine = {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_available_bytes": available_bytes(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(terse=True),
    }
    quix = next(line for line in QUIX.lock.read_text().splitlines() if line.startswith("quixstreams=="))
    versions = {name: version(name) for name in PACKAGES}
    versions |= {"python": platform.python_version(), "librdkafka": confluent_kafka.libversion()[0], "broker": ground.broker}
    versions |= {"redis-server": ground.redis, "quixstreams": quix.partition("==")[2].rstrip(" \\")}
    return {"machine": machine, "versions": versions}


def verdicts(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return for each goal that was measured: what it is of, what was found, the goal in words, and whether it is met."""
    rows: list[tuple[str, str, str, bool]] = []

    def judge(name: str, value: float | None, goal: str, met: Callable[[float], bool], unit: str = "") -> None:
        if value is not None:
            rows.append((name, f"{value:,.{0 if value >= 100 else 2}f}{unit}", goal, met(value)))

    for rate in RATES:
        times = found[f"readable_ms_{rate}"]
        if times is not None:
            for share, most in (("p50", 3.0), ("p99", 15.0)):
                ours, plain = times[share], times[f"plain_{share}"]
                judge(f"readable at {rate}/s, {share}", ours, f"at most {most:g} ms", lambda value, most=most: value <= most, " ms")  # type: ignore[misc]
                judge(f"readable at {rate}/s, {share}, to plain path", ours / plain, "at most 1.5", lambda value: value <= 1.5)
    judge("events per second, one worker", found["events_per_s"], "at least 25,000", lambda value: value >= 25_000)
    judge("to Quix Streams", found["ratio_to_quix"], "at least 5", lambda value: value >= 5)
    judge("to Faust", found["ratio_to_faust"], "at least 10", lambda value: value >= 10)
    for entities in ENTITIES:
        judge(f"read of {entities}, to pipeline", found[f"read_ratio_{entities}"], "at most 1.5", lambda value: value <= 1.5)
    judge("cost from few to many users", found["growth_ratio"], "at most 1.3", lambda value: value <= 1.3)
    judge("two workers to one", found["two_worker_speedup"], "at least 1.7", lambda value: value >= 1.7)
    return rows


def _quix_ratio(run: Throughput) -> float:
    assert run.quix_sink is not None
    assert run.quix_each is not None
    # The better of its two ways is the peer.
    return run.headrace.events_per_s / max(run.quix_sink.events_per_s, run.quix_each.events_per_s)


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None
