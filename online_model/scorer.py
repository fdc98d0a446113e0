"""Scoring with weights that are swapped under it: two copies, left and right (Ramalhete and Correia, "Left-Right", 2015).

Readers use the live copy; an update is applied to the other, then one reference is flipped, and once no reader is left on the
old copy it gets the same update. Readers take no lock and never wait; a writer waits for readers, one batch at most.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.best_rows import rank_all
from headrace.online_model.coarse_units import CoarseUnits, is_worth_it
from headrace.online_model.graphed_scoring import Found
from headrace.online_model.payload_checks import check
from headrace.online_model.row_products import row_products
from headrace.online_model.step_batch import as_batch, encode_numbers
from headrace.online_model.transformer import UNKNOWN, StepBatch, TransformerShape
from headrace.online_model.update_stream import UpdateStream
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry, ModelUpdate

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Rows = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
NO_ROWS: Rows = np.empty(0, np.int64)
# Logits that are kept at once: more would leave the processor's cache before they are summed up.
LOGITS_TOGETHER = 1 << 22
FIRST_LOOK_S, LONGEST_LOOK_S = 0.0002, 0.005


class Best(NamedTuple):
    """Rows of the item table and their logits, (batch, best) each, the most probable first."""

    rows: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Scored:
    """What the Transformer says of one history: of the candidates asked for, (candidates,), and of its best items, (best,).

    A logit is the temperature times the cosine of history and item, NaN for an unknown item; `exp(logit - normaliser)` is the item's
    probability among the whole catalogue. `to_last` is the cosine of an item and the history's last item, 0 where one is unknown.
    `best_rows` are rows of the item table, the most probable first. Where there is nothing to go by, with no weights yet or for an
    empty history, no item is best, and all numbers are NaN but `to_last`. `vector`, (width,), and `last_row` are what `nearness`
    needs to answer for further candidates; without weights the vector is empty.
    """

    logits: Floats
    to_last: Floats
    best_rows: Rows
    best_logits: Floats
    best_to_last: Floats
    normaliser: float
    vector: Floats
    last_row: int = UNKNOWN


@dataclass(frozen=True)
class Batch:
    """The scores of a batch of histories, all by the weights that `version` and `sha256` name."""

    scores: list[Scored]
    version: int
    sha256: str


class Scorer:
    """The Transformer with hot-swapped weights. Any number of threads may score; one thread at a time updates.

    `give_way` is called before each step of an update, of some hundred microseconds: there it may wait for those who are answered.
    """

    def __init__(self, shape: TransformerShape | None = None, device: str = "cpu", give_way: Callable[[], None] = lambda: None) -> None:
        self._give_way = give_way
        self._copies = (ModelCopy(shape, device), ModelCopy(shape, device))
        self._copies[1].copy_from(self._copies[0])
        self._updates = tuple(UpdateStream(copy.device) for copy in self._copies)
        self._readers: tuple[set[object], set[object]] = (set(), set())
        self._live = 0
        self._writer = threading.Lock()

    @property
    def version(self) -> int:
        """The version that answers now; 0 before the first weights have arrived."""
        return self._copies[self._live].version

    @property
    def sha256(self) -> str:
        """The name of the weights that answer now."""
        return self._copies[self._live].sha256

    @contextmanager
    def live(self) -> Iterator[ModelCopy]:
        """Lend the live copy; it does not change while it is lent."""
        token = object()
        while True:
            side = self._live
            self._readers[side].add(token)
            # A flip may have come between the look and the entry; then the writer may not have seen us.
            if side == self._live:
                break
            self._readers[side].discard(token)
        try:
            self._updates[side].wait()
            yield self._copies[side]
        finally:
            self._readers[side].discard(token)

    def apply(
        self,
        update: ModelUpdate,
        payload: bytes,
        warm_up: Callable[[ModelCopy], None] | None = None,
        on_live: Callable[[], None] = lambda: None,
    ) -> None:
        """Swap in an update. Raises BadUpdate or MissingLink where it must not be; what is served then stays as it was.

        `warm_up` is given the copy that has the update before anybody reads it; what it raises keeps the update out. After a snapshot it
        is given the other copy too, where much is to be made anew; a delta leaves that in place.
        `on_live` is called as soon as the next question is answered by the update; the other copy follows after that.
        """
        with self._writer:
            old = self._live
            standby = 1 - old
            self._give_way()
            checked = check(self._copies[standby], update, payload)
            self._give_way()
            with self._updates[standby].applying():
                self._copies[standby].take_checked(update, *checked)
                if warm_up is not None:
                    self._give_way()
                    try:
                        warm_up(self._copies[standby])
                    except Exception:
                        self._updates[old].wait()
                        self._copies[standby].copy_from(self._copies[old])
                        # No reader has seen the rows that are taken back, so what readers know of rows stays true.
                        self._copies[standby].epoch = self._copies[old].epoch
                        raise
            self._live = standby
            on_live()
            self._give_way()
            self._wait_for_readers(old)
            with self._updates[old].applying():
                self._copies[old].take_checked(update, *checked)
                if warm_up is not None and update.kind == "snapshot":
                    warm_up(self._copies[old])

    def adopt(self, other: ModelCopy) -> None:
        """Become equal to another copy, which must not change meanwhile, by the same flip."""
        with self._writer:
            old = self._live
            with self._updates[1 - old].applying():
                self._copies[1 - old].copy_from(other)
            self._live = 1 - old
            self._wait_for_readers(old)
            with self._updates[old].applying():
                self._copies[old].copy_from(other)

    def _wait_for_readers(self, side: int) -> None:
        """Wait until nobody reads a copy, looking ever less often: each look takes the interpreter from those who are waited for."""
        pause_s = FIRST_LOOK_S
        while self._readers[side]:
            time.sleep(pause_s)
            pause_s = min(2.0 * pause_s, LONGEST_LOOK_S)

    def score(self, histories: Sequence[Sequence[HistoryEntry]], candidates: Sequence[Rows], best: int = 50) -> Batch:
        """Score a batch of histories, oldest step first, against the whole catalogue.

        For each history: the `best` most probable items, and its `candidates`, which are rows of the live copy's item table; a row
        that is not in use there counts as unknown.
        """
        with self.live() as copy:
            return Batch(score_with(copy, histories, candidates, best), copy.version, copy.sha256)


@torch.inference_mode()
def score_with(
    copy: ModelCopy,
    histories: Sequence[Sequence[HistoryEntry]],
    candidates: Sequence[Rows] | None = None,
    best: int = 50,
    *,
    normalised: bool = True,
) -> list[Scored]:
    """Score histories by the weights of a copy; see `Scorer.score`. Without `normalised` the normalisers are NaN, which saves time."""
    if candidates is None:
        candidates = [NO_ROWS] * len(histories)
    asked = [place for place, history in enumerate(histories) if history] if len(copy.items) > 1 else []
    if not asked:
        return [_nothing(wanted) for wanted in candidates]
    found = _found(copy, [histories[place] for place in asked], best, normalised=normalised)
    counts = np.array([len(candidates[place]) for place in asked])
    flat = _candidates(copy, found, np.concatenate([candidates[place] for place in asked]), counts)
    ends = np.cumsum(counts)
    last_rows, normalisers = found.last_rows.tolist(), found.normalisers.tolist()
    scores: dict[int, Scored] = {}
    for number, place in enumerate(asked):
        own = slice(int(ends[number] - counts[number]), int(ends[number]))
        best_of_it = found.rows[number], found.logits[number], found.to_last[number]
        scores[place] = Scored(flat[0][own], flat[1][own], *best_of_it, normalisers[number], found.vectors[number], last_rows[number])
    return [scores[place] if place in scores else _nothing(wanted) for place, wanted in enumerate(candidates)]


@cache
def warm_up() -> None:
    """Have the compiled code ready: some seconds the first time on a machine."""
    copy = ModelCopy()
    copy.add_items(["warm"])
    score_with(copy, [[HistoryEntry("warm", "view", 0)]])
    # What is asked of a large catalogue, on one that is as small as may be.
    units = torch.eye(64)
    CoarseUnits(units).best(units, units[:1], size=64, k=1)


def _found(copy: ModelCopy, histories: Sequence[Sequence[HistoryEntry]], best: int, *, normalised: bool) -> Found:
    """Encode histories, none of them empty, and search the catalogue for what follows them, by what the copy's device does fastest."""
    numbers, lengths = encode_numbers(histories, copy.rows, copy.model.shape.length)
    graphed = copy.graphed_scoring(best)
    if graphed is not None:
        return graphed.score(numbers, lengths, min(best, len(copy.items) - 1))
    vectors = _followed(copy, numbers, lengths)
    last_rows: Rows = numbers[np.arange(len(lengths)), lengths - 1, 0]
    top, normalisers = search(copy, vectors, best, normalised=normalised)
    to_last = row_products(copy.units, top.rows, copy.units[torch.from_numpy(last_rows).to(copy.device)])
    return Found(vectors.cpu().numpy(), last_rows, top.rows.cpu().numpy(), top.logits.cpu().numpy(), to_last, np.array(normalisers))


def _followed(copy: ModelCopy, numbers: Rows, lengths: Rows) -> Tensor:
    """Return the vector of each history, (batch, width), on the copy's device."""
    compiled = copy.last_vectors()
    if compiled is not None:
        return torch.from_numpy(compiled.of(copy.units.numpy(), numbers, lengths))
    steps = StepBatch(*(each.to(copy.device) for each in as_batch(numbers, lengths)))
    return copy.model.follow_to_end(copy.units[steps.rows], steps)


@torch.inference_mode()
def search(copy: ModelCopy, vectors: Tensor, best: int, *, normalised: bool) -> tuple[Best, list[float]]:
    """Return the `best` items of the catalogue for vectors of histories, (batch, width), and the normalisers, NaN where not wanted.

    Where the catalogue is large, the best are found by 8-bit vectors first, with the same result (`coarse_units`).
    """
    size = len(copy.items)
    best = min(best, size - 1)
    unknown = [float("nan")] * len(vectors)
    # Whoever wants normalisers needs all logits anyway.
    if not normalised and is_worth_it(copy.units, size, best, len(vectors)):
        logits, rows = copy.coarse_units().best(copy.units, vectors, size, best)
        return Best(rows, logits), unknown
    if copy.device.type != "cpu":
        # The unknown item, in row 0, is nobody's best and has no share.
        all_logits = (vectors @ copy.units[:size].T)[:, 1:]
        top = all_logits.topk(best, dim=1)
        return Best(top.indices + 1, top.values), all_logits.logsumexp(dim=1).tolist() if normalised else unknown
    best_logits, best_rows = np.empty((len(vectors), best), np.float32), np.empty((len(vectors), best), np.int64)
    normalisers: list[float] = []
    together = max(1, LOGITS_TOGETHER // size)
    for first in range(0, len(vectors), together):
        part = slice(first, first + together)
        # In this order, and by NumPy's library, the product of a table with a few vectors is up to twice as fast as torch's.
        products = copy.units[:size].numpy() @ vectors[part].numpy().T
        rank_all(products, best_logits[part], best_rows[part])
        if normalised:
            normalisers += _normalisers(torch.from_numpy(products[1:]), copy.model.shape.temperature)
    return Best(torch.from_numpy(best_rows), torch.from_numpy(best_logits)), normalisers or unknown


@torch.inference_mode()
def nearness(copy: ModelCopy, rows: Rows, scored: Scored) -> tuple[Floats, Floats]:
    """Return the logits and `to_last` of further candidates of a history that was scored by the same copy, (candidates,) each.

    `rows` must be rows in use, or 0 for an unknown item.
    """
    if not len(scored.vector):
        unknown = np.full(len(rows), np.nan, np.float32)
        return unknown, np.zeros_like(unknown)
    if copy.device.type == "cpu":
        units = copy.units.numpy()
        wanted = units[rows]
        logits, to_last = wanted @ scored.vector, wanted @ units[scored.last_row]
    else:
        both = torch.stack([torch.from_numpy(scored.vector).to(copy.device), copy.units[scored.last_row]], dim=1)
        logits, to_last = (copy.units[torch.from_numpy(rows).to(copy.device)] @ both).T.cpu().numpy()
    return np.where(rows == UNKNOWN, np.float32(np.nan), logits), to_last


def _normalisers(logits: Tensor, height: float) -> list[float]:
    """Return the log of the sum of `exp(logit)` of each column, (items, batch), overwriting the logits, none of which is above `height`."""
    # So none of the powers is too large, and the best are not too small.
    normalisers: list[float] = (logits.sub_(height).exp_().sum(dim=0, dtype=torch.float64).log() + height).tolist()
    return normalisers


def _candidates(copy: ModelCopy, found: Found, rows: Rows, counts: Rows) -> tuple[Floats, Floats]:
    """Return logits and cosines to the last item of all candidates of all histories, one after the other.

    One look-up for all of them: each crossing between Python and torch costs more than its numbers.
    """
    if not len(rows):
        nothing: Floats = np.zeros(0, np.float32)
        return nothing, nothing
    known = (rows > UNKNOWN) & (rows < len(copy.items))
    asked = (np.where(known, rows, UNKNOWN), np.repeat(found.vectors, counts, axis=0), np.repeat(found.last_rows, counts))
    wanted, vectors, last_rows = (torch.from_numpy(one).to(copy.device) for one in asked)
    units = copy.units[wanted]
    logits: Floats = (units * vectors).sum(dim=1).cpu().numpy()
    logits[~known] = np.nan
    return logits, (units * copy.units[last_rows]).sum(dim=1).cpu().numpy()


def _nothing(candidates: Rows) -> Scored:
    nothing = np.zeros(0, np.float32)
    unknown = np.full(len(candidates), np.nan, np.float32)
    return Scored(unknown, np.zeros_like(unknown), np.zeros(0, np.int64), nothing, nothing, float("nan"), nothing)
