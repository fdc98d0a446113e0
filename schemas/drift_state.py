"""How the watched signals stand: level and spread as they usually are, and as they are now."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.schemas.fields import Count, Id, TimeMs

Shares = Annotated[list[float], Meta(max_length=100)]


class DriftState(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The newest of a signal counts: `level` is that of its newest values, `baseline` what is usual for the hour.

    `signal` is the watch's name, with its segment where it has one: `hit_rate[category=tents]`. `histogram_then` and `histogram_now` are
    shares of values between the same `edges`, of which there is one more. `since_ms` is when the state became what it is.
    """

    signal: Id
    detector: Id
    state: Literal["warming_up", "stable", "drifting"]
    level: float | None = None
    baseline: float | None = None
    since_ms: TimeMs | None = None
    histogram_then: Shares = []
    histogram_now: Shares = []
    edges: Annotated[list[float], Meta(max_length=101)] = []
    model_version: Count = 0
    reported_ms: TimeMs
