"""A smaller model that answers: whatever asks a `Scorer`, such as the ranker or the checker of answers, can ask this."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from headrace.online_model.compression.packed import unpacked
from headrace.online_model.scorer import NO_ROWS, Batch, Rows, score_with
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry


class ServedFile:
    """Lends one copy, read from a file, that never changes. A new file is served by a new one of these. Any number of threads may ask.

    Raises BadPacked where the file is none.
    """

    def __init__(self, payload: bytes, device: str = "cpu") -> None:
        self._copy = unpacked(payload, device)

    @property
    def version(self) -> int:
        """The version that the file was made of."""
        return self._copy.version

    @property
    def sha256(self) -> str:
        """The hash of the file."""
        return self._copy.sha256

    @contextmanager
    def live(self) -> Iterator[ModelCopy]:
        """Lend the copy."""
        yield self._copy

    def score(self, histories: Sequence[Sequence[HistoryEntry]], candidates: Sequence[Rows] | None = None, best: int = 50) -> Batch:
        """Score as `Scorer.score` does."""
        asked = [NO_ROWS] * len(histories) if candidates is None else candidates
        return Batch(score_with(self._copy, histories, asked, best), self.version, self.sha256)
