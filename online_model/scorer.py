"""Scoring with weights that are swapped under it: two copies, left and right (Ramalhete and Correia, "Left-Right", 2015).

Readers use the live copy; an update is applied to the other, then one reference is flipped, and once no reader is left on the
old copy it gets the same update. Readers take no lock and never wait; a writer waits for readers, one batch at most.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from headrace.online_model.transformer import UNKNOWN, TransformerShape, last_vectors, pad
from headrace.online_model.weights import ModelCopy
from headrace.schemas import ModelUpdate, Step

KIND_ROWS = {"view": 0, "cart": 1, "purchase": 2}


@dataclass(frozen=True)
class Scored:
    """What the Transformer says of one history: its best items, and the probabilities of the candidates asked for."""

    best: dict[str, float]
    candidates: dict[str, float]


@dataclass(frozen=True)
class Batch:
    """The scores of a batch of histories, all by the weights that `version` and `sha256` name."""

    scores: list[Scored]
    version: int
    sha256: str


class Scorer:
    """The Transformer with hot-swapped weights. Any number of threads may score; one thread at a time updates."""

    def __init__(self, shape: TransformerShape | None = None, device: str = "cpu") -> None:
        self._copies = (ModelCopy(shape, device), ModelCopy(shape, device))
        self._copies[1].copy_from(self._copies[0])
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
            yield self._copies[side]
        finally:
            self._readers[side].discard(token)

    def apply(self, update: ModelUpdate, payload: bytes, warm_up: Callable[[ModelCopy], None] | None = None) -> None:
        """Swap in an update. Raises BadUpdate or MissingLink where it must not be; what is served then stays as it was."""
        with self._writer:
            old = self._live
            standby = 1 - old
            self._copies[standby].apply(update, payload)
            if warm_up is not None:
                try:
                    warm_up(self._copies[standby])
                except Exception:
                    self._copies[standby].copy_from(self._copies[old])
                    raise
            self._live = standby
            while self._readers[old]:
                time.sleep(0.0002)
            self._copies[old].apply(update, payload)

    def score(self, histories: Sequence[Sequence[Step]], candidates: Sequence[Sequence[str]], best: int = 50) -> Batch:
        """Score a batch of histories of (item id, kind), oldest first, against the whole catalogue.

        For each history: the `best` most probable items and the probabilities of its `candidates`, of those that have a row.
        """
        with self.live() as copy:
            if len(copy.items) == 1 or not histories:
                return Batch([Scored({}, {}) for _ in histories], copy.version, copy.sha256)
            return Batch(_score(copy, histories, candidates, best), copy.version, copy.sha256)


@torch.inference_mode()
def _score(copy: ModelCopy, histories: Sequence[Sequence[Step]], candidates: Sequence[Sequence[str]], best: int) -> list[Scored]:
    length = copy.model.shape.length
    encoded = [[(copy.rows.get(item, UNKNOWN), KIND_ROWS[kind]) for item, kind in history[-length:]] for history in histories]
    rows, kinds, lengths = (tensor.to(copy.device) for tensor in pad(encoded, length))
    vectors = last_vectors(copy.model, rows, kinds, lengths)
    logits = vectors @ copy.model.items.weight[1 : len(copy.items)].T
    normaliser = logits.logsumexp(dim=1)
    top = logits.topk(min(best, logits.shape[1]), dim=1)
    top_scores = (top.values - normaliser[:, None]).exp().tolist()
    top_rows = (top.indices + 1).tolist()
    known = [[(item, copy.rows[item] - 1) for item in wanted if item in copy.rows] for wanted in candidates]
    # One look-up for all candidates of all histories: each crossing between Python and torch costs more than its numbers.
    places = torch.tensor([place for place, items in enumerate(known) for _ in items], dtype=torch.long, device=copy.device)
    columns = torch.tensor([row for items in known for _, row in items], dtype=torch.long, device=copy.device)
    flat = iter((logits[places, columns] - normaliser[places]).exp().tolist())
    return [
        Scored({copy.items[row]: score for row, score in zip(rows, scores, strict=True)}, {item: next(flat) for item, _ in items})
        for rows, scores, items in zip(top_rows, top_scores, known, strict=True)
    ]
