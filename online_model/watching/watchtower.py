"""All watches together: takes batches of values, returns what has changed about episodes of drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.watching.budget import Budget
from headrace.online_model.watching.configuration import Configuration, Watch, load_configuration
from headrace.online_model.watching.episodes import EpisodeChange, Episodes
from headrace.online_model.watching.explaining import SegmentLevels
from headrace.online_model.watching.fingerprints import StepProfile
from headrace.online_model.watching.histograms import Histogram
from headrace.online_model.watching.plane import Plane
from headrace.online_model.watching.signals import EVENT_MIXES, EVENT_SIGNALS, LASTING_LOSS, LIST_SIGNALS, Batch, Observation

SERVICE_BLOCK = 8
SURPRISING = 0.5


@dataclass(frozen=True)
class SignalState:
    """A signal as a dashboard shows it: level of the newest values and what is usual, histograms then and now on the same edges.

    The histograms are shares that add up to 1, (16,), the edges (17,); both are empty for mixes and before 512 values have come.
    """

    name: str
    level: float
    baseline: float
    histogram_then: tuple[float, ...]
    histogram_now: tuple[float, ...]
    edges: tuple[float, ...]
    state: Literal["warming_up", "stable", "drifting"]
    since_ms: int | None


class Watchtower:
    """Watches signals as a configuration says. One thread at a time; the state can be kept as JSON.

    Signals that come with the same events are watched in one plane: those of events, those of lists, and each other one by itself;
    likewise each segment that a watch is narrowed to.
    """

    def __init__(self, configuration: Configuration | None = None) -> None:
        self.configuration = configuration or load_configuration()
        shares = [watch.share for watch in self.configuration.watches]
        groups: dict[str, list[Watch]] = {}
        for watch in self.configuration.watches:
            groups.setdefault(_plane_of(watch), []).append(watch)
        self._planes: dict[str, Plane] = {}
        for name, watches in groups.items():
            block = self.configuration.block if name.startswith(("events", "lists")) else SERVICE_BLOCK
            budget = Budget(self.configuration.false_alarms_per_million, shares, block)
            self._planes[name] = Plane(watches, EVENT_MIXES, block, budget)
        self._histograms = {watch.name: Histogram() for watch in self.configuration.watches if watch.signal not in EVENT_MIXES}
        self._levels = SegmentLevels(self.configuration.explain_by)
        self._steps = StepProfile(self.configuration.block)
        self._episodes = Episodes(self.configuration, self._planes, self._levels, self._steps)

    def observe(self, batch: Batch) -> list[EpisodeChange]:
        """Take in the values of events, in the order in which they came; return what has changed."""
        if not len(batch):
            return []
        changes: list[EpisodeChange] = []
        self._levels.add(batch)
        if len(batch.steps):
            self._steps.add(batch.steps, self._surprising(batch))
        for name, plane in self._planes.items():
            own = _part(batch, plane.watches)
            if own is None:
                continue
            for watch in plane.watches:
                if watch.signal in own.values:
                    self._histograms[watch.name].add(own.values[watch.signal], is_drifting=self._episodes.is_moving(watch.name))
            findings = plane.add(own)
            changes += self._episodes.follow(name, findings, int(own.times_ms[-1]))
        return changes

    def _surprising(self, batch: Batch) -> NDArray[np.bool_]:
        """Return which events' lasting loss is more than a deviation above what it is on average; all where none is told."""
        plane = self._planes.get("events")
        if plane is None or LASTING_LOSS not in batch.values or LASTING_LOSS not in plane.columns.numbers:
            return np.ones(len(batch), np.bool_)
        column = plane.columns.of(LASTING_LOSS)[0]
        with np.errstate(invalid="ignore"):
            surprising: NDArray[np.bool_] = batch.values[LASTING_LOSS] > plane.means[column] + SURPRISING * plane.deviations[column]
        return surprising

    def observe_one(self, observation: Observation) -> list[EpisodeChange]:
        """Take in one value of a service's signal; return what has changed."""
        return self.observe(
            Batch(
                np.array([observation.time_ms], np.int64),
                {observation.signal: np.array([observation.value], np.float64)},
                segments={key: [name] for key, name in observation.segment.items()},
            )
        )

    def state(self) -> list[SignalState]:
        """Return all signals as they stand, in the order of the configuration; those without any value are left out."""
        states = []
        for watch in self.configuration.watches:
            plane = self._planes[_plane_of(watch)]
            column = plane.columns.of(watch.signal)[0]
            if watch.signal in EVENT_MIXES or not plane.seen[column]:
                continue
            histogram = self._histograms[watch.name]
            level, baseline = plane.levels(column)
            moving_since = self._episodes.moving_since(watch.name)
            is_warm = plane.seen[column] >= watch.warm_up
            states.append(
                SignalState(
                    watch.name,
                    level,
                    baseline,
                    histogram.shares(histogram.then),
                    histogram.shares(histogram.now),
                    tuple(histogram.edges.tolist()),
                    "drifting" if moving_since is not None else "stable" if is_warm else "warming_up",
                    moving_since,
                )
            )
        return states

    def saved(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON can hold it."""
        return {
            "planes": {name: plane.saved() for name, plane in self._planes.items() if plane.observations},
            "histograms": {name: histogram.saved() for name, histogram in self._histograms.items()},
            "steps": self._steps.saved(),
            "episodes": self._episodes.saved(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved by a tower of the same configuration. Raises ValueError where it was another."""
        for name, plane in saved["planes"].items():
            if name not in self._planes:
                raise ValueError(f"planes: some of {', '.join(self._planes)} were expected; saved was {name}")
            self._planes[name].restore(plane)
        for name, histogram in saved["histograms"].items():
            self._histograms[name].restore(histogram)
        self._steps.restore(saved["steps"])
        self._episodes.restore(saved["episodes"])


def _plane_of(watch: Watch) -> str:
    if watch.signal in EVENT_SIGNALS or watch.signal in EVENT_MIXES:
        source = "events"
    elif watch.signal in LIST_SIGNALS:
        source = "lists"
    else:
        source = watch.signal
    return f"{source}{watch.name.removeprefix(watch.signal)}"


def _part(batch: Batch, watches: Sequence[Watch]) -> Batch | None:
    """Return the part of a batch that a plane watches; None where it holds none of its signals or events."""
    signals = [watch.signal for watch in watches]
    if not any(signal in batch.values or signal in batch.mixes for signal in signals):
        return None
    segment = watches[0].segment
    if not segment:
        return batch
    chosen = np.ones(len(batch), np.bool_)
    for key, name in segment.items():
        if key not in batch.segments:
            return None
        chosen &= np.array([other == name for other in batch.segments[key]])
    if not chosen.any():
        return None
    places = np.flatnonzero(chosen).tolist()
    return Batch(
        batch.times_ms[chosen],
        {name: values[chosen] for name, values in batch.values.items()},
        {name: [names[place] for place in places] for name, names in batch.mixes.items()},
        batch.segments,
    )
