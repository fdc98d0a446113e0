"""How the whole stands, in one sentence and four words: healthy, learning behind, drift going on, stale."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.streams.dashboard.messages import Episode, Freshness, PartLag, Quality, Source, State

STALE_FACTOR = 4.0


@dataclass(frozen=True)
class Limits:
    """What is no longer well: seconds that a part may be behind, and ages of weights while events flow."""

    behind_s: float = 15.0
    weights_p50_s: float = 30.0
    no_weights_s: float = 60.0


@dataclass(frozen=True)
class Standing:
    """What health is judged by. `newest_version_ms` is when the newest weights were made, 0 before the first."""

    now_ms: int
    events_per_s: float | None
    lag: Sequence[PartLag]
    freshness: dict[str, Freshness]
    quality: Quality
    newest_version_ms: int
    going_on: Sequence[Episode]
    sources: Sequence[Source]
    failures: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Health:
    """The state, a sentence that says it, and every reason, the gravest first."""

    state: State
    sentence: str
    reasons: list[str]


def judge(standing: Standing, limits: Limits | None = None) -> Health:
    """Return how it stands; where several things are amiss, the gravest names the state."""
    limits = limits or Limits()
    stale = [*standing.failures, *_silent(standing)]
    drift = [_drift(episode) for episode in standing.going_on]
    behind = _behind(standing, limits)
    reasons = [*stale, *drift, *behind, *standing.notes]
    if stale:
        return Health("stale", f"Figures are old or missing: {stale[0]}.", reasons)
    if drift:
        told = drift[0] if len(drift) == 1 else f"{len(drift)} episodes, the newest: {drift[0]}"
        # Not capitalised: it begins with the name of a signal.
        return Health("drift going on", f"{told}.", reasons)
    if behind:
        return Health("learning behind", _sentence(behind[0]), reasons)
    return Health("healthy", _sentence(_well(standing)), reasons)


def _silent(standing: Standing) -> list[str]:
    told = []
    for source in standing.sources:
        if source.trouble:
            told.append(f"{source.name}: {source.trouble}")
        elif source.expected_every_s is not None and source.seen_ms is not None:
            age_s = (standing.now_ms - source.seen_ms) / 1000
            if age_s > STALE_FACTOR * source.expected_every_s:
                told.append(f"{source.name} has told nothing for {age_s:.0f} s")
    return told


def _drift(episode: Episode) -> str:
    # The number of signals says whether one thing moved or the whole shop.
    others = len(set(episode.signals) - {episode.signal})
    along = f" and {others} other signal{'s' if others > 1 else ''}" if others else ""
    return f"{episode.signal}{along} moved from {episode.level_before:.3g} to {episode.level_after:.3g}"


def _behind(standing: Standing, limits: Limits) -> list[str]:
    told = [
        f"{part.part} has not taken in {part.records:,} records, the oldest for {part.behind_s:.0f} s"
        for part in standing.lag
        if part.records and part.behind_s is not None and part.behind_s > limits.behind_s
    ]
    weights = standing.freshness["weights"]
    if weights.p50_ms is not None and weights.p50_ms > 1000 * limits.weights_p50_s:
        told.append(f"weights take {weights.p50_ms / 1000:.0f} s from event to effect")
    if standing.events_per_s and standing.newest_version_ms:
        age_s = (standing.now_ms - standing.newest_version_ms) / 1000
        if age_s > limits.no_weights_s:
            told.append(f"the newest weights are {age_s:.0f} s old though events arrive")
    return told


def _well(standing: Standing) -> str:
    if not standing.events_per_s:
        return "all is quiet, no events arrive"
    told = [f"{standing.events_per_s:,.0f} events a second arrive"]
    if (fresh := standing.freshness["weights"].p50_ms) is not None:
        told[0] += f" and are in the served weights after {fresh / 1000:.1f} s"
    quality = standing.quality
    if quality.live is not None and quality.popularity is not None:
        told.append(f"{quality.live:.0%} of next steps are foreseen, {quality.popularity:.0%} by popularity alone")
    return "; ".join(told)


def _sentence(told: str) -> str:
    return f"{told[:1].upper()}{told[1:]}."
