"""What whoever is on call receives: something has changed, since when, why, and what was done."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.schemas.fields import Count, Id, ShortText, TimeMs

AlertState = Literal["started", "ongoing", "resolved"]
DriftKind = Literal["concept", "data", "service"]


class DriftCause(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A signal, or a segment of one, that moved too. `share` is its part of all that moved, 0 to 1."""

    signal: Id
    share: float
    level_before: float
    level_after: float
    segment: dict[str, str] = {}


class DriftReaction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was done, and the quality (the share of hits among the first 20) before the drift, at the alert, and after."""

    name: Id
    state: Literal["proposed", "begun", "kept", "withdrawn"]
    begun_ms: TimeMs | None = None
    quality_before: float | None = None
    quality_at: float | None = None
    quality_after: float | None = None


class DriftAlert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`signal` moved from `level_before` to `level_after`, as seen by `detector` over the newest `window` observations.

    All alerts of one episode carry its `episode_id`. `since_ms` is the event time at which the change began, as far as the
    detector can tell; `p_value` is the chance of such a finding where nothing has changed. `causes` are ranked, the strongest
    first; `signals` are all that moved together. `known_episode` names an earlier episode after which things looked alike.
    """

    alert_id: Id
    signal: Id
    detector: Id
    severity: Literal["info", "warning", "critical"]
    level_before: float
    level_after: float
    window: Count
    observations: Count
    model_version: Count
    event_time_ms: TimeMs
    created_ms: TimeMs
    reaction: ShortText
    episode_id: Id | None = None
    state: AlertState = "started"
    kind: DriftKind = "concept"
    segment: dict[str, str] = {}
    since_ms: TimeMs | None = None
    p_value: float | None = None
    signals: Annotated[list[Id], Meta(max_length=1000)] = []
    causes: Annotated[list[DriftCause], Meta(max_length=100)] = []
    known_episode: Id | None = None
    reactions: Annotated[list[DriftReaction], Meta(max_length=100)] = []
    picture: ShortText | None = None
