"""How long a swap holds up whoever asks for weights: one thread scores without a pause while another swaps, in one process.

A reader of the left-right scorer takes no lock; what can hold it up is the interpreter, which gives its turns to the swapping
thread too. So two things are timed: the wait from asking for the live copy to having it, and the whole scoring of one history, in
spells with swaps and without, in turn.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.online_model.scorer import Scorer, score_with
from headrace.schemas import HistoryEntry, ModelUpdate
from headrace.streams.gateway import SWITCH_INTERVAL_S

SPELLS = 10
NO_ROWS = np.empty(0, np.int64)

Link = tuple[ModelUpdate, bytes]


@dataclass(frozen=True)
class Pauses:
    """Milliseconds: the longest wait for the live copy, and of scoring one history the p99 and the longest, with swaps and without."""

    swaps: int
    longest_wait_with: float
    longest_wait_without: float
    p99_with: float
    p99_without: float
    longest_with: float
    longest_without: float


def measure_pauses(
    scorer: Scorer, links: Sequence[Link], history: Sequence[HistoryEntry], per_s: float, tell: Callable[[str], None]
) -> Pauses:
    """Apply the links, which must follow on what the scorer holds, at that rate, in spells, while one history is scored."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    swapping, stop = threading.Event(), threading.Event()
    taken: dict[bool, list[tuple[float, float]]] = {True: [], False: []}

    def score() -> None:
        while not stop.is_set():
            began_s = time.perf_counter()
            with scorer.live() as copy:
                had_s = time.perf_counter()
                score_with(copy, [history], [NO_ROWS], best=20)
            taken[swapping.is_set()].append((had_s - began_s, time.perf_counter() - began_s))

    thread = threading.Thread(target=score, name="asking", daemon=True)
    thread.start()
    try:
        time.sleep(0.5)
        taken[False].clear()
        size = -(-len(links) // SPELLS)
        for start in range(0, len(links), size):
            tell(f"{start} of {len(links)} swaps")
            time.sleep(size / per_s)
            swapping.set()
            began_s = time.perf_counter()
            for turn, (update, payload) in enumerate(links[start : start + size]):
                time.sleep(max(0.0, turn / per_s - (time.perf_counter() - began_s)))
                scorer.apply(update, payload)
            swapping.clear()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval_s)
    waits = {side: max(wait for wait, _ in found) for side, found in taken.items()}
    whole = {side: np.array([took for _, took in found]) for side, found in taken.items()}
    return Pauses(
        swaps=len(links),
        longest_wait_with=1000 * waits[True],
        longest_wait_without=1000 * waits[False],
        p99_with=1000 * float(np.quantile(whole[True], 0.99)),
        p99_without=1000 * float(np.quantile(whole[False], 0.99)),
        longest_with=1000 * float(whole[True].max()),
        longest_without=1000 * float(whole[False].max()),
    )
