"""The outside peers of drift detection, asked in a process of their own, and scored by the same rule as the others."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.deploy.bench.drift_score import Score
from headrace.deploy.bench.peer_environments import DRIFT_PEERS

PEERS = ("evidently", "alibi_detect")
_SCRIPT = Path(__file__).with_name("drift_peer.py")


class PeerFailed(RuntimeError):
    """The process of the peers has ended before it answered."""


@dataclass(frozen=True)
class Series:
    """Values to look for drift in, (n,), and the number of each one's event, (n,).

    Drifts are planted at the events `places`, and count as seen `within` so many. Peers hold each `window` values against `reference`.
    """

    values: NDArray[np.float64]
    events: NDArray[np.int64]
    places: list[int]
    within: int
    reference: int
    window: int

    def asked(self) -> str:
        """Return the line that the peers are asked."""
        return json.dumps({"values": self.values.tolist(), "reference": self.reference, "window": self.window}) + "\n"

    def scores(self, answer: dict[str, list[int]]) -> dict[str, Score]:
        """Return each peer's score for the places in `values` at which it finds a drift."""
        scores = {name: Score() for name in PEERS}
        for name, score in scores.items():
            score.add([int(self.events[at]) for at in answer[name]], self.places, len(self.values), self.within)
        return scores


class Peers:
    """The peers' process. `versions` are theirs; all methods raise PeerFailed where it ends too early."""

    def __init__(self, process: "subprocess.Popen[str]", errors: Any) -> None:
        self._process = process
        self._errors = errors
        self.versions: dict[str, str] = self._answer()

    def judge(self, series: Series) -> dict[str, Score]:
        """Return each peer's score on a series."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(series.asked())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # Why it has ended is told by the answer that is missing.
        return series.scores(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise PeerFailed(f"{DRIFT_PEERS.name} ended with {self._process.wait()}:\n{self._errors.read()[-2000:]}")
        return json.loads(line)


@contextmanager
def started_peers(home: Path, tell: Callable[[str], None], *, install: bool = True) -> Iterator[Peers | None]:
    """Yield the peers, in their environment in `home`, or without `install` None where it is missing; they end with the block.

    Raises PeerNotInstalled, PeerFailed.
    """
    python = DRIFT_PEERS.python(home, tell, install=install)
    if python is None:
        yield None
        return
    # Evidently counts its users unless told not to.
    quiet = {"DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(python), str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | quiet,
        )
        try:
            yield Peers(process, errors)
        finally:
            process.kill()
            process.communicate()
