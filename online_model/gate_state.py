"""What the gate remembers from round to round, as it is kept while no learner runs: JSON for what is told, safetensors for arrays.

Lengths of histories are bounded by the model's, numbers of them by the gate's plan, and what grows with the catalogue by the limits
below; what is beyond them is learned anew.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headrace.online_model.history_ring import KeptHistories

if TYPE_CHECKING:
    from torch import Tensor

    from headrace.online_model.transformer import NextItemTransformer

# A row of 64 numbers takes 256 bytes: 25 MB for an anchor at most.
MOST_ANCHOR_ROWS = 100_000
MOST_USUAL_ITEMS = 50_000
# Twice 64 numbers a row: 5 MB.
MOST_OPTIMIZED_ROWS = 10_000

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class BadGateState(ValueError):
    """A state of the gate that cannot be gone on from; the text says why."""


@dataclass(frozen=True)
class WealthState:
    """The logs of what each bettor of a `betting.Wealth` has, the most there ever was, and what was seen."""

    logs: list[float]
    log_best: float
    seen: int
    total: float


@dataclass(frozen=True)
class LabelState:
    """The losses of the last rounds' batches, and the evidence of a change where the newest ones are doubted."""

    levels: list[float]
    aside: WealthState | None


@dataclass(frozen=True)
class TrustedState:
    """A sample of trusted histories, and of how many it was drawn."""

    kept: KeptHistories
    offered: int
    is_open: bool


@dataclass(frozen=True)
class PanelState:
    """The panel's steps, (histories, steps, 5) and their lengths, and the rows near to each, (histories, near)."""

    steps: Ints
    lengths: Ints
    near: Ints


@dataclass(frozen=True)
class AnchorState:
    """An anchor by what differs from the live weights: all dense tensors, and the rows that the live ones have changed since.

    `moved` (rows,) are those rows, `values` (rows, width) what the anchor has there; `gone` stand for other items now.
    """

    number: int
    age: int
    items: int
    dense: dict[str, Floats]
    moved: Ints
    values: Floats
    gone: list[int]
    wealth: WealthState


@dataclass(frozen=True)
class SparseRows:
    """Numbers by row of a table of `capacity` rows: `values` at `rows`, and `floor` elsewhere."""

    capacity: int
    floor: float
    rows: Ints
    values: Floats


@dataclass(frozen=True)
class GateState:
    """Everything of `gate.Gate` that a verdict depends on; `anchor` is None where it had become too large to be kept."""

    rounds: int
    unasked: int
    moves: list[tuple[float, float]]
    times_s: list[float]
    labels: LabelState
    held_back: KeptHistories
    live_losses: NDArray[np.float64]
    trusted: TrustedState | None
    tried: KeptHistories
    live_trusted: NDArray[np.float64] | None
    negatives: Ints
    log_q: SparseRows
    panel: PanelState
    live_counts: SparseRows
    anchor_counts: SparseRows
    anchor: AnchorState | None


@dataclass(frozen=True)
class SurgeState:
    """What `surges.ItemSurges` knows: the usual number of shoppers by item, as of a round, the window's counts and what is left out."""

    round: int
    usual: dict[str, tuple[float, int]]
    window: list[tuple[dict[str, int], int]]
    until: dict[str, int]


@dataclass(frozen=True)
class AdamState:
    """The moments of `lazy_adam.Adam`, in the order of its parameters, and its steps."""

    means: list[Floats]
    squares: list[Floats]
    steps: int


@dataclass(frozen=True)
class RowMoments:
    """The moments of `lazy_adam.LazyAdam` for some `rows`, (rows, width) each, and the steps of each, (rows, 1)."""

    rows: Ints
    means: Floats
    squares: Floats
    steps: Floats


@dataclass(frozen=True)
class TunerState:
    """The gate's memory, and what candidates depend on that it compares with those before.

    These are the surges, the rows that negatives are drawn from (`recent`), the optimizers of the dense weights and of the rows that were
    touched last, without whose moments the first steps would be several times as long as usual, and how many of the held-back histories
    are trusted ones (`set_apart`).
    """

    gate: GateState
    surges: SurgeState
    recent: Ints
    dense_moments: AdamState
    row_moments: RowMoments
    set_apart: int


@dataclass(frozen=True)
class Since:
    """What has happened to the live weights after a state was taken.

    `model` has the weights of that moment, `updates` the touched and the reused rows of each update that came later.
    """

    model: "NextItemTransformer"
    updates: "list[tuple[Tensor, list[int]]]"

    @property
    def reused(self) -> list[int]:
        """The rows that were given to other items, in all updates."""
        return [row for _, rows in self.updates for row in rows]


def sparse(values: NDArray[Any], floor: float = 0.0) -> SparseRows:
    """Return numbers by row, (capacity,), as those that are not `floor`."""
    rows = np.flatnonzero(values != floor)
    return SparseRows(len(values), floor, rows, values[rows].astype(np.float32))


def dense(kept: SparseRows) -> Floats:
    """Return what `sparse` was given, (capacity,), in single precision."""
    values = np.full(kept.capacity, kept.floor, np.float32)
    values[kept.rows] = kept.values
    return values


def encode_state(state: TunerState) -> tuple[bytes, bytes]:
    """Return a state as JSON, in which arrays are named, and the arrays as safetensors."""
    arrays: dict[str, NDArray[Any]] = {}

    def name(array: Any) -> str:
        key = f"{len(arrays):03d}"
        arrays[key] = np.ascontiguousarray(array)
        return key

    told = msgspec.json.encode(state, enc_hook=name)
    return told, save(arrays)


def decode_state(told: bytes, arrays: bytes) -> TunerState:
    """Return the state that these bytes hold. Raises BadGateState."""
    try:
        found = load(arrays)
        return msgspec.json.decode(told, type=TunerState, dec_hook=lambda kind, key: found[key].copy())
    except (msgspec.DecodeError, SafetensorError, KeyError, TypeError) as error:
        raise BadGateState(f"it cannot be read: {error}") from None
