"""What whoever asks notices of a thousand swaps: a gateway under an even load of questions, with swaps and without, in turn.

The gateway is the real one, a process of its own before real Kafka and Redis; the questions come from another process
(`asking.py`), the updates from this one, all on this machine. Spells of a few seconds with swaps alternate with spells without, so
that whatever else goes on falls on both alike. An answer is torn where it differs from what the version that it names says.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import torch

from headrace.deploy.answer_check import check_answers
from headrace.deploy.asker import Answer
from headrace.deploy.bench.asking import Asked, Errand
from headrace.deploy.bench.ground import Ground, settle
from headrace.deploy.bench.measured_process import Invalid, MeasuredProcess
from headrace.deploy.bench.swap_chain import SwapChain
from headrace.deploy.processes import free_port
from headrace.deploy.scrape import Readings, scrape
from headrace.schemas import HistoryEntry
from headrace.streams.kafka import ensure_topics
from headrace.streams.signing import SigningKey
from headrace.streams.weights_channel import WeightsPublisher

ITEMS = 40_000
SPELL_S = 4.0
CONNECTIONS = 4
KEPT = 5
HISTORIES, STEPS = 200, 8
WARM_UP_SWAPS = 200
READY_TIMEOUT_S, SWAPPED_TIMEOUT_S = 60.0, 30.0


@dataclass(frozen=True)
class Load:
    """So many swaps, `per_s` a second in spells, and `asked_per_s` questions a second in spells with swaps and without."""

    swaps: int
    per_s: float
    asked_per_s: float

    @property
    def each_spell(self) -> int:
        """How many swaps a whole spell has."""
        return round(self.per_s * SPELL_S)

    @property
    def spells(self) -> int:
        """How many spells have swaps."""
        return math.ceil(self.swaps / (self.per_s * SPELL_S))


@dataclass(frozen=True)
class SwapsUnderLoad:
    """Latencies are in milliseconds. `torn` is of the `checked` answers, which are a sample; `swaps` is what the gateway has counted."""

    swaps: int
    requests: int
    failed: int
    checked: int
    torn: int
    p50_with: float
    p50_without: float
    p99_with: float
    p99_without: float
    longest_with: float
    longest_without: float

    @property
    def p99_ratio(self) -> float:
        """The p99 in spells with swaps over that in spells without."""
        return self.p99_with / self.p99_without


class Announced:
    """A chain that is published as the learner does it."""

    def __init__(self, bootstrap: str, signing: SigningKey) -> None:
        self._chain = SwapChain(ITEMS)
        self._publisher = WeightsPublisher(bootstrap, "bench", signing=signing)
        self._publisher.publish(*self._chain.snapshot)

    def publish(self) -> None:
        """Publish the next delta."""
        self._publisher.publish(*self._chain.delta())


def measure_swaps(ground: Ground, load: Load, tell: Callable[[str], None]) -> SwapsUnderLoad:
    """Publish updates in spells of 4 s, while the gateway is asked all the time. Raises Invalid."""
    ensure_topics(ground.bootstrap)
    keys = ground.data / "keys"
    updates = Announced(ground.bootstrap, SigningKey.create(keys))
    port = free_port()
    variables = {
        "HEADRACE_KAFKA": ground.bootstrap,
        "HEADRACE_REDIS": ground.redis_url,
        "HEADRACE_HOME": str(ground.data),
        "HEADRACE_GATEWAY_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    gateway = MeasuredProcess(
        [sys.executable, "-m", "headrace.deploy.cli", "run", "gateway"], ground.home / "logs" / "swap-gateway.log", variables
    )
    try:

        def holds_weights() -> bool:
            gateway.require_alive()
            return _swaps(port) >= 1

        settle(holds_weights, "the gateway holds the first weights", READY_TIMEOUT_S)
        return _under_load(ground, gateway, port, updates, load, tell)
    finally:
        gateway.stop()


def _under_load(
    ground: Ground, gateway: MeasuredProcess, port: int, updates: Announced, load: Load, tell: Callable[[str], None]
) -> SwapsUnderLoad:
    histories = _histories()
    # The first spells warm up what is asked, and what swaps need of gateway and broker, and are not counted.
    seconds = 2 * (load.spells + 1) * SPELL_S
    file = ground.data / "asked.jsonl"
    bodies = [_body(history) for history in histories]
    errand = Errand(port=port, bodies=bodies, rate=load.asked_per_s, seconds=seconds, connections=CONNECTIONS, kept=KEPT, file=str(file))
    errand_file = ground.data / "errand.json"
    errand_file.write_bytes(msgspec.json.encode(errand))
    command = [sys.executable, "-m", "headrace.deploy.bench.asking", str(errand_file)]
    asker = MeasuredProcess(command, ground.home / "logs" / "swap-asking.log")
    try:
        on: list[tuple[int, int]] = []
        _publish_evenly(updates, WARM_UP_SWAPS, WARM_UP_SWAPS / (2 * SPELL_S - 1.0))
        settle(lambda: _swaps(port) > WARM_UP_SWAPS, "the gateway has swapped the first updates", SWAPPED_TIMEOUT_S)
        before = _swaps(port)
        for spell in range(load.spells):
            tell(f"spell {spell + 1} of {load.spells}")
            time.sleep(SPELL_S)
            began_ns = time.time_ns()
            _publish_evenly(updates, min(load.each_spell, load.swaps - load.each_spell * spell), load.per_s)
            time.sleep(0.2)
            on.append((began_ns, time.time_ns()))
        settle(lambda: _swaps(port) - before >= load.swaps, f"the gateway has swapped {load.swaps} times", SWAPPED_TIMEOUT_S)
        gateway.require_alive()
        asker.result(timeout_s=seconds)
    finally:
        asker.stop()
    asked = [msgspec.json.decode(line, type=Asked) for line in file.read_bytes().splitlines()]
    return _found(ground, asked, histories, on, int(_swaps(port) - before))


def _publish_evenly(updates: Announced, count: int, per_s: float) -> None:
    began_s = time.monotonic()
    for turn in range(count):
        time.sleep(max(0.0, began_s + turn / per_s - time.monotonic()))
        updates.publish()


def _found(
    ground: Ground, asked: Sequence[Asked], histories: Sequence[tuple[HistoryEntry, ...]], on: Sequence[tuple[int, int]], swaps: int
) -> SwapsUnderLoad:
    counted = [one for one in asked if on[0][0] - SPELL_S * 1e9 <= one.due_ns <= on[-1][1]]
    with_swaps = [one for one in counted if any(start <= one.due_ns <= end for start, end in on)]
    # What is due right after the last swap of a spell may still wait for it.
    without = [one for one in counted if not any(start - 5e7 <= one.due_ns <= end + 2e8 for start, end in on)]
    took = {True: _latencies(with_swaps), False: _latencies(without)}
    answers = [Answer(histories[one.body], one.probabilities, one.version, one.sha256) for one in asked if one.probabilities]
    checked = check_answers(ground.bootstrap, answers)
    if checked.unknown:
        raise Invalid(f"{checked.unknown} answers name versions that were never published")
    return SwapsUnderLoad(
        swaps=swaps,
        requests=len(asked),
        failed=sum(bool(one.failed) for one in asked),
        checked=checked.checked,
        torn=checked.torn,
        p50_with=_quantile(took[True], 0.5),
        p50_without=_quantile(took[False], 0.5),
        p99_with=_quantile(took[True], 0.99),
        p99_without=_quantile(took[False], 0.99),
        longest_with=took[True][-1],
        longest_without=took[False][-1],
    )


def _latencies(asked: Sequence[Asked]) -> list[float]:
    return sorted((one.done_ns - one.due_ns) / 1e6 for one in asked if not one.failed)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _histories() -> list[tuple[HistoryEntry, ...]]:
    draw = torch.Generator().manual_seed(2)
    items = torch.randint(0, ITEMS, (HISTORIES, STEPS), generator=draw).tolist()
    return [
        tuple(HistoryEntry(f"item-{item}", "view", 1_760_000_000_000 + 30_000 * place) for place, item in enumerate(row)) for row in items
    ]


def _body(history: Sequence[HistoryEntry]) -> str:
    steps = [{"item_id": entry.item_id, "kind": entry.kind, "time_ms": entry.time_ms} for entry in history]
    return msgspec.json.encode({"history": steps, "k": 20}).decode()


def _swaps(port: int) -> float:
    readings = Readings()
    readings.take("gateway", 0, scrape(port, 10.0) or "")
    return readings.total("headrace_weight_swaps_total")
