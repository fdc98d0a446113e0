"""What the topics tell of drift in a span of time: episodes, versions, decisions, and how well the lists did."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.deploy.row_commands import NotATime, parse_time
from headrace.schemas import DriftAlert, DriftState, InvalidMessage, ModelRelease, ModelUpdate, ReleaseOutcomes, decode
from headrace.schemas.topics import (
    BY_NAME,
    CLICKS,
    DRIFT_ALERTS,
    DRIFT_STATE,
    MODEL_RELEASES,
    MODEL_UPDATES,
    PURCHASES,
    RECOMMENDATIONS,
    RELEASE_OUTCOMES,
    USER_FEATURES,
)
from headrace.streams.log_reading import LogReader

TOLD = (DRIFT_ALERTS, MODEL_UPDATES, MODEL_RELEASES, RELEASE_OUTCOMES)
COUNTED = (CLICKS, PURCHASES, USER_FEATURES, RECOMMENDATIONS)
UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


@dataclass
class DriftEpisode:
    """An episode, folded from its alerts: how it began, and its newest alert, which knows the most."""

    first: DriftAlert
    newest: DriftAlert
    alerts: int = 1

    @property
    def episode_id(self) -> str:
        """The name of the episode; that of the alert where it belongs to none."""
        return self.first.episode_id or self.first.alert_id

    @property
    def ended_ms(self) -> int | None:
        """When it was told that it has ended."""
        return self.newest.created_ms if self.newest.state == "resolved" else None


@dataclass
class Interval:
    """What lists did in one interval of the span, by lane: how many met a next step, and how many of these held it."""

    from_ms: int
    to_ms: int
    answered: dict[str, int] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)

    def share(self, lane: str | None = None) -> float | None:
        """Return the share of hits of a lane, or of all lists; None where none met a next step."""
        lanes = [lane] if lane is not None else list(self.answered)
        answered = sum(self.answered.get(one, 0) for one in lanes)
        return sum(self.hits.get(one, 0) for one in lanes) / answered if answered else None


@dataclass
class DriftSpan:
    """All that is known of a span, times in milliseconds since 1970. `counts` are records by topic."""

    from_ms: int
    to_ms: int
    episodes: list[DriftEpisode] = field(default_factory=list)
    updates: list[ModelUpdate] = field(default_factory=list)
    releases: list[ModelRelease] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    states: list[DriftState] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """How many lists met a next step."""
        return sum(sum(interval.answered.values()) for interval in self.intervals)

    @property
    def hit_rate(self) -> float | None:
        """The share of these that held it."""
        hits = sum(sum(interval.hits.values()) for interval in self.intervals)
        return hits / self.answered if self.answered else None


def parse_moment(option: str, text: str, now_ms: int) -> int:
    """Return milliseconds since 1970 of `now`, of how long ago something was (`90m ago`, `2h ago`), or of what `parse_time` reads.

    Raises NotATime.
    """
    if text.strip().lower() == "now":
        return now_ms
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\w*(?:\s+ago)?\s*", text.lower())
    if match is not None:
        return now_ms - int(float(match[1]) * UNITS_MS[match[2]])
    try:
        return parse_time(option, text) or 0
    except NotATime as error:
        raise NotATime(f"{error}; `2h ago`, `90m ago`, `3d ago` and `now` can be read too") from None


def read_span(bootstrap: str, from_ms: int, to_ms: int, progress: Callable[[int, int], object], intervals: int = 120) -> DriftSpan:
    """Read what the topics hold of a span. Raises KafkaException, and ValueError where the span is empty."""
    if to_ms <= from_ms:
        raise NotATime(f"--to: a time after --from was expected; the span from {from_ms} to {to_ms} is empty")
    span = DriftSpan(from_ms, to_ms)
    step = (to_ms - from_ms) / intervals
    span.intervals = [Interval(int(from_ms + step * place), int(from_ms + step * (place + 1))) for place in range(intervals)]
    episodes: dict[str, DriftEpisode] = {}
    reader = LogReader(bootstrap, "headrace-drift-report")
    try:
        there = reader.stretches([*TOLD, *COUNTED])
        begins, ends = reader.first_since([*there], from_ms), reader.first_since([*there], to_ms)
        stretches = {source: (begins.get(source, high), ends.get(source, high)) for source, (_, high) in there.items()}
        for source, (low, high) in stretches.items():
            topic = source.rpartition("/")[0]
            span.counts[topic] = span.counts.get(topic, 0) + max(0, high - low)
        told = {source: stretch for source, stretch in stretches.items() if source.rpartition("/")[0] in {topic.name for topic in TOLD}}
        for records in reader.records(told | reader.stretches([DRIFT_STATE]), progress):
            for record in records:
                _take(span, episodes, record.topic() or "", record.value(), record.headers())
    finally:
        reader.close()
    span.episodes = sorted(episodes.values(), key=lambda episode: episode.first.created_ms)
    span.states = list({state.signal: state for state in span.states}.values())
    return span


def _take(span: DriftSpan, episodes: dict[str, DriftEpisode], topic: str, value: bytes | None, headers: object) -> None:
    kind = BY_NAME[topic].message
    try:
        message = decode(kind, value, headers) if kind is not None else None  # type: ignore[arg-type]
    except InvalidMessage:
        return
    if isinstance(message, DriftAlert):
        key = message.episode_id or message.alert_id
        if key in episodes:
            episodes[key].newest = message
            episodes[key].alerts += 1
        else:
            episodes[key] = DriftEpisode(message, message)
    elif isinstance(message, ModelUpdate):
        span.updates.append(message)
    elif isinstance(message, ModelRelease):
        span.releases.append(message)
    elif isinstance(message, DriftState):
        span.states.append(message)
    elif isinstance(message, ReleaseOutcomes):
        _count(span, message)


def _count(span: DriftSpan, outcomes: ReleaseOutcomes) -> None:
    place = int((outcomes.ended_ms - span.from_ms) / (span.to_ms - span.from_ms) * len(span.intervals))
    interval = span.intervals[min(max(place, 0), len(span.intervals) - 1)]
    for version in outcomes.versions:
        interval.answered[version.lane] = interval.answered.get(version.lane, 0) + version.answered
        interval.hits[version.lane] = interval.hits.get(version.lane, 0) + version.hits
