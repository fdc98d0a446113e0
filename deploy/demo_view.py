"""How a demo looks in a terminal, and in plain lines."""

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from headrace.deploy.monitor import Picture
from headrace.schemas import HistoryEntry

WHY = {
    "covisitation": "often goes with what was just seen",
    "neighbours": "liked in similar visits",
    "own_history": "seen before by this shopper",
    "transformer": "expected by the Transformer",
    "popularity": "popular now",
}
VERBS = {"view": "looked at", "cart": "put into the cart", "purchase": "bought"}
SHOWN_ITEMS = 5


def draw(picture: Picture, history: Sequence[HistoryEntry], title: str) -> RenderableType:
    """Return the live view of a moment."""
    flow = _table(
        ("published", f"{picture.published:,}" + (f" of {picture.total:,}" if picture.total else "")),
        ("events/s", f"{picture.rate:,.0f}"),
        *((f"lag {part}", f"{lag:,}") for part, lag in picture.lag.items()),
        ("dead letters", f"{picture.dead_letters:,}"),
    )
    fresh = _table(*((f"{kind}", _freshness(values)) for kind, values in picture.freshness_ms.items()))
    model = _table(
        ("hits@20 live", _share(picture.hits.live)),
        ("hits@20 popularity", _share(picture.hits.popularity)),
        ("version", str(picture.model_version)),
        ("swaps", str(picture.swaps)),
        ("loss", "-" if picture.loss is None else f"{picture.loss:.2f}"),
        ("drift", drift_state(picture)),
    )
    panels = [Panel(flow, title="flow"), Panel(fresh, title="freshness, p50 / p99 ms"), Panel(model, title="model")]
    return Group(Text(title, style="bold"), Columns(panels), Panel(Text("\n".join(in_words(picture, history))), title="newest list"))


def line(picture: Picture) -> str:
    """Return a moment as one plain line."""
    lag = "/".join(str(lag) for lag in picture.lag.values())
    fresh = ", ".join(f"{kind} {_freshness(values)}" for kind, values in picture.freshness_ms.items())
    return (
        f"{picture.seconds:5.1f} s  {picture.published} events ({picture.rate:.0f}/s)  lag {lag}  fresh ms: {fresh}  "
        f"hits@20 {_share(picture.hits.live)} (popularity {_share(picture.hits.popularity)})  version {picture.model_version}  "
        f"swaps {picture.swaps}  drift {drift_state(picture)}"
    )


def drift_state(picture: Picture) -> str:
    """Return the state of the drift detector in a word or two."""
    return f"{picture.drift_alerts} alerts" if picture.drift_alerts else "quiet"


def in_words(picture: Picture, history: Sequence[HistoryEntry]) -> list[str]:
    """Return the newest list as sentences: what the shopper did, and what comes first for them and why."""
    if picture.newest is None:
        return ["nothing yet"]
    told = [
        f"{picture.newest.shopper_id} {', '.join(f'{VERBS[step.kind]} {step.item_id}' for step in history[-3:]) or 'is here'}; now first:"
    ]
    for place, item in enumerate(picture.newest.items[:SHOWN_ITEMS], start=1):
        told.append(f"  {place}. {item.item_id} ({100 * item.score:.1f}%), {WHY[item.part]}")
    return told


def _table(*rows: tuple[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _freshness(values: dict[str, float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:,.0f}" for value in values.values())


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
