"""thin"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Course:
    """One course."""

    drifts: bool
    reacts: bool
    lost: float
    level: float

    def told(self) -> dict[str, Any]:
        return {}


def course(seed: int, drifts: bool, reacts: bool) -> Course:
    return Course(drifts, reacts, 0.0, 0.0)
