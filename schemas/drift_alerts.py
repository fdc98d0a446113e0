"""What whoever is on call receives: a signal has changed its level."""

from typing import Literal

from msgspec import Struct

from headrace.schemas.fields import Count, Id, ShortText, TimeMs


class DriftAlert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`signal` moved from `level_before` to `level_after`, as seen by `detector` over the newest `window` observations."""

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
