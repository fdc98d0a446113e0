"""All watches together: takes batches of values, returns what has changed about episodes of drift."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.online_model.watching.configuration import Configuration, load_configuration
from headrace.online_model.watching.episodes import EpisodeChange
from headrace.online_model.watching.signals import Batch, Observation


@dataclass(frozen=True)
class SignalState:
    """A signal as a dashboard shows it: level of the newest values and what is usual, histograms then and now on the same edges."""

    name: str
    level: float
    baseline: float
    histogram_then: tuple[float, ...]
    histogram_now: tuple[float, ...]
    edges: tuple[float, ...]
    state: Literal["warming_up", "stable", "drifting"]
    since_ms: int | None


class Watchtower:
    """Watches signals as a configuration says. One thread at a time; the state can be kept as JSON."""

    def __init__(self, configuration: Configuration | None = None) -> None:
        self.configuration = configuration or load_configuration()

    def observe(self, batch: Batch) -> list[EpisodeChange]:
        """Take in the values of events, in the order in which they came; return what has changed."""
        return []

    def observe_one(self, observation: Observation) -> list[EpisodeChange]:
        """Take in one value of a service's signal; return what has changed."""
        return []

    def state(self) -> list[SignalState]:
        """Return all signals as they stand."""
        return []

    def saved(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON can hold it."""
        return {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved by a tower of the same configuration."""
