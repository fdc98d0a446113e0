"""Signals that come with the same events, watched together: blocks, what is usual for the hour, and whether levels have moved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.watching.blocks import Block, BlockMaker, Columns
from headrace.online_model.watching.budget import Budget
from headrace.online_model.watching.configuration import Watch
from headrace.online_model.watching.detectors import Detector, detector_of
from headrace.online_model.watching.level_tests import LEAST_REFERENCE, WINDOWS, LevelTests
from headrace.online_model.watching.packing import packed, unpacked
from headrace.online_model.watching.seasons import WIDTH, Seasons, design
from headrace.online_model.watching.signals import SHARES, Batch

Floats = NDArray[np.float64]

TESTED = slice(1, None)
LEARNED_LATER = 128
REFIT_EVERY = 16
CAUSE_SCORE = 3.0
_ALWAYS, _NEVER = 1 << 60, -(1 << 60)
_SHOWN = 16
# Only windows of 16 blocks and more: a young model's loss falls all the time.
_LASTING = 2
_OF_ERRORS = ("ddm", "eddm")
_LOUDEST = 20.0


@dataclass(frozen=True)
class Moved:
    """A column has moved, from `before` to `after`, over the newest `window` events.

    `score` is in standard normal units, `effect` in standard deviations of single values.
    """

    watch: Watch
    label: str
    column: int
    window: int
    before: float
    after: float
    score: float
    effect: float
    p_value: float
    since_ms: int


@dataclass(frozen=True)
class Finding:
    """What moved at a block: first what is beyond its watch's part of the budget, then what moved beside it; strongest first."""

    found: tuple[Moved, ...]
    beside: tuple[Moved, ...]
    time_ms: int
    observations: int


class Plane:
    """Watches of one kind of event. `signals` says which are numbers and which are mixes of names."""

    def __init__(self, watches: Sequence[Watch], mixes: Sequence[str], block: int, budget: Budget) -> None:
        self.watches = tuple(watches)
        transformed = [watch.signal for watch in watches if watch.transform == "sqrt"]
        numbers = [watch.signal for watch in watches if watch.signal not in mixes]
        self._roots = {signal: f"sqrt({signal})" for signal in transformed}
        self.columns = Columns([*numbers, *self._roots.values()], [watch.signal for watch in watches if watch.signal in mixes])
        self.maker = BlockMaker(self.columns, block)
        self.seasons = Seasons(self.columns.count)
        self.tests = LevelTests(self.columns.count, WIDTH)
        self.observations = 0
        self.block = block
        self.deviations = np.zeros(self.columns.count)
        self.means = np.zeros(self.columns.count)
        self.seen = np.zeros(self.columns.count)
        self.frozen = np.zeros(self.columns.count, np.bool_)
        self._shares = np.array([column >= len(self.columns.numbers) for column in range(self.columns.count)])
        for watch in watches:
            self._shares[list(self.columns.of(watch.signal))] |= watch.signal in SHARES
        self._waiting: list[tuple[Floats, Floats, float, NDArray[np.bool_]]] = []
        self._times: list[int] = []
        self._newest_ms = 0.0
        self._tested, self._watch_of, self._limits, self._least = self._plan(budget)
        # What a watch's detector must have said lately for the level tests to count; windows need nobody's word.
        self._detectors: dict[int, Detector] = {
            place: detector_of(watch.detector) for place, watch in enumerate(self._watch_of) if watch.detector != "windows"
        }
        self._heard = np.array([_ALWAYS if watch.detector == "windows" else _NEVER for watch in self._watch_of])

    def add(self, batch: Batch) -> list[Finding]:
        """Take in events; return what was found in their blocks."""
        if self._roots:
            roots = {name: np.sqrt(np.maximum(batch.values[signal], 0.0)) for signal, name in self._roots.items() if signal in batch.values}
            batch = Batch(batch.times_ms, {**batch.values, **roots}, batch.mixes, batch.segments)
        self._spread(batch)
        found = []
        for block in self.maker.add(batch, learn_names=self.observations < self._warm_up):
            self.observations += self.block
            finding = self._take(block)
            if finding is not None:
                found.append(finding)
        return found

    @property
    def _warm_up(self) -> int:
        return min(watch.warm_up for watch in self.watches)

    def shown(self, column: int) -> int:
        """Return the column that tells a tested column's level in the signal's own units."""
        label = self.columns.label(column)
        for signal, root in self._roots.items():
            if label == root:
                return self.columns.of(signal)[0]
        return column

    def levels(self, column: int) -> tuple[float, float]:
        """Return the level of a column over the newest 16 blocks, and what is usual at this hour: the level of the blocks before."""
        now = self.tests.blocks
        newest = max(0, now - _SHOWN)
        usual = float(self.seasons.expected(design(self._newest_ms))[column])
        level = usual + float(self.tests.mean(newest, now)[column])
        begin = max(self.tests.epoch if not self.frozen[column] else 0, newest - WINDOWS[-1])
        return level, usual + float(self.tests.mean(min(begin, newest), newest)[column]) if newest else level

    def difference(self, columns: Sequence[int], first: tuple[int, int], second: tuple[int, int]) -> Floats:
        """Return how far the mean of the blocks of the second stretch lies from the first's, in normal deviates, (columns,)."""
        places = list(columns)
        apart = self.tests.mean(*second)[places] - self.tests.mean(*first)[places]
        variances, _ = self.tests.noise()
        moved = (self.tests.regressor_mean(*second) - self.tests.regressor_mean(*first))[None, :]
        unknown = float(self.seasons.uncertainty(moved)[0])
        length = min(first[1] - first[0], second[1] - second[0])
        longest = max(place for place, window in enumerate(WINDOWS) if window <= max(1, length))
        weight = 1.0 / max(1, first[1] - first[0]) + 1.0 / max(1, second[1] - second[0])
        spread = variances[longest][places] * weight + variances[0][places] * unknown
        scores: Floats = np.where(spread > 0, apart / np.sqrt(np.maximum(spread, 1e-300)), 0.0)
        return scores

    def begin_anew(self, blocks_back: int) -> None:
        """Let the level of the newest `blocks_back` blocks be the one against which later ones are held."""
        self.tests.epoch = max(self.tests.epoch, self.tests.blocks - blocks_back)

    def settle(self, columns: Sequence[int], blocks_back: int) -> None:
        """Let the columns' newest level be what is usual from now on, and all be learned from again."""
        shift = np.zeros(self.columns.count)
        mean = self.tests.mean(self.tests.blocks - blocks_back, self.tests.blocks)
        shift[list(columns)] = mean[list(columns)]
        self._move_level(shift, blocks_back)
        self.frozen[:] = False

    def saved(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON can hold it; detectors other than windows begin anew."""
        return {
            "signals": [watch.name for watch in self.watches],
            "observations": self.observations,
            "names": self.columns.names,
            "maker": self.maker.saved(),
            "arrays": {name: packed(getattr(owner, name)) for owner, name in self._arrays()},
            "tests": {"blocks": self.tests.blocks, "epoch": self.tests.epoch},
            "seasons": {"blocks": self.seasons.blocks, "newest_ms": self.seasons.newest_ms},
            "times": self._times,
            "newest_ms": self._newest_ms,
            "waiting": [[packed(row), packed(means), time_ms, packed(usable)] for row, means, time_ms, usable in self._waiting],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what was saved. Raises ValueError where other signals were watched then."""
        if saved["signals"] != [watch.name for watch in self.watches]:
            raise ValueError(f"signals: {[watch.name for watch in self.watches]} were expected; saved were {saved['signals']}")
        self.observations = int(saved["observations"])
        self.columns.names = {mix: dict(names) for mix, names in saved["names"].items()}
        self.maker.restore(saved["maker"])
        for owner, name in self._arrays():
            setattr(owner, name, unpacked(saved["arrays"][name]))
        self.tests.blocks, self.tests.epoch = int(saved["tests"]["blocks"]), int(saved["tests"]["epoch"])
        self.seasons.blocks, self.seasons.newest_ms = int(saved["seasons"]["blocks"]), float(saved["seasons"]["newest_ms"])
        self._times = [int(time_ms) for time_ms in saved["times"]]
        self._newest_ms = float(saved["newest_ms"])
        self._waiting = [(unpacked(row), unpacked(means), float(at), unpacked(usable)) for row, means, at, usable in saved["waiting"]]

    def _arrays(self) -> list[tuple[object, str]]:
        return [
            *((self.seasons, name) for name in ("information", "moments", "weights", "covariance")),
            *((self.tests, name) for name in ("sums", "bounded", "regressors", "variances", "ratios", "learned", "skewness")),
            *((self, name) for name in ("deviations", "means", "seen", "frozen")),
        ]

    def _take(self, block: Block) -> Finding | None:
        row = design(block.time_ms)
        usual = self.seasons.expected(row)
        there = block.counts > 0
        first = there & (self.seen == 0)
        if first.any():
            # What a column was before its first value is taken to be that value, not 0.
            self.seasons.move_level(np.where(first, block.means - usual, 0.0))
            self.seasons.refit()
            usual = self.seasons.expected(row)
        self.seen += block.counts
        residuals = np.where(there, block.means - usual, 0.0)
        self._newest_ms = block.time_ms
        self._times.append(block.first_ms)
        del self._times[: -(LEARNED_LATER * 4)]
        self.tests.add(residuals, row)
        self._learn_later(block, row, usual, there)
        differences, spread = self.tests.differences(self.seasons.uncertainty)
        newest = np.array([self.tests.mean(self.tests.blocks - length, self.tests.blocks) for length in WINDOWS])
        before = self.seasons.expected(row) + newest - differences
        scores = self.tests.deviates(differences, spread, before, self._shares)
        if not self.frozen.any():
            self.tests.learn(differences, scores)
        self._listen(residuals, block)
        return self._judge(block, differences[TESTED], scores[TESTED], row)

    def _learn_later(self, block: Block, row: Floats, usual: Floats, there: NDArray[np.bool_]) -> None:
        """Let the seasons learn blocks only when they are too old to be tested, or a drift would teach them what it is."""
        self._waiting.append((row, block.means, block.time_ms, there & ~self.frozen))
        early = self.tests.blocks < 4 * LEARNED_LATER
        # At first there is nothing to go by but the newest.
        later = min(LEARNED_LATER, max(0, self.tests.blocks - LEAST_REFERENCE) // 4)
        while len(self._waiting) > later:
            old_row, means, time_ms, usable = self._waiting.pop(0)
            self.seasons.learn(old_row, np.where(usable, means, self.seasons.expected(old_row)), time_ms)
        if early or self.tests.blocks % REFIT_EVERY == 0:
            self.seasons.refit()

    def _listen(self, residuals: Floats, block: Block) -> None:
        """Let the detectors hear the block, in units of a block's noise, as soon as that is known."""
        # One value in units of no noise at all would be so large that adwin never heard anything again.
        if not self._detectors or self.tests.learned[0] < LEAST_REFERENCE:
            return
        noise = np.sqrt(np.maximum(self.tests.variances, 1e-24))
        values = np.clip(residuals / noise, -_LOUDEST, _LOUDEST)
        time_ms = int(block.time_ms)
        for place, detector in self._detectors.items():
            value = float(values[self._tested[place]])
            if self._watch_of[place].detector in _OF_ERRORS:
                value = float(value * (self._signs[place] or 1) > 1.0)
            if detector.observe(value, time_ms) is not None:
                self._heard[place] = self.tests.blocks

    def _judge(self, block: Block, differences: Floats, scores: Floats, row: Floats) -> Finding | None:
        tested = scores[:, self._tested]
        signed = np.where(self._signs > 0, tested, np.where(self._signs < 0, -tested, np.abs(tested)))
        effects = np.abs(differences[:, self._tested]) / np.maximum(self.deviations[self._tested], 1e-12)
        warm = self.seen[self._tested] >= self._warm
        # A few visits make a name's share in few blocks; a mean of so few is far from normal.
        signed[:_LASTING, self._tested >= len(self.columns.numbers)] = 0.0
        with np.errstate(invalid="ignore"):
            beyond = (signed > self._limits) & (effects >= self._least) & warm & (self.tests.blocks - self._heard <= WINDOWS[-1])
            fallen = (signed < -self._limits) & warm & (self._signs != 0) & self._is_concept
        if not beyond.any():
            self._follow_quietly(fallen, differences)
            return None
        # The window that speaks most clearly of all that is beyond its limit, as a multiple of the limit.
        clear = np.where(beyond, signed / self._limits, 0.0)
        place = int(np.unravel_index(int(clear.argmax()), clear.shape)[0])
        found = np.flatnonzero(beyond.any(axis=0))
        at_place = np.abs(np.nan_to_num(tested[place]))
        beside = [each for each in np.flatnonzero(at_place > CAUSE_SCORE).tolist() if each not in set(found.tolist())]
        best = {int(each): int(np.where(beyond[:, each], clear[:, each], 0.0).argmax()) for each in found}
        ranked = sorted(found.tolist(), key=lambda each: -float(np.abs(tested[best[each], each])))
        return Finding(
            tuple(self._moved(each, best[each], differences, scores, block, row) for each in ranked),
            tuple(self._moved(each, place, differences, scores, block, row) for each in sorted(beside, key=lambda each: -at_place[each])),
            int(block.time_ms),
            self.observations,
        )

    def _follow_quietly(self, fallen: NDArray[np.bool_], differences: Floats) -> None:
        """Let a level that moved the way that nobody minds be the new one, so that what comes after is held against it."""
        if self.frozen.any() or not fallen[_LASTING:].any():
            return
        place = int(np.flatnonzero(fallen.any(axis=1))[-1])
        shift = np.zeros(self.columns.count)
        columns = self._tested[fallen[place]]
        shift[columns] = differences[place, columns]
        self._move_level(shift, WINDOWS[1:][place])

    def _move_level(self, columns: Floats, blocks_back: int) -> None:
        """Let what is usual be higher by `columns`, as it is since `blocks_back` blocks."""
        self.seasons.move_level(columns)
        self.seasons.refit()
        self.tests.move_level(columns)
        self.begin_anew(blocks_back)
        # What waits to be learned from before that is of the level before.
        older = max(0, len(self._waiting) - blocks_back)
        self._waiting[:older] = [(row, means + columns, at, usable) for row, means, at, usable in self._waiting[:older]]

    def _moved(self, tested: int, place: int, differences: Floats, scores: Floats, block: Block, row: Floats) -> Moved:
        column = int(self._tested[tested])
        watch = self._watch_of[tested]
        shown = column
        if watch.transform == "sqrt":
            shown = self.columns.of(watch.signal)[0]
        length = WINDOWS[1:][place]
        since = self.tests.began(column, length, self.tests.difference(column, place + 1))
        # In the units of the hour that it is now.
        now = self.tests.blocks
        usual = self.seasons.expected(row)[shown]
        before = float(usual + self.tests.mean(now - length, now)[shown] - self.tests.difference(shown, place + 1))
        after = float(usual + self.tests.mean(now - since, now)[shown])
        score = float(scores[place, column])
        one_sided = watch.direction != "both"
        p_value = math.erfc(abs(score) / math.sqrt(2.0)) * (0.5 if one_sided else 1.0)
        since_ms = self._times[-min(since, len(self._times))]
        effect = float(differences[place, column] / max(self.deviations[column], 1e-12))
        return Moved(watch, self.columns.label(shown), column, since * self.block, before, after, score, effect, p_value, since_ms)

    def _spread(self, batch: Batch) -> None:
        """Learn the standard deviation of single values, over the last 100,000 of them; that of shares follows from their means."""
        for place, name in enumerate(self.columns.numbers):
            values = batch.values.get(name)
            if values is None:
                continue
            values = values[~np.isnan(values)]
            if not len(values):
                continue
            rate = len(values) / min(self.seen[place] + len(values), 100_000.0)
            mean = float(values.mean())
            self.means[place] += rate * (mean - self.means[place])
            spread = float(((values - self.means[place]) ** 2).mean())
            self.deviations[place] = math.sqrt(self.deviations[place] ** 2 * (1 - rate) + spread * rate)
        first = len(self.columns.numbers)
        if self.columns.mixes and self.tests.blocks:
            share = np.clip(self.seasons.expected(design(float(batch.times_ms[-1])))[first:], 1e-4, 1.0 - 1e-4)
            self.deviations[first:] = np.sqrt(share * (1 - share))

    def _plan(self, budget: Budget) -> tuple[NDArray[np.int64], list[Watch], Floats, Floats]:
        """Return the tested columns, their watches, their limits as normal deviates, and the least effects."""
        tested: list[int] = []
        watch_of: list[Watch] = []
        limits: list[float] = []
        for watch in self.watches:
            own = list(self.columns.of(self._roots.get(watch.signal, watch.signal)))
            windows = WINDOWS[1 + _LASTING :] if watch.signal in self.columns.mixes else WINDOWS[1:]
            p_value = budget.of_test(watch.share, len(own), windows)
            limit = deviate(p_value if watch.direction != "both" else p_value / 2)
            tested += own
            watch_of += [watch] * len(own)
            limits += [limit] * len(own)
        self._signs = np.array([{"up": 1, "down": -1, "both": 0}[watch.direction] for watch in watch_of])
        self._is_concept = np.array([watch.kind == "concept" for watch in watch_of])
        self._warm = np.array([watch.warm_up for watch in watch_of], np.float64)
        least = np.array([watch.least_change for watch in watch_of])
        return np.array(tested, np.int64), watch_of, np.array(limits), least


def deviate(p_value: float) -> float:
    """Return the standard normal deviate that is exceeded with probability `p_value`."""
    from statistics import NormalDist

    return -NormalDist().inv_cdf(p_value)
