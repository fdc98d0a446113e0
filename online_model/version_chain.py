"""Which version builds on which: whether one still leads back to the stable version, or to one that was withdrawn."""

from headrace.online_model.release_state import ReleaseState
from headrace.schemas import ModelUpdate


class VersionChain:
    """Which version builds on which, and which were published whole."""

    def __init__(self) -> None:
        self.whole: dict[int, str] = {}
        self._bases: dict[int, int] = {}
        self._found: dict[int, bool] = {}

    def add(self, update: ModelUpdate) -> None:
        """Take in a manifest."""
        self._found.pop(update.version, None)
        if update.kind == "delta":
            self._bases[update.version] = update.base_version
        else:
            self.whole[update.version] = update.weights_sha256

    def leads_to(self, version: int, state: ReleaseState) -> bool:
        """Whether neither the version nor any that it builds on, down to the stable one, is withdrawn."""
        way = []
        while version not in self._found and version > state.stable_version and not state.withdraws(version):
            way.append(version)
            base = self._bases.get(version)
            if base is None or base >= version:
                break
            version = base
        if version in self._found:
            stands = self._found[version]
        elif version > state.stable_version:
            # Withdrawn, not known, or where a chain begins; that may be a new one.
            stands = not state.withdraws(version) and version in self.whole
        else:
            stands = version == state.stable_version
        self._found |= dict.fromkeys(way, stands)
        return stands

    def decided(self, stable_version: int) -> None:
        """Forget what was found by the former decisions, and what lies before the stable version."""
        self._found.clear()
        self._bases = {version: base for version, base in self._bases.items() if version >= stable_version}
        self.whole = {version: name for version, name in self.whole.items() if version >= stable_version}
