"""Detectors behind one small interface: River's, and tests of two windows.

Each takes one value after the other and says when their level, or their distribution, seems to have changed. River's have no p-value;
what they find is confirmed by a test that has one (`plane`). Those of `window_tests` bring their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.online_model.watching.configuration import DetectorName

RIVER = ("adwin", "page_hinkley", "kswin", "ddm", "eddm", "hddm_a", "hddm_w")


@dataclass(frozen=True)
class Change:
    """A detector's finding: levels before and after, the number of values after the change (`window`) and in all.

    `p_value` is the chance of such a finding where nothing has changed, None where the detector does not tell.
    """

    level_before: float
    level_after: float
    window: int
    observations: int
    since_ms: int
    p_value: float | None = None


class Detector(Protocol):
    """Looks at one value after the other."""

    def observe(self, value: float, time_ms: int) -> Change | None:
        """Take in a value of an instant; return the change where one is found. The detector starts anew after that."""
        ...


class RiverDetector:
    """A detector of River's `drift` (Montiel et al., JMLR 22, 2021), silent for the first `warm_up` values.

    adwin (Bifet and Gavaldà, SDM 2007), page_hinkley (Page, Biometrika 41, 1954), kswin (Raab et al., Neurocomputing 416, 2020) take
    any values; ddm (Gama et al., SBIA 2004), eddm (Baena-García et al., 2006), hddm_a and hddm_w (Frías-Blanco et al., TKDE 27, 2015)
    take errors of 0 or 1, or, for hddm, of any value between.
    """

    def __init__(self, name: str, *, warm_up: int = 0, seed: int = 1, **options: Any) -> None:
        self._make = _maker(name, seed, options)
        self._detector = self._make()
        self._warm_up = warm_up
        self._seen = 0
        self._values: list[tuple[float, int]] = []

    def observe(self, value: float, time_ms: int) -> Change | None:
        """Take in a value; see `Detector`."""
        self._seen += 1
        self._values.append((value, time_ms))
        if len(self._values) > 2 * _REMEMBERED:
            del self._values[:_REMEMBERED]
        self._detector.update(value)
        if not self._detector.drift_detected:
            return None
        window = min(len(self._values) - 1, int(getattr(self._detector, "width", 0)) or _NEWEST)
        before = [old for old, _ in self._values[:-window]] if window else []
        after = [new for new, _ in self._values[-window:]]
        since_ms = self._values[-window][1]
        self._detector = self._make()
        self._values = self._values[-window:]
        if self._seen <= self._warm_up or not before:
            return None
        return Change(sum(before) / len(before), sum(after) / len(after), window, self._seen, since_ms)


_NEWEST, _REMEMBERED = 32, 4096


def detector_of(name: DetectorName, *, warm_up: int = 0, seed: int = 1) -> Detector:
    """Return a detector by its name in the configuration, with its default options."""
    if name in RIVER:
        return RiverDetector(name, warm_up=warm_up, seed=seed)
    from headrace.online_model.watching.window_tests import window_detector

    return window_detector(name, warm_up=warm_up, seed=seed)


def _maker(name: str, seed: int, options: dict[str, Any]) -> Callable[[], Any]:
    from river import drift
    from river.drift import binary

    kinds: dict[str, Callable[[], Any]] = {
        "adwin": lambda: drift.ADWIN(**options),
        "page_hinkley": lambda: drift.PageHinkley(**options),
        "kswin": lambda: drift.KSWIN(seed=seed, **options),
        "ddm": lambda: binary.DDM(**options),
        "eddm": lambda: binary.EDDM(**options),
        "hddm_a": lambda: binary.HDDMA(**options),
        "hddm_w": lambda: binary.HDDMW(**options),
    }
    if name not in kinds:
        raise ValueError(f"detector: one of {', '.join(kinds)} was expected; the value is {name!r}")
    return kinds[name]
