"""`headrace bench dashboard`: a short demo, its page in a real browser, and what the page costs the gateway."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.deploy.bench.chromium import find_chromium
from headrace.deploy.bench.dashboard_cost import DashboardCost
from headrace.deploy.bench.dashboard_page import Figures, measure_page, take_pictures
from headrace.deploy.demo import Demo, DemoOptions, Watcher
from headrace.deploy.monitor import Picture
from headrace.deploy.settings import Settings
from headrace.schemas import HistoryEntry

COST_AFTER_S, COST_FOR_S = 8.0, 20.0
PICTURES_BEFORE_END_S = 20.0
FIRST_PAINT_GOAL_MS = 1000.0
GROWTH_GOAL_MB = 1.0
COST_GOAL = 0.03

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """A demo of `seconds` at `rate` events/s, `updates` frames for the page; `pictures` is a folder for pictures, or None."""

    seconds: float = 45.0
    rate: float = 300.0
    updates: int = 28_800
    pictures: Path | None = None


class _Visitor:
    """Watches the demo: measures the cost in the middle of the replay, and takes pictures near its end."""

    def __init__(self, options: Options, say: Say) -> None:
        self.demo: Demo | None = None
        self.cost: float | None = None
        self._options = options
        self._say = say
        self._measured: DashboardCost | None = None
        self._measured_since_s = 0.0
        self._pictures = options.pictures

    def show(self, picture: Picture, history: Sequence[HistoryEntry]) -> None:
        assert self.demo is not None
        if self.cost is None and self._measured is None and picture.seconds >= COST_AFTER_S:
            self._say("measuring what the dashboard costs")
            self._measured = DashboardCost(self.demo.running.kafka, self.demo.running.redis)
            self._measured_since_s = picture.seconds
        elif self._measured is not None and picture.seconds >= self._measured_since_s + COST_FOR_S:
            self.finish()
        if self._pictures is not None and picture.seconds >= self._options.seconds - PICTURES_BEFORE_END_S:
            for path in take_pictures(self.demo.url, self._pictures):
                self._say(f"{path}, {path.stat().st_size / 1000:.0f} KB")
            self._pictures = None

    def finish(self) -> None:
        """End the measurement of the cost."""
        if self._measured is not None:
            self.cost = self._measured.share()
            self._measured.close()
            self._measured = None


def measure_dashboard(settings: Settings, options: Options, say: Say) -> dict[str, Any]:
    """Return the figures. Raises ChromiumMissing, and what a demo raises."""
    find_chromium()
    visitor = _Visitor(options, say)
    demo_options = DemoOptions(rate=options.rate, seconds=options.seconds)
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home, prefix="dashboard-", ignore_cleanup_errors=True) as home:
        own = replace(settings, home=Path(home), archive=Path(home) / "archive")
        with Demo(demo_options, own, Watcher(say, visitor.show)) as demo:
            visitor.demo = demo
            report = demo.run()
            visitor.finish()
            say(f"visiting the page, and pushing {options.updates} updates through it")
            found = measure_page(demo.url, options.updates)
    return as_json(found, visitor.cost, report.events_per_s)


def as_json(found: Figures, cost: float | None, events_per_s: float) -> dict[str, Any]:
    """Return the figures under their names."""
    return {
        "first_paint_ms": round(found.first_paint_ms, 1),
        "first_figures_ms": round(found.first_figures_ms, 1),
        "heap_start_mb": found.heap_start.used_mb,
        "heap_end_mb": found.heap_end.used_mb,
        "nodes_start": found.heap_start.nodes,
        "nodes_end": found.heap_end.nodes,
        "listeners_start": found.heap_start.listeners,
        "listeners_end": found.heap_end.listeners,
        "updates": found.updates,
        "draws": found.draws,
        "cpu_share": None if cost is None else round(cost, 4),
        "events_per_s": events_per_s,
        "chromium": found.chromium,
    }


def verdicts(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return name, value, goal, and whether it is met."""
    growth = found["heap_end_mb"] - found["heap_start_mb"]
    cost = found["cpu_share"]
    return [
        (
            "first paint, ms",
            f"{found['first_paint_ms']:.0f}",
            f"< {FIRST_PAINT_GOAL_MS:.0f}",
            found["first_paint_ms"] < FIRST_PAINT_GOAL_MS,
        ),
        (f"heap growth over {found['updates']} updates, MB", f"{growth:+.2f}", f"< {GROWTH_GOAL_MB:g}", growth < GROWTH_GOAL_MB),
        ("share of a core", "not measured" if cost is None else f"{cost:.3f}", f"< {COST_GOAL:g}", cost is not None and cost < COST_GOAL),
    ]
