"""What a demo has found, as it is told at the end and written with `--json`."""

from msgspec import Struct


class Freshness(Struct, frozen=True):
    """Milliseconds from the publishing of an event to its effect; None where nothing was measured."""

    p50: float | None
    p99: float | None


class DemoReport(Struct, frozen=True, kw_only=True):
    """The outcome of a demo.

    `events_counted` is what the rows in the online store have gained; lost and double are compared shopper by shopper,
    `item_touches_*` item by item. Hit rates are over the last third of the events, on a sample of `hit_rate_events`.
    `responses_checked` answers were made again with the weights that they name. `lag_max` is in records not committed yet.
    """

    broker: str
    redis: str
    device: str
    data: str
    fresh_start: bool
    seconds: float
    seconds_to_ready: float
    seconds_to_first_recommendation: float | None
    events_in_file: int | None
    events_published: int
    events_refused: int
    events_counted: int
    events_lost: int
    events_double: int
    purchases_published: int
    purchases_counted: int
    item_touches_lost: int
    item_touches_double: int
    dead_letters: int
    events_per_s: float
    lag_max: dict[str, int]
    lag_end: dict[str, int]
    recommendations: int
    model_versions: int
    swaps: int
    weight_updates_refused: int
    responses_checked: int
    torn_responses: int
    failed_responses: int
    drift_alerts: int
    restarts: dict[str, int]
    freshness_ms: dict[str, Freshness]
    hit_rate_at_20: float | None
    popularity_hit_rate_at_20: float | None
    hit_rate_events: int

    @property
    def exact(self) -> bool:
        """Whether nothing was lost, counted twice or torn."""
        wrong = (self.events_lost, self.events_double, self.item_touches_lost, self.item_touches_double, self.torn_responses)
        return not any(wrong)

    def lines(self) -> list[str]:
        """Return the report in words."""
        fresh = ", ".join(f"{kind} {_ms(value.p50)} / {_ms(value.p99)}" for kind, value in self.freshness_ms.items())
        restarts = ", ".join(f"{part} {count}" for part, count in self.restarts.items() if count)
        return [
            (
                f"{self.events_published:,} events published in {self.seconds:.0f} s, {self.events_counted:,} counted in the features: "
                f"{self.events_lost} lost, {self.events_double} double"
            ),
            f"{self.purchases_published:,} purchases published, {self.purchases_counted:,} in the features",
            f"{self.recommendations:,} recommendations; the first {_s(self.seconds_to_first_recommendation)} after the start",
            (
                f"{self.model_versions} model versions, {self.swaps} swaps; {self.responses_checked} answers made again, "
                f"{self.torn_responses} of them torn"
            ),
            (
                f"hit rate at 20 over the last third: {_share(self.hit_rate_at_20)}, popularity's {_share(self.popularity_hit_rate_at_20)} "
                f"({self.hit_rate_events} events)"
            ),
            f"freshness p50 / p99 ms: {fresh}",
            f"drift alerts {self.drift_alerts}, dead letters {self.dead_letters}" + (f", restarts: {restarts}" if restarts else ""),
            f"on {self.broker}, {self.redis}, {self.device}",
        ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _s(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
