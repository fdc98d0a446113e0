"""What `headrace bench gate` measures: whether bad updates get out, and honest ones do, beside a plain gate and none.

One tuner learns a stream round by round, as the learner does. At each of many points copies of it get the same round with something bad
planted (`planted_updates`), or go on through the next rounds with fake clicks among the real ones (`fake_clicks`).
"""

import copy
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from headrace.deploy.bench.fake_clicks import LOOKS, Campaign, growth, learn, run_campaign, settle, targets
from headrace.deploy.bench.learned_rounds import History, LearnedRound, learned_rounds, real_or_simulated
from headrace.deploy.bench.planted_updates import PlantedTuner
from headrace.deploy.bench.progress import Progress
from headrace.online_model.fine_tuning import TuningPlan
from headrace.online_model.gate_state import decode_state, encode_state
from headrace.online_model.judgement import GatePlan
from headrace.online_model.surges import SurgePlan
from headrace.online_model.weights import ModelCopy

KINDS = ("nan", "learning_rate_x1000", "shuffled_labels", "zeroed_rows", "wrong_vocabulary")
SHARES = {"5pct": 0.05, "20pct": 0.20}
NEVER = 10**9
# Neither surges nor the panel's lists nor slides say anything: what is left could not hold a campaign back.
UNGUARDED_SURGES = SurgePlan(settle=NEVER)
UNGUARDED_GATE = GatePlan(growth=float(NEVER), labels_errors=float(NEVER), chain_alarm_rate=1e-300)
PANEL = 512


@dataclass(frozen=True)
class Options:
    """`each` bad updates of each kind are planted, after `warm_up` honest rounds.

    At each `control_every`-th campaigns also run unguarded, and the tuner is tried as it is after a restart.
    """

    each: int = 100
    warm_up: int = 60
    events_per_round: int = 256
    steps: int = 2
    control_every: int = 5
    seed: int = 1
    corruptions: int = 1000
    schedules: int = 10_000

    @property
    def rounds(self) -> int:
        """How many honest rounds there are, those in which campaigns run on included."""
        return self.warm_up + self.each + LOOKS[-1]

    @property
    def steps_of_progress(self) -> int:
        """How many steps the progress shows."""
        return self.warm_up + self.each + 2


def measure_gate(data: Path, options: Options, progress: Progress) -> dict[str, Any]:
    """Return all figures. `data` is the folder with real data, where there is any."""
    source, events = real_or_simulated(data, options.rounds * options.events_per_round, options.seed)
    rounds = list(islice(learned_rounds(events, options.events_per_round), options.rounds))
    dice = np.random.default_rng(options.seed)
    tuner = PlantedTuner(ModelCopy(), TuningPlan(steps=options.steps), options.seed)
    unguarded = PlantedTuner(ModelCopy(), replace(tuner.plan, gate=UNGUARDED_GATE, surges=UNGUARDED_SURGES), options.seed)
    run = _Run(tuner, unguarded, rounds, options, dice, progress)
    found = run.all()
    found |= _attack_the_chain(options, progress)
    return {"data": source, "rounds": len(rounds), "events_per_round": options.events_per_round, "each": options.each, **found}


def _attack_the_chain(options: Options, progress: Progress) -> dict[str, int]:
    """Return how many corrupted messages and files were taken in, and after how many schedules of delivery weights were wrong."""
    from headrace.deploy.bench.chain_attacks import corruptions, schedules

    found = {}
    for name, attack, count in (
        ("corruptions_accepted", corruptions, options.corruptions),
        ("schedules_wrong", schedules, options.schedules),
    ):
        progress.begin(name)
        found[name] = attack(count, options.seed, lambda done: progress.tell(str(done))) if count else 0
        progress.step()
    return found


class _Run:
    def __init__(
        self,
        tuner: PlantedTuner,
        unguarded: PlantedTuner,
        rounds: Sequence[LearnedRound],
        options: Options,
        dice: np.random.Generator,
        progress: Progress,
    ) -> None:
        self._tuner, self._unguarded = tuner, unguarded
        self._rounds, self._options, self._dice, self._progress = rounds, options, dice, progress
        self._held_out: deque[History] = deque(maxlen=PANEL)
        self._published: Counter[str] = Counter()
        self._plain_published: Counter[str] = Counter()
        self._caught_by: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self._refused: Counter[str] = Counter()
        self._plain_refused = 0
        self._honest = 0
        self._restarts = 0
        self._honest_after_restart = 0
        self._published_after_restart: Counter[str] = Counter()
        self._gate_ms: list[float] = []
        self._round_ms: list[float] = []
        self._campaigns: dict[str, list[Campaign]] = {name: [] for name in ("honest", *SHARES, *(f"unguarded_{name}" for name in SHARES))}

    def all(self) -> dict[str, Any]:
        options = self._options
        for number, one in enumerate(self._rounds[: options.warm_up + options.each]):
            self._progress.begin(f"round {number}")
            if number >= options.warm_up:
                self._plant(one)
                if self._is_control(number):
                    self._restart(one)
                self._campaign(number)
            self._learn(one)
            self._held_out.extend(one.held_out.values())
            self._progress.step()
        shares = self._campaigns
        return {
            "published_bad": {kind: self._published[kind] for kind in KINDS},
            "caught_by": {kind: dict(caught) for kind, caught in self._caught_by.items()},
            "honest_pass_rate": 1.0 - sum(self._refused.values()) / self._honest,
            "honest_rounds": self._honest,
            "honest_refused_by": dict(self._refused),
            "after_restart": {
                "restarts": self._restarts,
                "honest_passed": self._honest_after_restart,
                "published_bad": {kind: self._published_after_restart[kind] for kind in KINDS},
            },
            **{f"exposure_ratio_{name}": growth(shares[name])["all"] for name in SHARES},
            "exposure": {name: growth(campaigns) for name, campaigns in shares.items() if campaigns},
            "campaigns": {name: len(campaigns) for name, campaigns in shares.items()},
            "gate_ms": {"p50": float(np.median(self._gate_ms)), "p99": float(np.quantile(self._gate_ms, 0.99))},
            "gate_share_of_round": float(np.sum(self._gate_ms) / np.sum(self._round_ms)),
            "control": {
                "plain gate": {
                    "published_bad": {kind: self._plain_published[kind] for kind in KINDS},
                    "honest_pass_rate": 1.0 - self._plain_refused / self._honest,
                },
                "unguarded": {f"exposure_ratio_{name}": growth(shares[f"unguarded_{name}"])["all"] for name in SHARES},
                "no fake clicks": {"exposure_ratio": growth(shares["honest"])["all"]},
            },
        }

    def _plant(self, one: LearnedRound) -> None:
        """Try each kind of bad update on a copy."""
        for kind in KINDS:
            tuner = copy.deepcopy(self._tuner)
            tuner.plant(kind, self._dice)
            learned = tuner.run(one.histories, shoppers=one.shoppers, fresh=one.fresh)
            self._published[kind] += learned.verdict.passed
            self._plain_published[kind] += tuner.plain_passes
            self._caught_by[kind][learned.verdict.check or "nothing"] += 1

    def _restart(self, one: LearnedRound) -> None:
        """Try each kind of bad update, and the honest one, on tuners of new processes that go on from what the gate has kept."""
        self._restarts += 1
        words, arrays = encode_state(self._tuner.state())
        for kind in (*KINDS, ""):
            tuner = PlantedTuner(copy.deepcopy(self._tuner.live), self._tuner.plan, self._options.seed)
            tuner.restore(decode_state(words, arrays))
            tuner.plant(kind, self._dice)
            passed = tuner.run(one.histories, shoppers=one.shoppers, fresh=one.fresh).verdict.passed
            if kind:
                self._published_after_restart[kind] += passed
            else:
                self._honest_after_restart += passed

    def _is_control(self, number: int) -> bool:
        return (number - self._options.warm_up) % self._options.control_every == 0

    def _campaign(self, number: int) -> None:
        panel = list(self._held_out)
        drawn = targets(self._tuner.live, panel, 1, self._dice)
        if not drawn:
            return
        ahead = self._rounds[number : number + LOOKS[-1]]
        is_control = self._is_control(number)
        for name, share in SHARES.items():
            self._progress.tell(f"fake clicks, {share:.0%}")
            self._campaigns[name].append(run_campaign(self._tuner, ahead, share, drawn[0], panel, self._dice))
            if is_control:
                self._campaigns[f"unguarded_{name}"].append(run_campaign(self._unguarded, ahead, share, drawn[0], panel, self._dice))
        if is_control:
            self._campaigns["honest"].append(run_campaign(self._tuner, ahead, 0.0, drawn[0], panel, self._dice))

    def _learn(self, one: LearnedRound) -> None:
        # The gate's own clock, so that its share is one of like by like whatever else the machine does.
        started_s = time.thread_time()
        learned = self._tuner.run(one.histories, shoppers=one.shoppers, fresh=one.fresh)
        took_ms = 1000.0 * (time.thread_time() - started_s)
        settle(self._tuner, learned)
        learn(self._unguarded, one)
        self._honest += 1
        self._plain_refused += not self._tuner.plain_passes
        if not learned.verdict.passed:
            self._refused[learned.verdict.check] += 1
        elif "loss_evidence" in learned.verdict.metrics:
            self._gate_ms.append(learned.verdict.metrics["gate_ms"])
            self._round_ms.append(took_ms)


def verdicts(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return each figure with its goal and whether that is met."""
    rows = [(f"published_bad {kind}", str(count), "0", count == 0) for kind, count in found["published_bad"].items()]
    again = found["after_restart"]
    bad = sum(again["published_bad"].values())
    rows.append(("published_bad after a restart", str(bad), "0", bad == 0))
    rate, ratio = found["honest_pass_rate"], found["exposure_ratio_5pct"]
    rows.append(("honest_pass_rate", f"{rate:.4f}", ">= 0.98", rate >= 0.98))
    rows.append(("exposure_ratio_5pct", f"{ratio:.2f}", "<= 1.5", ratio <= 1.5))
    rows.append(("exposure_ratio_20pct", f"{found['exposure_ratio_20pct']:.2f}", "is told", True))
    told = [name for name in ("corruptions_accepted", "schedules_wrong") if name in found]
    return rows + [(name, str(found[name]), "0", found[name] == 0) for name in told]
