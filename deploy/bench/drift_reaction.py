"""What a reaction is worth: the whole model on the simulator's shop, told of a drift or of a false alarm, reacting or not.

The alarm comes by the shipped watches on the model's own losses, within the run; a false alarm is made up. What is done about it is
decided by the shipped policy (`watching.reaction`), and taken back where it says so.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.deploy.bench.drift_streams import Plan, planting
from headrace.online_model.next_item import NextItemModel
from headrace.online_model.watching.episodes import EpisodeChange
from headrace.online_model.watching.reaction import Reactions
from headrace.online_model.watching.signals import Batch, EventSignals
from headrace.online_model.watching.watchtower import Watchtower
from headrace.schemas import HistoryEntry
from headrace.schemas.events import Click, shopper_id
from headrace.streams.simulator import simulate

EVENTS, DRIFT_AT = 20_000, 12_000
SHOPPERS, ITEMS = 400, 400
ASKED_FROM = 8_000
DEPTH = 20
SHARES = (1.0, 0.85, 0.2)
# The clock that the policy sees: 2,000 events a second would settle nothing in so short a run.
MS_PER_EVENT = 60
QUALITY_EVENTS = 250
BUCKET = 1_000
TOGETHER = 64


@dataclass(frozen=True)
class Course:
    """One run: NDCG@20 by thousands of events from `ASKED_FROM` on, when the alarm came, and what became of the reaction."""

    seed: int
    share: float
    reacts: bool
    ndcg: list[float]
    alarm_at: int | None
    states: list[str]

    @property
    def lost(self) -> float:
        """The area below the level before the drift, in NDCG times events."""
        level = self._level()
        return BUCKET * sum(level - each for each in self._after())

    @property
    def level(self) -> float:
        """The mean NDCG after the drift, or the false alarm."""
        return float(np.mean(self._after()))

    def told(self) -> dict[str, Any]:
        """Return the course as it stands in the JSON."""
        return {
            "seed": self.seed,
            "changed_share": self.share,
            "reacts": self.reacts,
            "ndcg": [round(each, 4) for each in self.ndcg],
            "alarm_after_events": self.alarm_at - DRIFT_AT if self.alarm_at is not None else None,
            "reactions": self.states,
        }

    def _level(self) -> float:
        before = self.ndcg[: (DRIFT_AT - ASKED_FROM) // BUCKET]
        return float(np.mean(before[len(before) // 2 :]))

    def _after(self) -> list[float]:
        return self.ndcg[(DRIFT_AT - ASKED_FROM) // BUCKET :]


def course(seed: int, share: float, reacts: bool) -> Course:
    """Run the model over a stream in which the taste of this share of the shoppers changes at once; with 0, nothing changes.

    Where nothing changes, an alarm is made up at the same place.
    """
    import torch

    torch.set_num_threads(1)
    model, signals, on_call = NextItemModel(seed=seed), EventSignals(), _OnCall(share, reacts)
    histories: dict[str, tuple[HistoryEntry, ...]] = {}
    gains: list[list[float]] = [[] for _ in range((EVENTS - ASKED_FROM) // BUCKET)]
    hits: deque[bool] = deque(maxlen=QUALITY_EVENTS)
    for number, shopper, step in _steps(seed, share):
        history = histories.get(shopper, ())
        if history and history[-1].item_id != step.item_id:
            ranked = model.rank(shopper, history, DEPTH)
            gain = 1.0 / math.log2(2 + ranked.index(step.item_id)) if step.item_id in ranked else 0.0
            hits.append(gain > 0)
            if number >= ASKED_FROM:
                gains[(number - ASKED_FROM) // BUCKET].append(gain)
            loss = -math.log(max(model.chance(shopper, history, step.item_id), 1e-5))
            signals.add(step, history, shopper_id=shopper, loss=loss, hit=gain > 0)
        model.learn(shopper, history, step)
        histories[shopper] = (*history[-49:], step)
        if len(signals) >= TOGETHER:
            on_call.look(model, signals.take(), number, float(np.mean(hits)))
    return Course(seed, share, reacts, [float(np.mean(each)) for each in gains], on_call.alarm_at, on_call.states)


class _OnCall:
    """Hears the watchtower, and does to the model what the policy says, or only notes it."""

    def __init__(self, share: float, reacts: bool) -> None:
        self.alarm_at: int | None = None
        self.states: list[str] = []
        self._share, self._reacts = share, reacts
        self._tower, self._policy = Watchtower(), Reactions()

    def look(self, model: NextItemModel, batch: Batch, number: int, quality: float) -> None:
        """Take in the newest events, up to `number`, and the share of hits among the last."""
        now_ms = number * MS_PER_EVENT
        changes = [change for change in self._tower.observe(batch) if change.kind == "concept" and change.state == "started"]
        for _, settled in self._policy.measure(quality, now_ms):
            self.states.append(settled.state)
            if settled.state == "withdrawn" and self._reacts:
                model.withdraw()
        if number < DRIFT_AT:
            return
        if self.alarm_at is None and (changes or not self._share):
            self.alarm_at = number
            reaction = self._policy.decide(changes[0] if self._share else _made_up(now_ms), quality, now_ms)
            if reaction is not None and self._reacts:
                model.react(reaction.rate_scale, reaction.replay_share, reaction.memory_keep)
                self.states.append("begun")
        for deeper in self._policy.deepen(quality, now_ms):
            self.states.append(f"cut after {number - DRIFT_AT} events")
            if self._reacts:
                model.cut(deeper.memory_keep)


def _steps(seed: int, share: float) -> Iterator[tuple[int, str, HistoryEntry]]:
    """Yield number of event, shopper and step."""
    categories: dict[str, str] = {}
    planted = planting(Plan("abrupt", EVENTS, (DRIFT_AT,), share=share)) if share else None
    for number, event in enumerate(simulate(seed, shoppers=SHOPPERS, items=ITEMS, events=EVENTS, before=planted)):
        shopper = shopper_id(event)
        if isinstance(event, Click):
            categories[event.item_id] = event.category or ""
            yield number, shopper, HistoryEntry(event.item_id, event.action, event.event_time_ms, event.price, event.category)
        else:
            for line in event.lines:
                category = categories[line.item_id]
                yield number, shopper, HistoryEntry(line.item_id, "purchase", event.event_time_ms, line.unit_price, category)


def _made_up(now_ms: int) -> EpisodeChange:
    """Return the beginning of an episode that is none."""
    return EpisodeChange(
        episode_id="made-up",
        state="started",
        kind="concept",
        severity="critical",
        signal="prequential_loss",
        detector="windows",
        level_before=0.0,
        level_after=0.0,
        window=1,
        observations=1,
        since_ms=now_ms,
        time_ms=now_ms,
        p_value=0.5,
        reaction="learn_faster",
    )
