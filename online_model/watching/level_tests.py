"""Whether a level has moved: the newest blocks against those before them, over windows of several lengths, for many columns at once.

The noise of a difference is not taken from the blocks' own spread alone: visits and heavy shoppers make neighbouring blocks alike, so
each window length has a variance of its own, learned from how such differences have been (as with batch means; Alexopoulos and
Seila, 1996). What is not yet known of the hours and weekdays adds to it.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The first only tells the noise of single blocks.
WINDOWS = (1, 4, 8, 16, 32, 64, 128)
LEAST_REFERENCE = 32
_LENGTHS = np.array(WINDOWS)
_REFERENCES = np.clip(8 * _LENGTHS, LEAST_REFERENCE, 1024)
KEPT = int(_LENGTHS[-1] + _REFERENCES[-1] + 1)
_PRIOR_WINDOWS = 40.0
_MEMORY_WINDOWS = 100.0
_MEMORY_BLOCKS = 2000.0
_NOISE_BLOCKS = 400.0
_GROWTH = 1.05
_CLIP, _CLIPPED_MEAN = 4.0, 0.9205
# A young model's loss falls, and a young shop's histories grow: what is learned before these blocks hardly counts behind them.
_BEGINNINGS = (128, 256, 512, 1024)
_KEPT_OF_BEGINNING = 0.1
_FLOOR = 0.7
_FARTHEST, _MOST_SKEWED = 5.0, 5.0
_FIRST_BLOCKS = 64
_FARTHEST_BLOCK = 4.0
_CALM, _WEIGHT_IF_MOVING = 3.5, 0.1
_KNOWN = 0.5


class LevelTests:
    """Sums over the newest blocks of `columns` columns of residuals, with the `width` regressors of their instants beside them."""

    def __init__(self, columns: int, width: int) -> None:
        self.blocks = 0
        # The first block that may serve as reference: where the level of now began.
        self.epoch = 0
        self.sums = np.zeros((KEPT, columns))
        # The same of residuals that are not too far from those before: one wild block is no level.
        self.bounded = np.zeros((KEPT, columns))
        self.regressors = np.zeros((KEPT, width))
        self.variances = np.zeros(columns)
        self.ratios = np.ones((len(WINDOWS), columns))
        self.learned = np.zeros(len(WINDOWS))
        # The mean third power of a block's distance from those before it, in units of the noise.
        self.skewness = np.zeros(columns)

    def add(self, residuals: Floats, regressors: Floats) -> None:
        """Take in a block: the residual of each column, (columns,), and the instant's regressors, (width,)."""
        newest, before = (self.blocks + 1) % KEPT, self.blocks % KEPT
        self.sums[newest] = self.sums[before] + residuals
        self.bounded[newest] = self.bounded[before] + self._bounded(residuals)
        self.regressors[newest] = self.regressors[before] + regressors
        self.blocks += 1

    def move_level(self, columns: Floats) -> None:
        """Let the residuals of all blocks kept be held against a usual level that lies higher by `columns`, (columns,)."""
        slots = np.arange(KEPT)
        blocks = self.blocks - (self.blocks - slots) % KEPT
        for sums in (self.sums, self.bounded):
            sums -= np.maximum(blocks, 0)[:, None] * columns

    def mean(self, begin: int, end: int) -> Floats:
        """Return the mean residual of the blocks from `begin` to before `end`, numbered from 0, (columns,)."""
        begin = max(begin, self.blocks - KEPT + 1, 0)
        total: Floats = (self.sums[end % KEPT] - self.sums[begin % KEPT]) / max(1, end - begin)
        return total

    def difference(self, column: int, window: int) -> float:
        """Return how far a column's level has moved, as `window`, a place in `WINDOWS`, shows it, wild blocks and all."""
        length, reference = WINDOWS[window], int(self.references()[window])
        end = self.blocks
        return float(self.mean(end - length, end)[column] - self.mean(end - length - reference, end - length)[column])

    def began(self, column: int, window: int, difference: float) -> int:
        """Return how many blocks ago a column's level moved: the likeliest start within the window whose mean lies off by `difference`."""
        sizes = np.arange(1, window + 1)
        sums = self.sums[self.blocks % KEPT, column] - self.sums[(self.blocks - sizes) % KEPT, column]
        before = sums[-1] / window - difference
        # The largest cumulated sum, as in Page's test, for a change at an unknown place.
        apart = np.sign(difference) * (sums / sizes - before) * np.sqrt(sizes)
        return int(sizes[int(apart.argmax())])

    def regressor_mean(self, begin: int, end: int) -> Floats:
        """Return the mean regressors of these blocks, (width,)."""
        begin = max(begin, self.blocks - KEPT + 1, 0)
        total: Floats = (self.regressors[end % KEPT] - self.regressors[begin % KEPT]) / max(1, end - begin)
        return total

    def references(self) -> NDArray[np.int64]:
        """Return how many blocks before each window serve as its reference, (windows,); 0 where there are too few."""
        there = np.minimum(_REFERENCES, self.blocks - _LENGTHS - self.epoch)
        return np.where(there >= np.maximum(2 * _LENGTHS, LEAST_REFERENCE), there, 0)

    def differences(self, uncertainty: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
        """Return how far each window's mean lies above its reference's, and the variance of that, both (windows, columns).

        The first is NaN for windows without a reference. `uncertainty` gives the variance that is due to seasons, in units of a
        block's noise, for differences of regressors, (windows, width).
        """
        references = self.references()
        usable = references > 0
        size = np.maximum(references, 1)
        end = self.blocks
        middle, begin = (end - _LENGTHS) % KEPT, (end - _LENGTHS - size) % KEPT
        newest, reference = self.bounded[end % KEPT] - self.bounded[middle], self.bounded[middle] - self.bounded[begin]
        differences = newest / _LENGTHS[:, None] - reference / size[:, None]
        moved = (self.regressors[end % KEPT] - self.regressors[middle]) / _LENGTHS[:, None]
        moved -= (self.regressors[middle] - self.regressors[begin]) / size[:, None]
        unknown = uncertainty(moved)
        weights = 1.0 / _LENGTHS + 1.0 / size
        self._weights, self._usable = weights, usable & (unknown < _KNOWN * weights)
        # In a young shop no hour is known yet; the noise of single blocks is learned all the same, rather too large than not at all.
        self._usable[0] |= usable[0] and self.learned[0] < _FIRST_BLOCKS
        variances, _ = self.noise()
        return np.where(usable[:, None], differences, np.nan), variances * weights[:, None] + self.variances * unknown[:, None]

    def deviates(self, differences: Floats, spread: Floats, before: Floats, shares: NDArray[np.bool_]) -> Floats:
        """Return the differences as standard normal deviates, (windows, columns), for `spread` the variance of each.

        `shares` tells which columns are shares, whose level was `before`, (windows, columns): rare ones spread further upwards than
        downwards, so the signed root of the binomial deviance takes the place of the plain ratio (McCullagh and Nelder, 1989, 2.4).
        Means of other skewed values are taken for gamma distributed (Wilson and Hilferty, 1931).
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.where(spread > 0, differences / np.sqrt(spread), 0.0)
            old = np.clip(before[:, shares], 1e-4, 1.0 - 1e-4)
            new = np.clip(old + differences[:, shares], 1e-9, 1.0 - 1e-9)
            size = np.where(spread[:, shares] > 0, old * (1.0 - old) / spread[:, shares], 0.0)
            deviance = 2.0 * size * (new * np.log(new / old) + (1.0 - new) * np.log((1.0 - new) / (1.0 - old)))
            scores[:, shares] = np.sign(differences[:, shares]) * np.sqrt(np.maximum(deviance, 0.0))
        scores[:, ~shares] = _unskewed(scores[:, ~shares], self._skewness()[:, ~shares])
        # The variance is an estimate: Student's t, brought to the normal deviate of about the same tail.
        _, freedom = self.noise()
        normal: Floats = np.sign(scores) * np.sqrt(freedom[:, None] * np.log1p(scores**2 / freedom[:, None]))
        return normal

    def noise(self) -> tuple[Floats, Floats]:
        """Return the variance of a block as each window shows it, (windows, columns), and the degrees of freedom behind it, (windows,).

        The noise of single blocks is that of lately; how much larger the longer windows' is, was learned over long. They have been seen
        more seldom, and rest on the shorter ones.
        """
        ratios = self.ratios.copy()
        seen = self.learned / _LENGTHS
        for place in range(1, len(WINDOWS)):
            prior = _GROWTH * ratios[place - 1]
            ratios[place] = (seen[place] * ratios[place] + _PRIOR_WINDOWS * prior) / (seen[place] + _PRIOR_WINDOWS)
            np.maximum(ratios[place], _FLOOR, out=ratios[place])
        freedom = np.minimum(seen, np.maximum(_MEMORY_WINDOWS, _MEMORY_BLOCKS / _LENGTHS)) + _PRIOR_WINDOWS
        return ratios * self.variances, np.minimum(freedom, _NOISE_BLOCKS)

    def _bounded(self, residuals: Floats) -> Floats:
        if self.learned[0] < LEAST_REFERENCE or self.blocks < LEAST_REFERENCE:
            return residuals
        now = self.blocks
        centre = (self.bounded[now % KEPT] - self.bounded[(now - LEAST_REFERENCE) % KEPT]) / LEAST_REFERENCE
        limits = _FARTHEST_BLOCK * np.sqrt(self.variances)
        bounded: Floats = np.clip(residuals, centre - limits, centre + limits)
        return bounded

    def _skewness(self) -> Floats:
        """Return the skewness of each window's mean, (windows, columns), from that of single blocks."""
        variances, _ = self.noise()
        with np.errstate(divide="ignore", invalid="ignore"):
            alike = np.sqrt(np.where(variances[0] > 0, variances / variances[0], 1.0))
        skewness: Floats = np.clip(self.skewness, -_MOST_SKEWED, _MOST_SKEWED) * alike / np.sqrt(_LENGTHS)[:, None]
        return skewness

    def learn(self, differences: Floats, scores: Floats) -> None:
        """Learn the noise from differences of a block and their deviates, both (windows, columns) as they were just returned."""
        usable = self._usable
        squares = differences**2 / self._weights[:, None]
        current, _ = self.noise()
        if self.learned[0] >= LEAST_REFERENCE:
            # Huber's proposal 2: what is beyond two deviations counts no more, or a drift would soon look like noise.
            squares = np.minimum(squares, _CLIP * current) / _CLIPPED_MEAN
        if self.blocks in _BEGINNINGS:
            self.learned[1:] *= _KEPT_OF_BEGINNING
        self.learned += usable
        # What moves clearly is likely no noise; it counts a little, since noise that was underrated looks the same.
        with np.errstate(invalid="ignore"):
            calm = np.where((np.abs(scores[1:]) > _CALM).any(axis=0), _WEIGHT_IF_MOVING, 1.0)
        if usable[0]:
            self.variances += (squares[0] - self.variances) / min(self.learned[0], _NOISE_BLOCKS)
            with np.errstate(divide="ignore", invalid="ignore"):
                near = np.clip(np.where(current[0] > 0, differences[0] / np.sqrt(current[0]), 0.0), -_FARTHEST, _FARTHEST)
            self.skewness += calm * (near**3 - self.skewness) / min(self.learned[0] + _FIRST_BLOCKS, _MEMORY_BLOCKS)
        for place in np.flatnonzero(usable[1:]) + 1:
            rate = calm * 1.0 / min(self.learned[place], max(_MEMORY_WINDOWS * WINDOWS[place], _MEMORY_BLOCKS))
            self.ratios[place] += rate * (squares[place] / np.maximum(self.variances, 1e-300) - self.ratios[place])


def _unskewed(scores: Floats, skewness: Floats) -> Floats:
    """Return standard normal deviates for standardised values of a gamma distribution of this skewness; mirrored where it is negative."""
    shape = 4.0 / np.maximum(skewness**2, 1e-4)
    signs = np.where(skewness < 0, -1.0, 1.0)
    root = np.cbrt(np.maximum(1.0 + signs * scores / np.sqrt(shape), 0.0))
    straight: Floats = signs * (root - 1.0 + 1.0 / (9.0 * shape)) * np.sqrt(9.0 * shape)
    return straight
