"""The dashboard's one thread: each second it looks at the topics and at the gateway itself, and shows what it found.

Nothing here asks another process, since the parts may run anywhere: lag and rates come from offsets, freshness and quality from what
the gateway reads anyhow, versions, releases and drift from their topics.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from confluent_kafka import KafkaException, Message

from headrace.schemas import (
    DriftAlert,
    DriftState,
    InvalidMessage,
    ModelRelease,
    ModelUpdate,
    Recommendation,
    ReleaseOutcomes,
    decode,
)
from headrace.schemas.topics import (
    BY_NAME,
    CLICKS,
    DEAD_LETTERS,
    DRIFT_ALERTS,
    DRIFT_STATE,
    MODEL_RELEASES,
    MODEL_UPDATES,
    PURCHASES,
    RECOMMENDATIONS,
    RELEASE_OUTCOMES,
)
from headrace.schemas.wire import now_ms
from headrace.streams import metrics
from headrace.streams.dashboard.board import Board
from headrace.streams.dashboard.curves import Curves
from headrace.streams.dashboard.episodes import Episodes
from headrace.streams.dashboard.own_metrics import CounterReader, HistogramReader
from headrace.streams.dashboard.present import Present
from headrace.streams.dashboard.signals import Signals
from headrace.streams.dashboard.sources import Sources
from headrace.streams.dashboard.tails import TopicTails
from headrace.streams.dashboard.taken import RowWatch
from headrace.streams.dashboard.versions import Decisions, Versions
from headrace.streams.gateway_parts import GatewayParts
from headrace.streams.http_metrics import REQUEST_TIME, REQUESTS
from headrace.streams.lag import GROUPS, Ends, LagReader
from headrace.streams.list_sample import ListSample
from headrace.streams.signed_records import require_signature
from headrace.streams.signing import Forged

log = logging.getLogger(__name__)

T = TypeVar("T")

CLIENT_ID = "gateway-dashboard"
LOOK_EVERY_S = 1.0
TIMEOUT_S = 2.0
COUNTED = (CLICKS, PURCHASES, RECOMMENDATIONS, DEAD_LETTERS)
WATCHED = {topic.name: topic for topic in (*COUNTED, *(topic for _, topics in GROUPS.values() for topic in topics))}
FOLLOWED = {MODEL_UPDATES.name: 100, MODEL_RELEASES.name: 200, RELEASE_OUTCOMES.name: 600, DRIFT_ALERTS.name: 500, DRIFT_STATE.name: 2000}
SHOPPERS_SHOWN = 8
SHOPPERS_EVERY_S = 10.0


class Dashboard:
    """Watches from `start` to `stop`; `board` and `curves` hold what is shown."""

    def __init__(self, bootstrap: str, parts: GatewayParts, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._parts = parts
        self._trusted = parts.access.trusted
        self.board = Board()
        self.curves = Curves(clock())
        self._lag = LagReader(bootstrap, CLIENT_ID, TIMEOUT_S)
        self._tails = TopicTails(bootstrap, f"{CLIENT_ID}-topics", FOLLOWED)
        self._lists = ListSample(bootstrap, f"{CLIENT_ID}-lists")
        self._signals = Signals()
        self._rows = RowWatch()
        parts.memories.watch = self._rows.see
        self._weights = HistogramReader(metrics.WEIGHTS_FRESHNESS)
        self._answers = CounterReader(REQUESTS, _is_answer)
        self._answer_times = HistogramReader(REQUEST_TIME, _is_answer)
        self._episodes = Episodes()
        self._versions = Versions()
        self._decisions = Decisions()
        self._sources = Sources()
        self._present = Present(self.curves.started_ms)
        self._shoppers: dict[str, None] = {}
        self._shoppers_shown_s = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dashboard", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End all streams and stop watching."""
        self.board.close()
        self._stop.set()
        self._thread.join(timeout=10.0)

    def look(self) -> None:
        """Look once, and show what was found."""
        at_ms, at_s = self._clock(), time.monotonic()
        ends = self._ask("Kafka offsets", lambda: self._lag.ends(WATCHED.values()), at_ms)
        lags = self._ask("committed offsets", lambda: self._lag.lags(GROUPS, ends or {}), at_ms) if ends else None
        for record in self._ask("model and drift topics", self._tails.read, at_ms) or ():
            self._take(record)
        lists = self._ask("recommendations", lambda: self._lists.read(ends or {}), at_ms) or []
        self._note_lists(lists)
        present = self._present
        present.rows(at_s, self._rows.take())
        present.lists(at_s, [max(0, one.created_ms - one.cause.published_ms) for one in lists])
        present.weights(at_s, [1000 * seconds for seconds in self._weights.added()])
        present.answers(at_s, self._answers.added(), [1000 * seconds for seconds in self._answer_times.added()])
        if ends:
            present.offsets(at_s, _totals(ends), lags or {})
        self._show(at_ms, at_s)

    def _ask(self, name: str, question: Callable[[], T], at_ms: int) -> T | None:
        self._parts.right_of_way.give()
        return self._sources.ask(name, question, at_ms)

    def _show(self, at_ms: int, at_s: float) -> None:
        self._parts.right_of_way.give()
        board, present = self.board, self._present
        self._sources.note("weights", self._versions.newest_ms or None)
        self._sources.note("states of signals", self._signals.newest_ms)
        now = present.now(
            at_ms,
            at_s,
            version=self._parts.live.scorer.version,
            newest_version_ms=self._versions.newest_ms,
            going_on=self._episodes.going_on(at_ms),
            sources=self._sources.shown(),
            failures=self._parts.failures(),
            decision=self._decisions.newest(),
        )
        point = self.curves.add(at_ms, present.counted, present.levels(now, self._versions.newest_loss()))
        board.put("now", now)
        if point is not None:
            board.put("point", point)
        board.put("marks", sorted((*self._episodes.marks(), *self._decisions.marks()), key=lambda mark: mark.time_ms))
        board.put("versions", self._versions.shown())
        board.put("releases", self._decisions.shown(at_ms))
        board.put("drift", self._episodes.drift(at_ms))
        board.put("signals", self._signals.shown())
        if at_s - self._shoppers_shown_s > SHOPPERS_EVERY_S and self._shoppers:
            self._shoppers_shown_s = at_s
            board.put("shoppers", list(self._shoppers)[-SHOPPERS_SHOWN:][::-1])
        board.publish()

    def _take(self, record: Message) -> None:
        topic = record.topic() or ""
        kind = BY_NAME[topic].message
        if kind is None or record.value() is None:
            return
        try:
            message = decode(kind, record.value(), record.headers())
            if isinstance(message, ModelUpdate | ModelRelease | ReleaseOutcomes):
                require_signature(message, record.value(), record.headers(), self._trusted)
        except (InvalidMessage, Forged) as error:
            log.warning("record passed over", extra={"topic": topic, "offset": record.offset(), "reason": str(error)})
            return
        if isinstance(message, ModelUpdate):
            self._versions.take(message)
        elif isinstance(message, ModelRelease):
            self._decisions.take(message)
        elif isinstance(message, ReleaseOutcomes):
            self._decisions.report(message)
        elif isinstance(message, DriftAlert):
            self._episodes.take(message)
        elif isinstance(message, DriftState):
            self._signals.take(message)

    def _note_lists(self, lists: list[Recommendation]) -> None:
        for one in lists:
            self._shoppers.pop(one.shopper_id, None)
            self._shoppers[one.shopper_id] = None
        while len(self._shoppers) > SHOPPERS_SHOWN:
            del self._shoppers[next(iter(self._shoppers))]

    def _watch(self) -> None:
        try:
            while not self._stop.is_set():
                due_s = time.monotonic() + LOOK_EVERY_S
                self.look()
                self._stop.wait(max(0.05, due_s - time.monotonic()))
        except KafkaException:
            log.exception("the dashboard is no longer brought up to date")
            raise
        finally:
            self._tails.close()
            self._lists.close()


def _totals(ends: Ends) -> dict[str, int]:
    totals: dict[str, int] = {}
    for (topic, _), end in ends.items():
        totals[topic] = totals.get(topic, 0) + end
    return totals


def _is_answer(labels: Mapping[str, str]) -> bool:
    return labels.get("route", "").startswith(("/v1/recommendations", "/v1/predict"))
