"""What a watched run looks like from the outside: the parts' metrics, lag by the committed offsets, and the newest list."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from confluent_kafka import TopicPartition

from headrace.deploy.scrape import Readings, scrape
from headrace.deploy.supervisor import Supervisor
from headrace.schemas import InvalidMessage, Recommendation, decode
from headrace.schemas.topics import DEAD_LETTERS, DRIFT_ALERTS, RECOMMENDATIONS, Topic
from headrace.streams import kafka
from headrace.streams.lag import GROUPS, LagReader

FRESHNESS = {
    "feature": "headrace_feature_freshness_seconds",
    "recommendation": "headrace_recommendation_freshness_seconds",
    "weights": "headrace_weights_freshness_seconds",
}
READ_TOPICS = {topic.name: topic for _, topics in GROUPS.values() for topic in topics}


@dataclass(frozen=True)
class Moment:
    """Counts as of one moment: seconds since the replay began, events published, and predictions tested and right."""

    seconds: float
    published: int
    tested: float
    hits: float
    popularity_hits: float


@dataclass(frozen=True)
class HitRate:
    """The share of next items that were among the first 20, of the live model and of popularity, over `tested` events."""

    live: float | None
    popularity: float | None
    tested: int


@dataclass
class Picture:
    """What there is to see now; the view draws it."""

    seconds: float = 0.0
    published: int = 0
    total: int | None = None
    rate: float = 0.0
    lag: dict[str, int] = field(default_factory=dict)
    lag_max: dict[str, int] = field(default_factory=dict)
    freshness_ms: dict[str, dict[str, float | None]] = field(default_factory=dict)
    hits: HitRate = HitRate(None, None, 0)
    model_version: int = 0
    swaps: int = 0
    recommendations: int = 0
    drift_alerts: int = 0
    dead_letters: int = 0
    loss: float | None = None
    restarts: dict[str, int] = field(default_factory=dict)
    newest: Recommendation | None = None


class Monitor:
    """Looks at the parts once at each `look`, which takes some tens of milliseconds."""

    def __init__(self, bootstrap: str, supervisor: Supervisor) -> None:
        self.readings = Readings()
        self.moments: list[Moment] = []
        self.picture = Picture()
        self._supervisor = supervisor
        self._reader = LagReader(bootstrap, "headrace-monitor")
        self._tail = kafka.consumer(bootstrap, "headrace-monitor-tail")
        self._begun = {topic.name: self.written(topic) for topic in (RECOMMENDATIONS, DEAD_LETTERS, DRIFT_ALERTS)}
        self.started_s = time.monotonic()

    def start_clock(self) -> None:
        """Begin to count the seconds of the replay."""
        self.started_s = time.monotonic()

    def look(self, published: int) -> Picture:
        """Take in what the parts show and return the picture."""
        for child in self._supervisor.children.values():
            text = scrape(child.port)
            if text is not None:
                self.readings.take(child.name, child.life, text)
        now = self.picture
        seconds = time.monotonic() - self.started_s
        now.rate = (published - now.published) / max(1e-6, seconds - now.seconds)
        now.seconds, now.published = seconds, published
        now.lag = self.lags()
        now.lag_max = {part: max(lag, now.lag_max.get(part, 0)) for part, lag in now.lag.items()}
        now.freshness_ms = {kind: self._freshness(kind) for kind in FRESHNESS}
        now.recommendations = self.since_start(RECOMMENDATIONS)
        now.drift_alerts = self.since_start(DRIFT_ALERTS)
        now.dead_letters = self.since_start(DEAD_LETTERS)
        now.model_version = int(self.readings.gauge("headrace_model_version", "recommender") or now.model_version)
        now.swaps = int(self.readings.total("headrace_weight_swaps_total"))
        now.loss = self.readings.gauge("headrace_prequential_loss", "learner")
        now.restarts = self._supervisor.restarts()
        now.newest = self.newest_list() or now.newest
        total = self.readings.total
        self.moments.append(
            Moment(
                seconds,
                published,
                total("headrace_prequential_events_total"),
                total("headrace_prequential_hits_total", model="live"),
                total("headrace_prequential_hits_total", model="popularity"),
            )
        )
        now.hits = hit_rate(self.moments)
        return now

    def lags(self) -> dict[str, int]:
        """Return how many records each part has not committed yet; the last known number where it cannot be told now."""
        found = self._reader.lags(GROUPS, self._reader.ends(READ_TOPICS.values()))
        return {part: self.picture.lag.get(part, 0) if lag is None else lag for part, lag in found.items()}

    def since_start(self, topic: Topic) -> int:
        """Return how many records were written to a topic since the monitor was made."""
        return self.written(topic) - self._begun[topic.name]

    def written(self, topic: Topic) -> int:
        """Return how many records were ever written to a topic."""
        return sum(self._reader.ends([topic]).values())

    def newest_list(self) -> Recommendation | None:
        """Return the newest recommendation of the partition that is the furthest ahead; None where there is none."""
        ends = self._reader.ends([RECOMMENDATIONS])
        (topic, partition), end = max(ends.items(), key=lambda place: place[1])
        if not end:
            return None
        self._tail.assign([TopicPartition(topic, partition, end - 1)])
        record = self._tail.poll(0.5)
        self._tail.unassign()
        if record is None or record.error() is not None:
            return None
        try:
            return decode(Recommendation, record.value(), record.headers())
        except InvalidMessage:
            return None

    def close(self) -> None:
        """Close the connections."""
        self._tail.close()

    def _freshness(self, kind: str) -> dict[str, float | None]:
        found = {name: self.readings.quantile(FRESHNESS[kind], share) for name, share in (("p50", 0.5), ("p99", 0.99))}
        return {name: None if seconds is None else round(1000 * seconds, 1) for name, seconds in found.items()}


def hit_rate(moments: Sequence[Moment], share: float = 1 / 3) -> HitRate:
    """Return the hit rates over the last `share` of the published events."""
    if not moments:
        return HitRate(None, None, 0)
    last = moments[-1]
    # The small number is for what binary fractions do to a third.
    first = next(moment for moment in moments if moment.published >= (1 - share) * last.published - 1e-6)
    if len(moments) == 1 or first is last:
        first = Moment(0.0, 0, 0.0, 0.0, 0.0)
    tested = last.tested - first.tested
    if tested <= 0:
        return HitRate(None, None, 0)
    return HitRate((last.hits - first.hits) / tested, (last.popularity_hits - first.popularity_hits) / tested, int(tested))
