"""The moment: what was noted in the last minute, put together."""

from collections.abc import Mapping, Sequence

from headrace.schemas.topics import CLICKS, DEAD_LETTERS, PURCHASES, RECOMMENDATIONS
from headrace.streams.dashboard.curves import Value
from headrace.streams.dashboard.health import Standing, judge
from headrace.streams.dashboard.messages import Decision, Episode, Now, PartLag, Quality, Source
from headrace.streams.dashboard.taken import Taken
from headrace.streams.dashboard.window import Behind, Counter, Samples, Sums
from headrace.streams.lag import GROUPS

RATE_S = 5.0
QUALITY_S = 180
FEWEST_TESTED = 20
FRESHNESS = ("feature", "recommendation", "weights")


class Present:
    """Takes what each look has found, then `now` says how it stands. `counted` is what the last look added to the curves."""

    def __init__(self, started_ms: int) -> None:
        self._started_ms = started_ms
        self._samples = {kind: Samples() for kind in FRESHNESS}
        self._answer_times = Samples()
        self._answered = Sums(RATE_S)
        self._flow = Sums(RATE_S)
        self._quality = Sums(QUALITY_S)
        self._events, self._lists = Counter(), Counter()
        self._behind = {part: Behind() for part in GROUPS}
        self._lag: list[PartLag] = [PartLag(part=part, records=None, behind_s=None) for part in GROUPS]
        self._dead_letters: int | None = None
        self._dead_letters_at_start: int | None = None
        self._flow_since_s: float | None = None
        self.counted: dict[str, int] = {}

    def rows(self, at_s: float, taken: Taken) -> None:
        """Take in what was seen of user rows."""
        self._samples["feature"].add(at_s, taken.freshness_ms)
        self.counted = {"tested": taken.tested, "live_hits": taken.live_hits, "popularity_hits": taken.popularity_hits}
        self._quality.add(at_s, self.counted)

    def lists(self, at_s: float, freshness_ms: Sequence[float]) -> None:
        """Take in the freshness of some lists."""
        self._samples["recommendation"].add(at_s, freshness_ms)

    def weights(self, at_s: float, freshness_ms: Sequence[float]) -> None:
        """Take in the freshness of weights that were swapped in here."""
        self._samples["weights"].add(at_s, freshness_ms)

    def answers(self, at_s: float, count: int, times_ms: Sequence[float]) -> None:
        """Take in the answers that the gateway gave."""
        self._answered.add(at_s, {"answers": count})
        self._answer_times.add(at_s, times_ms)

    def offsets(self, at_s: float, totals: Mapping[str, int], lags: Mapping[str, int | None]) -> None:
        """Take in how much was written to each topic, and how far each part is behind."""
        events = self._events.added(totals.get(CLICKS.name, 0) + totals.get(PURCHASES.name, 0))
        lists = self._lists.added(totals.get(RECOMMENDATIONS.name, 0))
        self.counted |= {"events": events, "lists": lists}
        self._flow_since_s = at_s if self._flow_since_s is None else self._flow_since_s
        self._flow.add(at_s, {"events": events, "lists": lists})
        self._dead_letters = totals.get(DEAD_LETTERS.name)
        if self._dead_letters_at_start is None:
            self._dead_letters_at_start = self._dead_letters
        self._lag = []
        for part, (_, topics) in GROUPS.items():
            records = lags.get(part)
            end = sum(totals.get(topic.name, 0) for topic in topics)
            seconds = None if records is None else self._behind[part].seconds(at_s, end, records)
            self._lag.append(PartLag(part=part, records=records, behind_s=None if seconds is None else round(seconds, 1)))

    def now(
        self,
        at_ms: int,
        at_s: float,
        *,
        version: int,
        newest_version_ms: int,
        going_on: Sequence[Episode],
        sources: Sequence[Source],
        failures: Sequence[str],
        decision: Decision | None,
    ) -> Now:
        """Return the moment, judged."""
        freshness = {kind: samples.freshness(at_s) for kind, samples in self._samples.items()}
        quality = self._quality_now()
        flow_s = min(RATE_S, at_s - self._flow_since_s) if self._flow_since_s is not None else 0.0
        events_per_s = round(self._flow.total("events") / flow_s, 1) if flow_s >= 1 else None
        health = judge(
            Standing(
                now_ms=at_ms,
                events_per_s=events_per_s,
                lag=self._lag,
                freshness=freshness,
                quality=quality,
                newest_version_ms=newest_version_ms,
                going_on=going_on,
                sources=sources,
                failures=failures,
                notes=_notes(decision),
            )
        )
        return Now(
            made_ms=at_ms,
            started_ms=self._started_ms,
            state=health.state,
            sentence=health.sentence,
            reasons=health.reasons,
            events_per_s=events_per_s,
            lists_per_s=round(self._flow.total("lists") / flow_s, 1) if flow_s >= 1 else None,
            answers_per_s=round(self._answered.total("answers") / RATE_S, 1),
            answers_p99_ms=self._answer_times.freshness(at_s).p99_ms,
            lag=self._lag,
            freshness=freshness,
            quality=quality,
            model_version=version,
            dead_letters=self._dead_letters,
            dead_letters_new=None if self._dead_letters is None else self._dead_letters - (self._dead_letters_at_start or 0),
            sources=list(sources),
        )

    def levels(self, now: Now, holdout_loss: float | None) -> dict[str, Value]:
        """Return what the curves show of a moment, beside the counts."""
        found: dict[str, Value] = {f"lag_{lag.part.replace('-', '_')}": lag.records for lag in now.lag}
        for kind, fresh in now.freshness.items():
            found |= {f"{kind}_p50_ms": fresh.p50_ms, f"{kind}_p99_ms": fresh.p99_ms}
        return found | {"model_version": now.model_version, "dead_letters": now.dead_letters, "holdout_loss": holdout_loss}

    def _quality_now(self) -> Quality:
        tested = self._quality.total("tested")
        if tested < FEWEST_TESTED:
            return Quality(live=None, popularity=None, tested=tested, window_s=QUALITY_S)
        live, popularity = (round(self._quality.total(name) / tested, 4) for name in ("live_hits", "popularity_hits"))
        return Quality(live=live, popularity=popularity, tested=tested, window_s=QUALITY_S)


def _notes(decision: Decision | None) -> list[str]:
    if decision is None:
        return []
    if decision.pinned:
        return [f"pinned: all shoppers are answered by version {decision.stable_version} ({decision.reason})"]
    if decision.action == "rollback":
        return [f"rolled back to version {decision.stable_version} ({decision.reason})"]
    return []
