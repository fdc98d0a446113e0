"""How findings are scored: which of them are a planted drift seen, how late, and which are false alarms."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Score:
    """Of one detector on one kind of stream: false alarms, drifts missed and planted, delays of those seen, and values in all."""

    false_alarms: int = 0
    missed: int = 0
    planted: int = 0
    values: int = 0
    delays: list[int] = field(default_factory=list)

    def add(self, found: list[int], places: list[int], values: int, within: int) -> None:
        """Count the findings of one stream."""
        seen: set[int] = set()
        for at in found:
            place = next((place for place in places if place <= at < place + within), None)
            if place is None or place in seen:
                self.false_alarms += 1
            else:
                seen.add(place)
                self.delays.append(at - place)
        self.planted += len(places)
        self.missed += len(places) - len(seen)
        self.values += values

    def take_in(self, other: "Score") -> None:
        """Count another's streams too."""
        self.false_alarms += other.false_alarms
        self.missed += other.missed
        self.planted += other.planted
        self.values += other.values
        self.delays += other.delays

    def told(self) -> dict[str, Any]:
        """Return the score as it stands in the JSON."""
        return {
            "false_alarms": self.false_alarms,
            "false_alarms_per_million": self.false_alarms / self.values * 1e6 if self.values else None,
            "missed": self.missed,
            "planted": self.planted,
            "median_delay": statistics.median(self.delays) if self.delays else None,
        }


def merged(tables: Iterable[dict[str, Score]]) -> dict[str, dict[str, Any]]:
    """Return the scores of several streams together, by detector, as they stand in the JSON."""
    total: dict[str, Score] = {}
    for table in tables:
        for name, score in table.items():
            total.setdefault(name, Score()).take_in(score)
    return {name: score.told() for name, score in total.items()}
