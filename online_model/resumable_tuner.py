"""A tuner whose gate goes on where that of an ended process was: `gate_state` has what is kept.

What is to be replayed and how often each item was seen is learned anew, as are the moments of rows that were not touched lately.
"""

import numpy as np
import torch

from headrace.online_model.fine_tuning import FineTuner
from headrace.online_model.gate_state import MOST_OPTIMIZED_ROWS, BadGateState, Since, TunerState


class ResumableTuner(FineTuner):
    """See `fine_tuning.FineTuner`."""

    def state(self) -> TunerState:
        """Return what the gate remembers, between two rounds."""
        recent = self._ledger.recent
        # The last place of each row: those that were touched last are kept.
        rows, last = np.unique(recent[::-1], return_index=True)
        touched = torch.from_numpy(rows[np.argsort(last)[:MOST_OPTIMIZED_ROWS]])
        return TunerState(
            gate=self.gate.state(),
            surges=self._surges.state(),
            recent=recent,
            dense_moments=self._dense_optimizer.moments(),
            row_moments=self._item_optimizer.moments(touched),
            set_apart=self._set_apart,
        )

    def restore(self, state: TunerState, since: Since | None = None) -> None:
        """Go on from a state; see `gate.Gate.restore`. Raises BadGateState, after which neither tuner nor trusted set may be used."""
        reused = since.reused if since is not None else []
        try:
            self._dense_optimizer.restore(state.dense_moments)
            self._item_optimizer.restore(state.row_moments)
        except (IndexError, RuntimeError, ValueError) as error:
            raise BadGateState(f"it does not fit the live weights: {error}") from None
        self._item_optimizer.forget(torch.tensor(reused, dtype=torch.int64))
        self.gate.restore(state.gate, self.live, since)
        self._surges.restore(state.surges)
        self._set_apart = state.set_apart
        self._ledger.recent = state.recent
        self._forget_rows(len(self.live.items), reused)
