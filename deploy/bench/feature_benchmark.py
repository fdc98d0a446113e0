"""`headrace bench features`: all measurements in turn, each beside its peer, in one run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from headrace.deploy.bench import growth, latency, memory, reads, throughput, two_workers
from headrace.deploy.bench.events import Shop, publish
from headrace.deploy.bench.feature_report import Samples, Throughput, figures, further_figures, surroundings
from headrace.deploy.bench.ground import Ground
from headrace.deploy.bench.peer_environments import QUIX
from headrace.deploy.bench.progress import Progress
from headrace.schemas.wire import now_ms

DAY_MS = 24 * 3600 * 1000
MEASUREMENTS = ("latency", "throughput", "reads", "growth", "two-workers")
DIVIDED_EVENTS = 300_000
GROWTH_EVENTS = 50_000
LATENCY_S = 15.0


@dataclass(frozen=True)
class Options:
    """What to measure and how long. `events` bounds every backlog; `quix` says whether its environment may be installed."""

    events: int = 1_000_000
    repeats: int = 5
    only: Sequence[str] = MEASUREMENTS
    shoppers: int = 100_000
    few_users: int = 10_000
    many_users: int = 2_000_000
    latency_s: float = LATENCY_S
    share_of_reads: float = 1.0
    install_quix: bool = True
    seed: int = 1

    @property
    def steps(self) -> int:
        """How many steps the progress counts."""
        return sum(4 * self.repeats if name == "latency" else 1 if name == "reads" else self.repeats for name in self.only)

    def seconds(self) -> float:
        """Return about how long all takes, on two cores of a few years ago."""
        turn_s = self.latency_s + 8
        each = {
            "latency": 4 * turn_s,
            "throughput": self.events / 9000 + 60,
            "reads": 15 * self.share_of_reads,
            "growth": 2 * min(self.events, GROWTH_EVENTS) / 6000 + 15,
            "two-workers": 2 * min(self.events, DIVIDED_EVENTS) / 9000 + 15,
        }
        once = {"latency": 20 + turn_s, "throughput": self.events / 40_000 + 40, "reads": 25, "growth": self.many_users / 20_000 + 10}
        return 10 + sum(once.get(name, 10) + self.repeats * each[name] for name in self.only)


def measure_features(ground: Ground, home: Path, options: Options, progress: Progress) -> dict[str, Any]:
    """Measure and return what `--json` writes. Raises Invalid where a figure would be wrong, PeerNotInstalled."""
    began_s = time.time()
    around = surroundings(ground)
    samples = Samples()
    run: dict[str, Callable[[Ground, Path, Options, Samples, Progress], None]] = {
        "latency": _latency,
        "throughput": _throughput,
        "reads": _reads,
        "growth": _growth,
        "two-workers": _two_workers,
    }
    settings: dict[str, Any] = {"events": options.events, "shoppers": options.shoppers, "seed": options.seed, "only": list(options.only)}
    for name in options.only:
        run[name](ground, home, options, samples, progress)
    if samples.growth:
        settings |= {"growth_users": [options.few_users, int(samples.growth[0].many_users)]}
    notes = {name: (module.__doc__ or "").strip() for name, module in _MODULES.items() if name in options.only or name == "memory"}
    return (
        figures(samples, options.repeats)
        | further_figures(samples)
        | around
        | {"settings": settings, "took_s": time.time() - began_s, "notes": notes, "samples": to_builtins(samples)}
    )


_MODULES: dict[str, Any] = {
    "latency": latency,
    "throughput": throughput,
    "reads": reads,
    "growth": growth,
    "two-workers": two_workers,
    "memory": memory,
}


def _latency(ground: Ground, home: Path, options: Options, samples: Samples, progress: Progress) -> None:
    progress.begin("latency")
    progress.tell("starting the reader (Feast takes ten seconds)")
    with latency.Reader(ground) as reader:
        reader.wait_until_ready()
        # Not counted: the broker compiles what it runs often, which takes it much of a core for most of a minute.
        for rate in (*latency.RATES, *latency.RATES):
            latency.measure_latency(ground, reader, "headrace", rate, options.latency_s, options.seed, progress.tell)
        for repeat in range(options.repeats):
            progress.begin(f"latency {repeat + 1}/{options.repeats}")
            for rate in latency.RATES:
                # Who comes first changes, so that neither always follows the other.
                for path in ("headrace", "plain") if repeat % 2 == 0 else ("plain", "headrace"):
                    taken = latency.measure_latency(ground, reader, path, rate, options.latency_s, options.seed + repeat, progress.tell)
                    samples.latency.append(taken)
                    progress.step()


def _throughput(ground: Ground, home: Path, options: Options, samples: Samples, progress: Progress) -> None:
    progress.begin("throughput")
    quix = QUIX.python(home, progress.tell, install=options.install_quix)
    ground.empty()
    clicks = publish(_day(options, options.events), ground.bootstrap, progress.tell)["clicks"]
    for repeat in range(options.repeats):
        progress.begin(f"throughput {repeat + 1}/{options.repeats}")

        def quix_rate(mode: throughput.QuixMode) -> throughput.Rate | None:
            ground.flush()
            return throughput.measure_quix(ground, clicks, quix, mode, f"quix-{mode}-{repeat}", progress.tell) if quix else None  # noqa: B023

        ground.rewind()
        faust = throughput.measure_faust(ground, clicks, f"faust-{repeat}", progress.tell)
        sink, each = quix_rate("sink"), quix_rate("each")
        ground.rewind()
        ours = throughput.measure_worker(ground, options.events, progress.tell)
        samples.throughput.append(Throughput(ours, sink, each, faust))
        progress.step()
    progress.begin("memory")
    samples.memory = memory.measure_rows(ground)


def _reads(ground: Ground, home: Path, options: Options, samples: Samples, progress: Progress) -> None:
    progress.begin("reads")
    samples.reads = reads.measure_reads(ground, options.repeats, options.share_of_reads, progress.tell)
    progress.step()


def _growth(ground: Ground, home: Path, options: Options, samples: Samples, progress: Progress) -> None:
    progress.begin("growth")
    growing = growth.Growth(ground, options.few_users, options.many_users, min(options.events, GROWTH_EVENTS))
    try:
        growing.prepare(progress.tell)
        for repeat in range(options.repeats):
            progress.begin(f"growth {repeat + 1}/{options.repeats}")
            samples.growth.append(growing.sample(options.seed + repeat, progress.tell))
            progress.step()
    finally:
        growing.close()


def _two_workers(ground: Ground, home: Path, options: Options, samples: Samples, progress: Progress) -> None:
    progress.begin("two workers")
    for repeat in range(options.repeats):
        progress.begin(f"two workers {repeat + 1}/{options.repeats}")
        samples.two_workers.append(two_workers.measure_speedup(ground, _day(options, min(options.events, DIVIDED_EVENTS)), progress.tell))
        progress.step()


def _day(options: Options, events: int) -> Shop:
    return Shop(events, options.shoppers, options.seed, now_ms() - DAY_MS, DAY_MS / (events + 1))
