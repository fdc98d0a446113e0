"""The drift report as one HTML page that needs nothing else: for the screen in light and dark, and for paper."""

from collections.abc import Sequence
from html import escape

from headrace.deploy.drift_figures import histogram, timeline
from headrace.deploy.drift_span import DriftEpisode, DriftSpan
from headrace.deploy.drift_style import STYLE
from headrace.deploy.drift_words import counted, duration, level, segment, share, stamp
from headrace.schemas import DriftState
from headrace.schemas.drift_alerts import DriftCause, DriftReaction

CAUSES = 6
DECISIONS = 30
STATES = ("drifting", "warming_up", "stable")


def page(span: DriftSpan, made_ms: int) -> str:
    """Return the page. Whatever a shop or a model has named is escaped."""
    title = f"Drift report, {stamp(span.from_ms)} to {stamp(span.to_ms)} UTC"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body><main>",
            '<header><p class="mark">Headrace</p><h1>Drift report</h1>',
            f'<p class="span">{stamp(span.from_ms)} to {stamp(span.to_ms)} UTC, {duration(span.to_ms - span.from_ms)}</p></header>',
            f'<p class="summary">{escape(summary(span))}</p>',
            _figures(span),
            _quality(span),
            _episodes(span),
            _signals(span),
            _decisions(span),
            f"<footer>Made {stamp(made_ms)} UTC by <code>headrace drift report</code> from what the topics hold.</footer>",
            "</main></body></html>",
        ]
    )


def summary(span: DriftSpan) -> str:
    """Return the span in one or two sentences."""
    begun = len(span.episodes)
    open_ = [episode for episode in span.episodes if episode.ended_ms is None]
    if not begun:
        first = "No drift was told in this span"
    elif not open_:
        first = f"{counted(begun, 'episode')} of drift, {'which has' if begun == 1 else 'all of which have'} ended"
    elif len(open_) == begun:
        first = f"{counted(begun, 'episode')} of drift, {'still going on' if begun == 1 else 'all still going on'}"
    else:
        first = f"{counted(begun, 'episode')} of drift, {len(open_)} of which still {'goes' if len(open_) == 1 else 'go'} on"
    worst = next((one for one in span.episodes if one.first.severity == "critical"), span.episodes[0] if begun else None)
    told = [first + (f"; the gravest: {worst.first.signal}" if worst is not None and begun > 1 else "") + "."]
    if worst is not None and begun == 1:
        told[0] = told[0].removesuffix(".") + f": {worst.first.signal} went from {level(worst.first.level_before)} to {_to(worst)}."
    quality = f"Lists held {share(span.hit_rate)} of {span.answered:,} next steps" if span.answered else "Nobody reported how lists did"
    rollbacks = sum(release.action == "rollback" for release in span.releases)
    versions = f"{counted(len({update.version for update in span.updates}), 'version')} went live"
    told.append(f"{quality}; {versions}, with {counted(rollbacks, 'rollback') if rollbacks else 'no rollback'}.")
    return " ".join(told)


def _figures(span: DriftSpan) -> str:
    helped = [reaction for episode in span.episodes for reaction in episode.newest.reactions]
    kept = sum(reaction.state == "kept" for reaction in helped)
    tiles = [
        (counted(len(span.episodes), "episode"), "of drift"),
        (share(span.hit_rate), "of next steps foreseen"),
        (f"{span.counts.get('clicks', 0) + span.counts.get('purchases', 0):,}", "events published"),
        (f"{span.counts.get('user-features', 0):,}", "feature rows written"),
        (f"{len({update.version for update in span.updates}):,}", "versions live"),
        (f"{kept} of {len(helped)}", "reactions kept"),
    ]
    return '<ul class="tiles">' + "".join(f"<li><b>{escape(value)}</b><span>{name}</span></li>" for value, name in tiles) + "</ul>"


def _quality(span: DriftSpan) -> str:
    keys = (
        ("line trial", "newest versions"),
        ("line stable", "stable version"),
        ("shade", "drift"),
        ("swap", "a version went live"),
        ("decision", "a decision on releases"),
    )
    legend = "".join(f'<li><i class="key {kind}"></i>{name}</li>' for kind, name in keys)
    return (
        '<section><h2>Quality over time</h2><p class="note">The share of shoppers’ next steps whose item stood in the list that was made '
        f'before.</p><div class="chart">{timeline(span)}</div><ul class="legend">{legend}</ul></section>'
    )


def _episodes(span: DriftSpan) -> str:
    if not span.episodes:
        return '<section><h2>Episodes</h2><p class="note">None.</p></section>'
    states = {state.signal: state for state in span.states}
    cards = "".join(_episode(number, episode, states) for number, episode in enumerate(span.episodes, 1))
    return f"<section><h2>Episodes</h2>{cards}</section>"


def _episode(number: int, episode: DriftEpisode, states: dict[str, DriftState]) -> str:
    first, newest = episode.first, episode.newest
    state = "resolved" if episode.ended_ms is not None else "going on"
    lasted = f", resolved after {duration(episode.ended_ms - first.created_ms)}" if episode.ended_ms is not None else ""
    where = f" in {segment(first.segment)}" if first.segment else ""
    sure = f", p = {newest.p_value:.1e}" if newest.p_value is not None else ""
    seen = (
        f"Seen by {first.detector} at {stamp(first.created_ms, with_date=False)}{where}, over {first.window:,} of {first.observations:,} "
        f"values{sure}; version {first.model_version} was live{lasted}."
    )
    facts = [seen]
    if first.since_ms is not None:
        facts.append(f"Event time at which it began: {stamp(first.since_ms)}.")
    if newest.known_episode:
        facts.append(f"Known: the shop looked like this after {newest.known_episode}.")
    others = [name for name in newest.signals if name != first.signal]
    if others:
        facts.append(f"Moved with it: {', '.join(others[:8])}{' and others' if len(others) > 8 else ''}.")
    reactions = "".join(_reaction(reaction) for reaction in newest.reactions)
    done = _table("", ("Reaction", "State", "Before", "At", "After"), reactions) if reactions else ""
    shown = states.get(first.signal)
    picture = histogram(shown.histogram_then, shown.histogram_now, shown.edges, first.signal) if shown else ""
    return (
        f'<article class="episode {first.severity}" id="{escape(episode.episode_id)}"><header><b class="number">{number}</b>'
        f'<h3>{escape(first.signal)}</h3><em class="tag {first.severity}">{first.severity}</em><em class="tag">{state}</em>'
        f'<span class="moved">{level(first.level_before)} → {_to(episode)}</span></header><div class="two"><div>'
        f'<p>{escape(" ".join(facts))}</p>{_causes(newest.causes)}<p class="did">{escape(newest.reaction)}</p>{done}</div>'
        f"{picture}</div></article>"
    )


def _to(episode: DriftEpisode) -> str:
    # The resolved alert tells of the level that is usual again.
    return level(episode.first.level_after)


def _causes(causes: list[DriftCause]) -> str:
    if not causes:
        return ""
    rows = "".join(
        f"<li><span>{escape(cause.signal)}{escape(f' ({segment(cause.segment)})') if cause.segment else ''}</span>"
        f'<i class="meter"><i style="width:{100 * min(1.0, max(0.0, cause.share)):.0f}%"></i></i>'
        f"<small>{share(cause.share, 0)}, {level(cause.level_before)} → {level(cause.level_after)}</small></li>"
        for cause in causes[:CAUSES]
    )
    return f'<ol class="causes" aria-label="Causes, the strongest first">{rows}</ol>'


def _reaction(reaction: DriftReaction) -> str:
    figures = [share(value) for value in (reaction.quality_before, reaction.quality_at, reaction.quality_after)]
    return _row([escape(reaction.name), reaction.state, *figures])


def _signals(span: DriftSpan) -> str:
    if not span.states:
        return ""
    rows = "".join(
        _row(
            [
                escape(state.signal),
                escape(state.detector),
                state.state.replace("_", " "),
                level(state.baseline),
                level(state.level),
                histogram(state.histogram_then, state.histogram_now, state.edges, state.signal),
            ],
            state.state,
        )
        for state in sorted(span.states, key=lambda state: (STATES.index(state.state), state.signal))
    )
    table = _table("signals", ("Signal", "Detector", "State", "Usual", "Now", "Then and now"), rows)
    return f'<section><h2>Signals, as they stand now</h2><p class="note">Outline: as usual. Bars: the newest values.</p>{table}</section>'


def _decisions(span: DriftSpan) -> str:
    if not span.releases:
        return '<section><h2>Releases</h2><p class="note">No decision was made in this span.</p></section>'
    rows = "".join(
        _row(
            [
                stamp(release.decided_ms),
                release.action,
                str(release.stable_version),
                share(release.trial_share, 0),
                escape(release.decided_by),
                escape(release.reason),
            ]
        )
        for release in span.releases[-DECISIONS:]
    )
    left = f'<p class="note">The last {DECISIONS} of {len(span.releases)}.</p>' if len(span.releases) > DECISIONS else ""
    return f"<section><h2>Releases</h2>{left}{_table('', ('When', 'Decision', 'Stable', 'On trial', 'By', 'Why'), rows)}</section>"


def _table(kind: str, heads: Sequence[str], rows: str) -> str:
    told = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f'<table class="{kind}"><thead><tr>{told}</tr></thead><tbody>{rows}</tbody></table>'


def _row(cells: Sequence[str], kind: str = "") -> str:
    """Return a row; the cells are HTML already."""
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
