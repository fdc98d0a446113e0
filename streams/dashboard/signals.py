"""How the watched signals stand, by their own topic."""

from headrace.schemas import DriftState

MOST_SIGNALS = 300
ORDER = {"drifting": 0, "warming_up": 2}


class Signals:
    """Keeps the newest state of each signal."""

    def __init__(self) -> None:
        self._newest: dict[str, DriftState] = {}

    @property
    def newest_ms(self) -> int | None:
        """When a state was reported last; None where none was."""
        return max((state.reported_ms for state in self._newest.values()), default=None)

    def take(self, state: DriftState) -> None:
        """Take in how a signal stands."""
        self._newest.pop(state.signal, None)
        self._newest[state.signal] = state
        while len(self._newest) > MOST_SIGNALS:
            del self._newest[next(iter(self._newest))]

    def shown(self) -> list[DriftState] | None:
        """Return the states, those that drift first, then by name; None where none was reported."""
        if not self._newest:
            return None
        return sorted(self._newest.values(), key=lambda state: (ORDER.get(state.state, 1), state.signal))
