"""What the dashboard's stream and history carry. Times are milliseconds since 1970, freshness is in milliseconds."""

from typing import Literal

from msgspec import Struct

from headrace.schemas.drift_alerts import AlertState, DriftCause, DriftReaction
from headrace.schemas.drift_state import DriftState
from headrace.schemas.fields import TimeMs
from headrace.schemas.model_releases import Action

State = Literal["healthy", "learning behind", "drift going on", "stale"]
Resolution = Literal["fine", "coarse"]


class Freshness(Struct, frozen=True, kw_only=True):
    """Quantiles over the last minute; null where nothing was seen in it."""

    p50_ms: float | None
    p99_ms: float | None
    samples: int


class PartLag(Struct, frozen=True, kw_only=True):
    """How far a part is behind: records not committed, and for how long the oldest of them has been there. Null where not known."""

    part: str
    records: int | None
    behind_s: float | None


class Quality(Struct, frozen=True, kw_only=True):
    """Of the steps that the gateway tested before it learned from them: the share that were among the first 20."""

    live: float | None
    popularity: float | None
    tested: int
    window_s: int


class Source(Struct, frozen=True, kw_only=True):
    """Where figures come from, when it last told anything, and what is amiss. Quiet sources may be silent for long."""

    name: str
    seen_ms: TimeMs | None
    expected_every_s: float | None
    trouble: str | None = None


class Now(Struct, frozen=True, kw_only=True):
    """The moment: state with reasons, flow, lag, freshness, quality and sources."""

    made_ms: TimeMs
    started_ms: TimeMs
    state: State
    sentence: str
    reasons: list[str]
    events_per_s: float | None
    lists_per_s: float | None
    answers_per_s: float
    answers_p99_ms: float | None
    lag: list[PartLag]
    freshness: dict[str, Freshness]
    quality: Quality
    model_version: int
    dead_letters: int | None
    dead_letters_new: int | None
    sources: list[Source]


class VersionLine(Struct, frozen=True, kw_only=True):
    """A manifest of `model-updates`, in short. `whole` says that the version was published as a snapshot too, so one can go back to it."""

    version: int
    whole: bool
    created_ms: TimeMs
    trigger: str
    learned_events: int
    payload_bytes: int
    holdout_loss: float | None
    live_holdout_loss: float | None
    metrics: dict[str, float]
    sha256: str


class Decision(Struct, frozen=True, kw_only=True):
    """A record of `model-releases`, in short."""

    sequence: int
    action: Action
    stable_version: int
    withdrawn_to: int
    trial_share: float
    pinned: bool
    reason: str
    decided_by: str
    decided_ms: TimeMs


class LaneOutcome(Struct, frozen=True, kw_only=True):
    """What the recommenders reported of a lane's lists in the last ten minutes."""

    lane: str
    version: int
    answered: int
    hits: int
    clicks: int


class Releases(Struct, frozen=True, kw_only=True):
    """Who is answered by what: the newest decisions, newest first, and how the lanes do. `reported` is false before the first.

    `withdrawn` holds for each rollback the version gone back to and the last one withdrawn.
    """

    reported: bool
    stable_version: int
    trial_share: float
    withdrawn: list[list[int]]
    decisions: list[Decision]
    outcomes: list[LaneOutcome]


class Episode(Struct, frozen=True, kw_only=True):
    """An episode of drift as its newest alert tells it."""

    episode_id: str
    signal: str
    signals: list[str]
    state: AlertState
    kind: str
    severity: str
    detector: str
    segment: dict[str, str]
    started_ms: TimeMs
    since_ms: TimeMs | None
    told_ms: TimeMs
    level_before: float
    level_after: float
    p_value: float | None
    model_version: int
    reaction: str
    causes: list[DriftCause]
    reactions: list[DriftReaction]
    known_episode: str | None
    picture: str | None


class Drift(Struct, frozen=True, kw_only=True):
    """The newest episodes, newest first, and how many of them go on."""

    going_on: int
    episodes: list[Episode]


class Mark(Struct, frozen=True, kw_only=True):
    """What happened at one time and belongs on the curve."""

    time_ms: TimeMs
    kind: Literal["drift", "promote", "rollback", "pin", "unpin", "start"]
    label: str
    id: str


class History(Struct, frozen=True, kw_only=True):
    """The curves since the gateway started, oldest first, as rows of `columns`; what is not known is null.

    `time_ms` is the end of the interval of `step_s`. Counts are those of the interval, quantiles those of the minute before its end.
    """

    started_ms: TimeMs
    resolution: Resolution
    step_s: int
    columns: list[str]
    rows: list[list[float | int | None]]


class Frame(Struct, frozen=True, kw_only=True):
    """One message of the stream: the parts that have changed since the client's last one; the first holds all.

    `point` is the newest row of the fine history, `shoppers` are some who were just here, `signals` is null until one is reported.
    """

    revision: int
    now: Now | None = None
    point: list[float | int | None] | None = None
    marks: list[Mark] | None = None
    versions: list[VersionLine] | None = None
    releases: Releases | None = None
    drift: Drift | None = None
    signals: list[DriftState] | None = None
    shoppers: list[str] | None = None
