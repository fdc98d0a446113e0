"""How soon an event is in served weights, and a finished step in every scorer, while a shop's events flow at a steady rate.

All parts run as they do in production (feature worker, learner, recommender, gateway), on this machine, with the gate. Both figures are
those that the scorers' own metrics hold: taken at each swap, from the publish times that a manifest samples and from the time at which
its training step ended. What falls into the first seconds is left out.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from headrace.deploy.bench.ground import Ground
from headrace.deploy.bench.measured_process import Invalid, cpu_s
from headrace.deploy.parts import DEMO_PARTS
from headrace.deploy.processes import free_port
from headrace.deploy.replay import Replay
from headrace.deploy.scrape import quantile, scrape
from headrace.deploy.settings import Settings
from headrace.deploy.supervisor import Supervisor
from headrace.schemas import Event
from headrace.streams.kafka import ensure_topics
from headrace.streams.signing import ensure_keys

SCORERS = ("recommender", "gateway")
FRESHNESS = "headrace_weights_freshness_seconds"
DELAY = "headrace_weights_delay_seconds"
SHARES = (0.5, 0.99)
READY_TIMEOUT_S = 120.0
WARM_UP_S = 15.0


@dataclass(frozen=True)
class WeightsFreshness:
    """Milliseconds, read off histograms with steps of a fifth: event to effect, and end of a step to served by the slower scorer.

    `swaps` is the least of any scorer, `left_out` counts the events that the learner could not keep up with, `cpu_share` the
    processor time of each part as a share of one core.
    """

    freshness_ms: dict[str, float]
    delay_ms: dict[str, float]
    swaps: int
    left_out: int
    refused: int
    events_per_s: float
    cpu_share: dict[str, float]


def measure_freshness(
    ground: Ground, events: Sequence[Event], rate: float, seconds: float, tell: Callable[[str], None]
) -> WeightsFreshness:
    """Let events flow for `seconds` after a warm-up and return what the scorers saw. Raises Invalid, PartFailed."""
    ensure_topics(ground.bootstrap)
    given = {"HEADRACE_KAFKA": ground.bootstrap, "HEADRACE_REDIS": ground.redis_url, "HEADRACE_HOME": str(ground.data / "parts")}
    settings = replace(Settings.load(given), gateway_port=free_port())
    ensure_keys(settings.signing_key, settings.trusted_keys)
    supervisor = Supervisor(settings, DEMO_PARTS, tell)
    replay = Replay(ground.bootstrap, events, "bench", rate, WARM_UP_S + seconds)
    try:
        supervisor.start()
        supervisor.wait_until_ready(
            READY_TIMEOUT_S, lambda ready: tell(f"waiting for {', '.join(n for n, well in ready.items() if not well)}")
        )
        replay.start()
        _wait(WARM_UP_S, replay, supervisor, tell)
        before, cpu_before, published = _look(supervisor), _cpu(supervisor), replay.acknowledged
        began_s = time.monotonic()
        _wait(seconds, replay, supervisor, tell)
        took_s = time.monotonic() - began_s
        after, cpu_after = _look(supervisor), _cpu(supervisor)
        rate_found = (replay.acknowledged - published) / took_s
    finally:
        replay.stop()
        supervisor.stop()
    if any(supervisor.restarts().values()):
        raise Invalid(f"a part has died meanwhile: {supervisor.restarts()}")
    change = {part: {name: value - before[part].get(name, 0.0) for name, value in after[part].items()} for part in after}
    freshness = {f"p{100 * share:g}": 1000 * _quantile(change, SCORERS, FRESHNESS, share) for share in SHARES}
    delay = {f"p{100 * share:g}": 1000 * max(_quantile(change, (part,), DELAY, share) for part in SCORERS) for share in SHARES}
    return WeightsFreshness(
        freshness_ms=freshness,
        delay_ms=delay,
        swaps=int(min(change[part].get("headrace_weight_swaps_total", 0) for part in SCORERS)),
        left_out=int(change["learner"].get("headrace_learner_events_skipped_total", 0)),
        refused=int(sum(value for name, value in change["learner"].items() if 'outcome="refused"' in name)),
        events_per_s=rate_found,
        cpu_share={part: (cpu_after[part] - cpu_before[part]) / took_s for part in cpu_after},
    )


def _wait(seconds: float, replay: Replay, supervisor: Supervisor, tell: Callable[[str], None]) -> None:
    ends_s = time.monotonic() + seconds
    while (left_s := ends_s - time.monotonic()) > 0:
        if replay.failure is not None:
            raise replay.failure
        supervisor.tend()
        tell(f"{replay.acknowledged} events published, {left_s:.0f} s to go")
        time.sleep(min(0.5, left_s))


def _cpu(supervisor: Supervisor) -> dict[str, float]:
    return {name: cpu_s(child.process.pid) for name, child in supervisor.children.items()}


def _look(supervisor: Supervisor) -> dict[str, dict[str, float]]:
    """Return each part's samples, by their names with labels."""
    found = {}
    for name, child in supervisor.children.items():
        lines = [line.rpartition(" ") for line in (scrape(child.port, 10.0) or "").splitlines() if line.startswith("headrace_")]
        found[name] = {sample: float(value) for sample, _, value in lines}
    return found


def _quantile(change: dict[str, dict[str, float]], parts: Sequence[str], metric: str, share: float) -> float:
    cumulative: dict[float, float] = {}
    for part in parts:
        for name, value in change[part].items():
            if name.startswith(f'{metric}_bucket{{le="'):
                bound = float(name.split('"')[1])
                cumulative[bound] = cumulative.get(bound, 0.0) + value
    found = quantile(cumulative, share)
    if found is None:
        raise Invalid(f"{metric} holds nothing for {', '.join(parts)}: no weights were swapped in")
    return found
