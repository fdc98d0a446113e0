"""The drawings of the drift report, as SVG inside the page: its colours are the page's own variables."""

from collections.abc import Sequence
from html import escape

from headrace.deploy.drift_span import DriftSpan
from headrace.deploy.drift_words import share, stamp

WIDTH, HEIGHT = 920, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 26, 38
MOST_SWAPS = 300


def timeline(span: DriftSpan) -> str:
    """Return quality over time, the lanes as two lines, with drift shaded, decisions as marks and swaps as ticks."""
    shares = [value for interval in span.intervals for lane in ("trial", "stable") if (value := interval.share(lane)) is not None]
    highest = max(0.1, (int(max(shares, default=0.0) * 10) + 1) / 10)
    axis = _Axis(span, highest)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Share of next steps that the lists held, over time">',
        *_grid(axis),
        *_episodes(span, axis),
        *_swaps(span, axis),
        *(_line(span, axis, lane) for lane in ("stable", "trial")),
        *_decisions(span, axis),
    ]
    if not shares:
        parts.append(f'<text class="none" x="{WIDTH / 2}" y="{HEIGHT / 2}">No recommender has reported outcomes in this span.</text>')
    return "".join([*parts, "</svg>"])


def histogram(then: Sequence[float], now: Sequence[float], edges: Sequence[float], name: str) -> str:
    """Return two histograms over the same bins, then as outline and now as bars; empty where there are none."""
    bins = min(len(then), len(now))
    if not bins:
        return ""
    highest = max(*then[:bins], *now[:bins], 1e-9)
    width, height = 260, 72
    step = width / bins
    bars = "".join(
        f'<rect class="now" x="{place * step + 0.5:.1f}" y="{height - now[place] / highest * height:.1f}" '
        f'width="{max(0.5, step - 1):.1f}" height="{now[place] / highest * height:.1f}"/>'
        for place in range(bins)
    )
    outline = "".join(
        f"{'M' if not place else 'L'}{place * step:.1f} {height - then[place] / highest * height:.1f}"
        f"L{(place + 1) * step:.1f} {height - then[place] / highest * height:.1f}"
        for place in range(bins)
    )
    ends = f"<span>{edges[0]:.4g}</span><span>{edges[-1]:.4g}</span>" if len(edges) > bins else ""
    return (
        f'<figure class="hist"><svg viewBox="0 -2 {width} {height + 3}" role="img" aria-label="{escape(name)}: values then and now">'
        f'{bars}<path class="then" d="{outline}"/><line class="base" x1="0" x2="{width}" y1="{height}" y2="{height}"/></svg>'
        f"<figcaption>{ends}</figcaption></figure>"
    )


class _Axis:
    def __init__(self, span: DriftSpan, highest: float) -> None:
        self.from_ms, self.to_ms, self.highest = span.from_ms, span.to_ms, highest

    def x(self, time_ms: float) -> float:
        part = (time_ms - self.from_ms) / (self.to_ms - self.from_ms)
        return LEFT + min(1.0, max(0.0, part)) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.highest * (HEIGHT - TOP - BOTTOM)


def _grid(axis: _Axis) -> list[str]:
    parts = []
    for step in range(5):
        value = axis.highest * step / 4
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{axis.y(value):.1f}" y2="{axis.y(value):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{axis.y(value) + 4:.1f}" text-anchor="end">{share(value, 0)}</text>')
    for step in range(5):
        time_ms = axis.from_ms + (axis.to_ms - axis.from_ms) * step / 4
        anchor = ("start", "middle", "middle", "middle", "end")[step]
        told = stamp(int(time_ms), with_date=axis.to_ms - axis.from_ms > 20 * 3_600_000)
        parts.append(f'<text class="tick" x="{axis.x(time_ms):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{told}</text>')
    return parts


def _episodes(span: DriftSpan, axis: _Axis) -> list[str]:
    parts = []
    for number, episode in enumerate(span.episodes, 1):
        begun, ended = axis.x(episode.first.created_ms), axis.x(episode.ended_ms or span.to_ms)
        title = f"<title>{number}: {escape(episode.first.signal)}</title>"
        width, height = max(1.5, ended - begun), HEIGHT - TOP - BOTTOM
        parts.append(
            f'<g class="drift">{title}<rect x="{begun:.1f}" y="{TOP}" width="{width:.1f}" height="{height}"/>'
            f'<line x1="{begun:.1f}" x2="{begun:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<circle cx="{begun:.1f}" cy="{TOP - 11}" r="9"/><text x="{begun:.1f}" y="{TOP - 7}">{number}</text></g>'
        )
    return parts


def _swaps(span: DriftSpan, axis: _Axis) -> list[str]:
    every = max(1, len(span.updates) // MOST_SWAPS)
    low = HEIGHT - BOTTOM
    return [
        f'<line class="swap" x1="{axis.x(update.created_ms):.1f}" x2="{axis.x(update.created_ms):.1f}" y1="{low + 3}" y2="{low + 10}"/>'
        for update in span.updates[::every]
    ]


def _decisions(span: DriftSpan, axis: _Axis) -> list[str]:
    low = HEIGHT - BOTTOM
    return [
        f'<path class="decision {release.action}" d="M{axis.x(release.decided_ms):.1f} {low - 9}l6 9h-12z">'
        f"<title>{release.action}: version {release.stable_version}</title></path>"
        for release in span.releases
    ]


def _line(span: DriftSpan, axis: _Axis, lane: str) -> str:
    points: list[tuple[float, float]] = []
    path: list[str] = []
    for interval in span.intervals:
        value = interval.share(lane)
        if value is None:
            points.clear()
            continue
        x, y = axis.x((interval.from_ms + interval.to_ms) / 2), axis.y(value)
        path.append(f"{'L' if points else 'M'}{x:.1f} {y:.1f}")
        points.append((x, y))
    return f'<path class="line {lane}" d="{"".join(path)}"/>' if path else ""
