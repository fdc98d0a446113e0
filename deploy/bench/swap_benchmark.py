"""`headrace bench swap`: how fast weights travel, and what whoever asks notices of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from headrace.deploy.bench.feature_report import surroundings
from headrace.deploy.bench.ground import prepared_ground
from headrace.deploy.bench.progress import Progress
from headrace.deploy.settings import Settings
from headrace.schemas import Event, HistoryEntry
from headrace.streams.readers import open_events
from headrace.streams.simulator import simulate

DATA = "retailrocket_sessions.csv.gz"
MEASUREMENTS = ("freshness", "load", "pauses", "delta")
PAUSE_ITEMS, PAUSE_SWAPS, PAUSE_PER_S = 40_000, 1000, 40.0
Goal = tuple[str, Callable[[float], bool]]
GOALS: dict[str, Goal] = {
    "freshness_ms.p50": ("<= 400", lambda value: value <= 400),
    "freshness_ms.p99": ("<= 1000", lambda value: value <= 1000),
    "publish_to_served_ms.p99": ("<= 100", lambda value: value <= 100),
    "swaps": ("1000", lambda value: value >= 1000),
    "failed": ("0", lambda value: value == 0),
    "torn": ("0", lambda value: value == 0),
    "p99_ratio": ("<= 1.1", lambda value: value <= 1.1),
    "longest_pause_ms": ("< 1", lambda value: value < 1),
    "delta_share": ("< 0.01", lambda value: value < 0.01),
    "delta_apply_ms": ("< 5", lambda value: value < 5),
}


@dataclass(frozen=True)
class Options:
    """What to measure: events a second and seconds of freshness, swaps under load, how many of them and how many questions a second."""

    rate: float = 1000.0
    seconds: float = 60.0
    swaps: int = 1000
    swaps_per_s: float = 20.0
    asked_per_s: float = 200.0
    only: Sequence[str] = MEASUREMENTS

    def expected_s(self) -> float:
        """Return about how long all takes."""
        each = {
            "freshness": self.seconds + 45,
            "load": 2 * self.swaps / self.swaps_per_s + 30,
            "pauses": 2 * PAUSE_SWAPS / PAUSE_PER_S + 15,
            "delta": 30,
        }
        return sum(each[name] for name in self.only)


def measure_swap(home: Path, options: Options, progress: Progress) -> dict[str, Any]:
    """Measure, each on a Kafka and a Redis of its own in `home`, and return what `--json` writes.

    Raises Invalid where a figure would be wrong. Call it from the main thread.
    """
    began_s = time.time()
    found: dict[str, Any] = {}
    steps = {"freshness": _freshness, "load": _load, "pauses": _pauses, "delta": _delta}
    for name in options.only:
        progress.begin(name)
        found |= steps[name](home, options, progress)
        progress.step()
    return found | {"settings": asdict(options), "took_s": time.time() - began_s}


def verdicts(found: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """Return the name, value, goal and whether it is met of each figure that was measured."""
    told = []
    for name, (goal, met) in GOALS.items():
        value: Any = found
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            told.append((name, float(value), goal, met(float(value))))
    return told


def _freshness(home: Path, options: Options, progress: Progress) -> dict[str, Any]:
    from headrace.deploy.bench.swap_freshness import WARM_UP_S, measure_freshness

    count = int(options.rate * (options.seconds + WARM_UP_S) * 1.2)
    with prepared_ground(home, None, None, progress.tell) as ground:
        fresh = measure_freshness(ground, _events(count), options.rate, options.seconds, progress.tell)
        around = surroundings(ground)
    return around | {"freshness_ms": fresh.freshness_ms, "publish_to_served_ms": fresh.delay_ms, "freshness": asdict(fresh)}


def _load(home: Path, options: Options, progress: Progress) -> dict[str, Any]:
    from headrace.deploy.bench.swap_load import Load, measure_swaps

    with prepared_ground(home, None, None, progress.tell) as ground:
        found = measure_swaps(ground, Load(options.swaps, options.swaps_per_s, options.asked_per_s), progress.tell)
        around = surroundings(ground)
    return around | {"swaps": found.swaps, "failed": found.failed, "torn": found.torn, "p99_ratio": found.p99_ratio, "load": asdict(found)}


def _pauses(home: Path, options: Options, progress: Progress) -> dict[str, Any]:
    import torch

    from headrace.deploy.bench.swap_chain import SwapChain
    from headrace.deploy.bench.swap_pauses import measure_pauses
    from headrace.online_model.scorer import Scorer

    torch.set_num_threads(1)
    chain, scorer = SwapChain(PAUSE_ITEMS), Scorer()
    scorer.apply(*chain.snapshot)
    history = [HistoryEntry(f"item-{number}", "view", 1_760_000_000_000 + 30_000 * number) for number in range(8)]
    pauses = measure_pauses(scorer, [chain.delta() for _ in range(PAUSE_SWAPS)], history, PAUSE_PER_S, progress.tell)
    return {"longest_pause_ms": pauses.longest_wait_with, "pauses": asdict(pauses)}


def _delta(home: Path, options: Options, progress: Progress) -> dict[str, Any]:
    from headrace.deploy.bench.delta_size import measure_delta

    return dict(measure_delta())


def _events(count: int) -> list[Event]:
    """Return so many events of the real shop, or of a simulated one where its file is not there."""
    file = Settings.load().data / DATA
    return list(islice(open_events(file, seed=1) if file.exists() else simulate(1), count))
