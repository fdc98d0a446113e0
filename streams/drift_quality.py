"""How good the answers are right now, by which reactions to drift are judged; and the hits, handed out event by event."""

import math
import threading
from collections import deque
from collections.abc import Sequence

from headrace.schemas import ReleaseOutcomes

NEWEST_LISTS = 1000
FEWEST_LISTS = 200
NEWEST_LOSSES = 1000
SILENCE_MS = 60_000
MOST_WAITING = 20_000


class Quality:
    """The share of hits among the newest lists that recommenders have reported, over all versions; one thread adds, another may ask.

    Where they are silent for a minute, it is how likely the learner found what came next, the exponential of minus its mean loss:
    another scale, but likewise the higher the better.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: deque[tuple[int, int]] = deque()
        self._answered = 0
        self._hits = 0
        self._heard_ms = 0
        self._losses: deque[float] = deque(maxlen=NEWEST_LOSSES)
        self._waiting: deque[float] = deque(maxlen=MOST_WAITING)

    def heard(self, outcomes: ReleaseOutcomes) -> None:
        """Take in what a recommender reports."""
        answered = sum(version.answered for version in outcomes.versions)
        hits = min(answered, sum(version.hits for version in outcomes.versions))
        if not answered:
            return
        with self._lock:
            self._heard_ms = max(self._heard_ms, outcomes.ended_ms)
            self._reports.append((answered, hits))
            self._answered += answered
            self._hits += hits
            while self._answered - self._reports[0][0] >= NEWEST_LISTS:
                oldest = self._reports.popleft()
                self._answered -= oldest[0]
                self._hits -= oldest[1]
            # A report does not say which lists were the hits: they are spread evenly.
            self._waiting.extend(float((place + 1) * hits // answered > place * hits // answered) for place in range(answered))

    def learned(self, losses: Sequence[float]) -> None:
        """Take in the losses of a round, from before it learned."""
        self._losses.extend(loss for loss in losses if math.isfinite(loss))

    def take_hits(self, count: int) -> list[bool | None]:
        """Return the outcomes of up to `count` lists that nobody has taken yet, oldest first, and None for the rest."""
        with self._lock:
            taken = [bool(self._waiting.popleft()) for _ in range(min(count, len(self._waiting)))]
        return [*taken, *[None] * (count - len(taken))]

    def now(self, now_ms: int) -> float | None:
        """Return the quality, 0 to 1; None before anything is known."""
        with self._lock:
            if self._answered >= FEWEST_LISTS and now_ms - self._heard_ms < SILENCE_MS:
                return self._hits / self._answered
        return math.exp(-sum(self._losses) / len(self._losses)) if self._losses else None
