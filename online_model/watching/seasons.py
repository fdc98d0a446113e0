"""What is usual for the hour and the weekday, learned online, so that nights and weekends are no drift.

Ridge regression on smooth hours of the day, weekdays, and hours of the weekend, with a prior that says how much a shop may vary by them
(a Gaussian process on a grid; Rasmussen and Williams, 2006, section 2.7), and exponential forgetting. It knows how sure it is.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
HOURS, WEEKDAYS = 24, 7
LEVEL, DAY, WEEK, WEEKEND = 0, 1, 1 + HOURS, 1 + HOURS + WEEKDAYS
WIDTH = WEEKEND + HOURS
FORGET_DAYS = 28.0
# Standard deviations of the prior, in units of the noise of one block; lengths in hours.
_HOUR_SCALE, _HOUR_LENGTH = 3.0, 3.0
_WEEKDAY_SCALE = 1.0
_WEEKEND_SCALE, _WEEKEND_LENGTH = 1.0, 4.0
_LEVEL_SCALE = 100.0
# A young model's loss falls fast, which must not be taken for the weekday: what was learned before these blocks hardly counts then.
_BEGINNINGS = (32, 64, 128, 256, 512)
_KEPT_OF_BEGINNING = 0.02


def design(time_ms: float) -> Floats:
    """Return the regressors of an instant, (56,): one, the hours around it, the weekday (UTC), and at weekends the hours again."""
    row = np.zeros(WIDTH)
    row[LEVEL] = 1.0
    hour = time_ms / HOUR_MS % HOURS
    lower, part = int(hour), hour - int(hour)
    row[DAY + lower] = 1.0 - part
    row[DAY + (lower + 1) % HOURS] += part
    # 1970-01-01 was a Thursday; the first is Monday.
    weekday = (int(time_ms // DAY_MS) + 3) % WEEKDAYS
    row[WEEK + weekday] = 1.0
    if weekday >= 5:
        row[WEEKEND : WEEKEND + HOURS] = row[DAY : DAY + HOURS]
    return row


class Seasons:
    """Baselines of several columns that come at the same instants; all share the regressors and how sure they are."""

    def __init__(self, columns: int) -> None:
        self.information = np.zeros((WIDTH, WIDTH))
        self.moments = np.zeros((WIDTH, columns))
        self.newest_ms = 0.0
        self.blocks = 0
        self.weights = np.zeros((WIDTH, columns))
        self.covariance = np.linalg.inv(_PRECISION)

    def expected(self, row: Floats) -> Floats:
        """Return the usual value of each column at an instant's regressors, (columns,)."""
        usual: Floats = row @ self.weights
        return usual

    def uncertainty(self, differences: Floats) -> Floats:
        """Return the variance of what is usual at each difference of regressors, (rows, 56), in units of a block's noise."""
        spread: Floats = np.einsum("ij,jk,ik->i", differences, self.covariance, differences)
        return spread

    def learn(self, row: Floats, values: Floats, time_ms: float) -> None:
        """Take in a block's values, (columns,). It counts from the next `refit` on."""
        if self.newest_ms and time_ms > self.newest_ms:
            kept = np.exp((self.newest_ms - time_ms) / (FORGET_DAYS * DAY_MS))
            self.information *= kept
            self.moments *= kept
        self.blocks += 1
        if self.blocks in _BEGINNINGS:
            self.information *= _KEPT_OF_BEGINNING
            self.moments *= _KEPT_OF_BEGINNING
        self.newest_ms = max(self.newest_ms, time_ms)
        self.information += np.outer(row, row)
        self.moments += np.outer(row, values)

    def move_level(self, columns: Floats) -> None:
        """Let all that was learned stand at another level: `columns`, (columns,), is added to each."""
        self.moments += np.outer(self.information[:, LEVEL], columns)

    def refit(self) -> None:
        """Let what was learned count."""
        self.covariance = np.linalg.inv(self.information + _PRECISION)
        self.weights = self.covariance @ self.moments


def _circular(scale: float, length: float) -> Floats:
    """Return the covariance of 24 hours on a circle, (24, 24), with a little of its own for each."""
    hours = np.arange(HOURS)
    apart = np.sin(np.pi * (hours[:, None] - hours[None, :]) / HOURS) * HOURS / np.pi
    smooth: Floats = scale**2 * (np.exp(-0.5 * (apart / length) ** 2) + 1e-2 * np.eye(HOURS))
    return smooth


def _prior_precision() -> Floats:
    covariance = np.zeros((WIDTH, WIDTH))
    covariance[LEVEL, LEVEL] = _LEVEL_SCALE**2
    covariance[DAY:WEEK, DAY:WEEK] = _circular(_HOUR_SCALE, _HOUR_LENGTH)
    covariance[WEEK:WEEKEND, WEEK:WEEKEND] = _WEEKDAY_SCALE**2 * np.eye(WEEKDAYS)
    covariance[WEEKEND:, WEEKEND:] = _circular(_WEEKEND_SCALE, _WEEKEND_LENGTH)
    return np.asarray(np.linalg.inv(covariance), np.float64)


_PRECISION = _prior_precision()
