"""One run of the watchtower over a planted stream: what it told, when, and what it cost."""

import time
from dataclasses import dataclass

from headrace.deploy.bench.drift_signals import batch_of, signals_of
from headrace.deploy.bench.drift_streams import FEATURES, Plan, planted_stream
from headrace.online_model.watching.signals import Batch
from headrace.online_model.watching.watchtower import Watchtower

BATCH = 256
FIRST_DRIFT, AFTER = 150_000, 50_000
RETURNS = 40_000
MANY, APART = 20, 30_000


@dataclass(frozen=True)
class Told:
    """A change of an episode: at which event, what state, the leading signal, its first cause, and the earlier episode it is known as."""

    event: int
    state: str
    signal: str
    cause: str
    episode: str
    known: str | None


@dataclass(frozen=True)
class Run:
    """What was told in a stream of a seed and plan; `watching_s` is CPU time of the tower, for `steps` steps."""

    seed: int
    plan: Plan
    told: list[Told]
    watching_s: float
    steps: int

    def alerts(self, begin: int = 0, end: int | None = None) -> list[Told]:
        """Return the beginnings of episodes told at an event from `begin` to before `end`."""
        return [each for each in self.told if each.state == "started" and each.event >= begin and (end is None or each.event < end)]


def plan_of(kind: str, seed: int) -> Plan:
    """Return the plan of a kind of run for a seed."""
    if kind == "abrupt":
        return Plan("abrupt", FIRST_DRIFT + AFTER, (FIRST_DRIFT,))
    if kind == "gradual":
        return Plan("gradual", FIRST_DRIFT + AFTER, (FIRST_DRIFT,))
    if kind == "feature_shift":
        return Plan("feature_shift", FIRST_DRIFT + AFTER, (FIRST_DRIFT,), feature=FEATURES[seed % len(FEATURES)])
    if kind == "recurring":
        # Away, back, away, back, away: the third time away is the second return of the new taste.
        places = tuple(FIRST_DRIFT + RETURNS * number for number in range(5))
        return Plan("recurring", places[-1] + RETURNS, places)
    if kind == "many":
        places = tuple(FIRST_DRIFT + APART * number for number in range(MANY))
        return Plan("many", places[-1] + APART, places)
    raise ValueError(f"kind: abrupt, gradual, recurring, feature_shift or many was expected; the value is {kind!r}")


def run_once(seed: int, plan: Plan) -> Run:
    """Run the shipped configuration over a stream."""
    columns = planted_stream(seed, plan)
    signals = signals_of(columns, plan)
    tower = Watchtower()
    told: list[Told] = []
    watching_s = 0.0
    steps = len(columns.times_ms)
    for begin in range(0, steps, BATCH):
        end = min(steps, begin + BATCH)
        batch: Batch = batch_of(columns, signals, begin, end)
        started_s = time.process_time()
        changes = tower.observe(batch)
        watching_s += time.process_time() - started_s
        told += [
            Told(int(columns.event[end - 1]), each.state, each.signal, each.causes[0].signal, each.episode_id, each.known_episode)
            for each in changes
        ]
    return Run(seed, plan, told, watching_s, steps)
