"""Histories that the stream cannot change, on which every candidate is tried: from the operator, or the first that a chain has seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from headrace.online_model.gate_state import TrustedState
from headrace.online_model.history_ring import KeptHistories, joined
from headrace.online_model.step_batch import UNKNOWN, Numbers, encode_numbers
from headrace.schemas import HistoryEntry

TRUSTED_HISTORIES = 64


class BadTrustedSet(ValueError):
    """A file of trusted histories that cannot be used; the text says which line, and what was expected."""


class TrustedSet:
    """At most `size` histories whose last step is to be foreseen.

    Without `given` ones it takes a uniform sample of the histories offered while it is open (Vitter's algorithm R, ACM TOMS 11, 1985);
    once `close` was called nothing changes it any more.
    """

    def __init__(self, given: Sequence[Sequence[HistoryEntry]] | None = None, size: int = TRUSTED_HISTORIES) -> None:
        self._given = list(given[:size]) if given is not None else None
        self._size = size
        self._kept: list[KeptHistories] = []
        self._offered = 0
        self._is_open = given is None

    @classmethod
    def load(cls, path: Path, size: int = TRUSTED_HISTORIES) -> "TrustedSet":
        """Return the histories in a file of JSON lines, or in all `*.jsonl` files of a folder, spread evenly where there are more.

        Each line is a list of a shopper's steps, oldest first, as the field `history` of a user row has them. Raises BadTrustedSet.
        """
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        read = msgspec.json.Decoder(list[HistoryEntry])
        found: list[list[HistoryEntry]] = []
        for file in files:
            try:
                lines = file.read_bytes().splitlines()
            except OSError as error:
                raise BadTrustedSet(f"{file}: a readable file of trusted histories was expected: {error.strerror}") from None
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        found.append(read.decode(line))
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise BadTrustedSet(f"{file}, line {number}: a list of steps of one shopper was expected: {error}") from None
        usable = [history for history in found if len({entry.item_id for entry in history}) > 1]
        if not usable:
            raise BadTrustedSet(f"{path}: at least one history with two different items was expected; {len(found)} lines have none")
        return cls([usable[place] for place in np.linspace(0, len(usable) - 1, min(size, len(usable))).astype(int)], size)

    @property
    def is_open(self) -> bool:
        """Whether it still takes histories from the stream."""
        return self._is_open

    @property
    def is_given(self) -> bool:
        """Whether the operator gave the histories."""
        return self._given is not None

    def close(self) -> None:
        """Take no more."""
        self._is_open = False

    def offer(self, histories: KeptHistories, random: np.random.Generator) -> None:
        """Let histories of the stream into the sample, each with the same chance."""
        for place in range(len(histories) if self._is_open else 0):
            one = histories.only(np.array([place]))
            self._offered += 1
            if len(self._kept) < self._size:
                self._kept.append(one)
            elif (drawn := int(random.integers(self._offered))) < self._size:
                self._kept[drawn] = one

    def forget_rows(self, first: int, others: Numbers) -> None:
        """Drop what names an item row of `first` or more, or one of `others`: they stand for other items now."""
        self._kept = [one for one in self._kept if len(one.without_rows(first, others))]

    def histories(self, rows: Mapping[str, int], length: int) -> KeptHistories:
        """Return those of which a next step can be foreseen, with `rows` telling the row of an item."""
        if self._given is None:
            return joined(self._kept) if self._kept else joined([KeptHistories(*_none(length))])
        numbers, lengths = encode_numbers(self._given, rows, length)
        kept = KeptHistories(numbers, lengths, np.zeros(len(lengths), np.int64))
        items = kept.numbers[:, :, 0]
        return kept.only(((items[:, 1:] != items[:, :-1]) & (items[:, 1:] != UNKNOWN)).any(axis=1))

    def state(self, length: int) -> TrustedState | None:
        """Return the sample, of histories of `length` steps at most; None where the operator gave them: they are read anew."""
        if self._given is not None:
            return None
        kept = joined(self._kept) if self._kept else KeptHistories(*_none(length))
        return TrustedState(kept, self._offered, self._is_open)

    def restore(self, state: TrustedState) -> None:
        """Go on from a sample."""
        self._kept = [state.kept.only(np.array([place])) for place in range(len(state.kept))]
        self._offered, self._is_open = state.offered, state.is_open


def _none(length: int) -> tuple[Numbers, Numbers, Numbers]:
    return np.zeros((0, length, 5), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
