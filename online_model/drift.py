"""Drift of one signal, seen by ADWIN (Bifet and Gavaldà, SDM 2007; River's implementation)."""

from dataclasses import dataclass

from river.drift import ADWIN


@dataclass(frozen=True)
class Shift:
    """A signal's level before and after a change, the width of the window after it, and how many values were seen in all."""

    before: float
    after: float
    window: int
    observations: int


class LossDrift:
    """Watches a loss and reports when its level rises.

    A learning model's loss falls, quickly at first; falls are followed in silence. The first `warm_up` values only fill the
    window. After a report the detector starts anew, and stays silent for `rest` values: one report for one change.
    """

    def __init__(self, *, delta: float = 0.002, warm_up: int = 1500, rest: int = 1500, least_rise: float = 0.05) -> None:
        self._delta = delta
        self._quiet_until = warm_up
        self._rest = rest
        self._least_rise = least_rise
        self._seen = 0
        self._detector = ADWIN(delta=delta)

    def observe(self, loss: float) -> Shift | None:
        """Take in a value; return the shift where the level has risen by at least the share `least_rise`."""
        self._seen += 1
        before = float(self._detector.estimation)
        self._detector.update(loss)
        if not self._detector.drift_detected:
            return None
        after = float(self._detector.estimation)
        if self._seen <= self._quiet_until or after < before * (1 + self._least_rise):
            return None
        shift = Shift(before, after, int(self._detector.width), self._seen)
        self._detector = ADWIN(delta=self._delta)
        self._quiet_until = self._seen + self._rest
        return shift
