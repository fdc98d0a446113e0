"""What is watched: named values of events and services, gathered event by event and handed over in batches."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headrace.schemas import HistoryEntry

Values = NDArray[np.float64]
Times = NDArray[np.int64]

LOSS, HIT, LASTING_LOSS = "prequential_loss", "hit_rate", "lasting_loss"
EVENT_SIGNALS = (LOSS, HIT, LASTING_LOSS, "price", "gap", "history_length", "new_category", "repeated_item", "new_item", "new_shopper")
EVENT_MIXES = ("kind", "category")
LIST_SIGNALS = ("top_score", "score_entropy", "latency_ms", "feature_age_ms")
# Those whose values are 0 or 1.
SHARES = (HIT, "new_category", "repeated_item", "new_item", "new_shopper", "online_clicks")
SERVICE_SIGNALS = ("consumer_lag", "learner_lag", "online_clicks")
RECENT_STEPS = 20
LASTING_STEPS = 4
SHOPPERS_KEPT = 100_000


@dataclass(frozen=True)
class Batch:
    """Values of several signals for the same `n` events, in the order in which they came.

    `times_ms` are event times, (n,). `values` are numbers by signal, (n,) each, NaN where the event has none. `mixes` are names by
    signal, "" where there is none: what is watched of those is each name's share. `segments` are names too, by which watches are
    narrowed and findings explained: category, kind and surface. `steps` name the way from item to item, by which a drift that
    comes again is known.
    """

    times_ms: Times
    values: Mapping[str, Values] = field(default_factory=dict)
    mixes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    segments: Mapping[str, Sequence[str]] = field(default_factory=dict)
    steps: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.times_ms)


@dataclass(frozen=True)
class Observation:
    """One value of a signal that does not belong to an event of the shop: a lag, a latency, the clicks of a model version."""

    signal: str
    value: float
    time_ms: int
    segment: Mapping[str, str] = field(default_factory=dict)


class EventSignals:
    """Gathers what can be known of events beside their shoppers' histories. `take` returns what has come since the last `take`.

    Signals: the loss and the hit as they are told; the lasting loss, which is the smallest of the shopper's last four losses of items
    that were not among their last 20 (one surprise is usual; a shopper who surprises lastingly has changed, or the shop has); price;
    the gap since the shopper's step before, in seconds; the length of the history; whether the category is new to the shopper, and
    whether the item was among their last 20; whether item and shopper are new to the shop. Prices and gaps are told as logarithms,
    since both spread over powers of ten.
    """

    def __init__(self) -> None:
        self._last_losses: dict[str, tuple[float, ...]] = {}
        self._reset()

    def __len__(self) -> int:
        return len(self._times)

    def add(
        self,
        entry: HistoryEntry,
        history: Sequence[HistoryEntry],
        *,
        shopper_id: str | None = None,
        loss: float | None = None,
        hit: bool | None = None,
        is_new_item: bool = False,
        is_new_shopper: bool | None = None,
        segment: Mapping[str, str] | None = None,
    ) -> None:
        """Take in an event; `history` is what the shopper did before it, oldest first, of which the newest 20 are looked at.

        `loss` and `hit` (among the first 20) are what the model made of it before it learned from it, where it was asked.
        `segment` may name the surface and the like; category and kind are taken from the entry.
        """
        features = _features(entry, history)
        self._times.append(entry.time_ms)
        self._rows.append(
            (
                math.nan if loss is None else loss,
                math.nan if hit is None else float(hit),
                math.nan if loss is None or shopper_id is None or features[-1] == 1.0 else self._lasting(shopper_id, loss),
                *features,
                float(is_new_item),
                float(not history if is_new_shopper is None else is_new_shopper),
            )
        )
        self._kinds.append(entry.kind)
        self._steps.append(f"{history[-1].item_id}>{entry.item_id}" if history else "")
        self._categories.append(entry.category or "")
        if segment:
            for key, name in segment.items():
                names = self._others.setdefault(key, [])
                names.extend([""] * (len(self._times) - 1 - len(names)))
                names.append(name)

    def take(self) -> Batch:
        """Return the events gathered, and begin anew."""
        count = len(self._times)
        table = np.array(self._rows, np.float64).reshape(count, len(EVENT_SIGNALS))
        others = {key: names + [""] * (count - len(names)) for key, names in self._others.items()}
        batch = Batch(
            np.array(self._times, np.int64),
            {name: table[:, column] for column, name in enumerate(EVENT_SIGNALS)},
            {"kind": self._kinds, "category": self._categories},
            {"category": self._categories, "kind": self._kinds, **others},
            self._steps,
        )
        self._reset()
        return batch

    def _lasting(self, shopper_id: str, loss: float) -> float:
        losses = (*self._last_losses.pop(shopper_id, ()), loss)[-LASTING_STEPS:]
        # Back to the end of the line: who is forgotten first is who was away longest.
        self._last_losses[shopper_id] = losses
        if len(self._last_losses) > SHOPPERS_KEPT:
            del self._last_losses[next(iter(self._last_losses))]
        return min(losses) if len(losses) == LASTING_STEPS else math.nan

    def _reset(self) -> None:
        self._times: list[int] = []
        self._rows: list[tuple[float, ...]] = []
        self._kinds: list[str] = []
        self._steps: list[str] = []
        self._categories: list[str] = []
        self._others: dict[str, list[str]] = {}


def list_batch(
    times_ms: Sequence[int],
    scores: Sequence[Sequence[float]],
    latencies_ms: Sequence[float],
    feature_ages_ms: Sequence[float],
    segments: Mapping[str, Sequence[str]] | None = None,
) -> Batch:
    """Return the signals of recommendation lists: highest score, entropy of the scores (nats, made to add up to 1), times as logarithms."""
    tops = [max(listed, default=math.nan) for listed in scores]
    return Batch(
        np.array(times_ms, np.int64),
        {
            "top_score": np.array(tops, np.float64),
            "score_entropy": np.array([_entropy(listed) for listed in scores], np.float64),
            "latency_ms": np.log1p(np.maximum(0.0, np.array(latencies_ms, np.float64))),
            "feature_age_ms": np.log1p(np.maximum(0.0, np.array(feature_ages_ms, np.float64))),
        },
        segments=segments or {},
    )


def _features(entry: HistoryEntry, history: Sequence[HistoryEntry]) -> tuple[float, float, float, float, float]:
    """Return price, gap, history length, and whether category and item are new or repeated, NaN where that has no meaning."""
    price = math.nan if entry.price is None else math.log1p(entry.price)
    if not history:
        return price, math.nan, 0.0, math.nan, math.nan
    gap = math.log1p(max(0, entry.time_ms - history[-1].time_ms) / 1000)
    recent = history[-RECENT_STEPS:]
    new_category = math.nan
    if entry.category is not None:
        new_category = 1.0
        for step in recent:
            if step.category == entry.category:
                new_category = 0.0
                break
    repeated = 0.0
    for step in recent:
        if step.item_id == entry.item_id:
            repeated = 1.0
            break
    return price, gap, float(len(history)), new_category, repeated


def _entropy(scores: Sequence[float]) -> float:
    total = sum(scores)
    if total <= 0:
        return math.nan
    return -sum(score / total * math.log(score / total) for score in scores if score > 0)
