"""The dashboard's page in a real browser: how soon it paints, whether its memory grows, and what it looks like."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.deploy.bench.chromium import chromium

PAINTS = 5
# The page's own arrays are full after half an hour; what grows after that would go on growing.
FILL = 1800
DESKTOP = {"width": 1280, "height": 1130}
PHONE = {"width": 360, "height": 880}
SIMULATE = Path(__file__).with_name("dashboard_simulation.js").read_text(encoding="utf-8")


@dataclass
class Heap:
    """The page's memory after a collection of garbage."""

    used_mb: float
    nodes: int
    listeners: int


@dataclass
class Figures:
    """What was measured of the page; times are medians of five visits with an empty cache."""

    first_paint_ms: float
    first_figures_ms: float
    heap_start: Heap
    heap_end: Heap
    updates: int
    draws: int
    chromium: str


def measure_page(url: str, updates: int) -> Figures:
    """Visit the page, then push `updates` frames of one second each through its own update function."""
    with chromium("--js-flags=--expose-gc") as browser:
        paints, figures = zip(*(_visit(browser, url) for _ in range(PAINTS)), strict=True)
        page = browser.new_page()
        page.goto(url)
        _wait_until_live(page)
        page.evaluate(SIMULATE, [0, FILL])
        start = _heap(page)
        draws = page.evaluate(SIMULATE, [FILL, updates])
        return Figures(statistics.median(paints), statistics.median(figures), start, _heap(page), updates, draws, browser.version)


def take_pictures(url: str, folder: Path) -> list[Path]:
    """Write pictures of the page as it is now: light, dark, and on a phone."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with chromium() as browser:
        for name, size, scheme, scale in (("light", DESKTOP, "light", 1), ("dark", DESKTOP, "dark", 1), ("phone", PHONE, "light", 2)):
            context = browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=scale)
            page = context.new_page()
            page.goto(url)
            _wait_until_live(page)
            time.sleep(2.5)
            path = folder / f"dashboard-{name}.png"
            page.screenshot(path=path)
            context.close()
            taken.append(path)
    for path in taken:
        # A page of few colours: a palette holds them, in half the bytes.
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return taken


def _visit(browser: Any, url: str) -> tuple[float, float]:
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.goto(url)
    _wait_until_live(page)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    figures = page.evaluate("performance.getEntriesByName('figures')[0].startTime")
    context.close()
    return float(paint), float(figures)


def _wait_until_live(page: Any) -> None:
    # Not by a function to wait for: that is evaluated from a string, which the page's policy forbids.
    page.locator("#link[data-link=live]").wait_for(timeout=30_000)


def _heap(page: Any) -> Heap:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.enable")
    session.send("HeapProfiler.collectGarbage")
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return Heap(round(found["JSHeapUsedSize"] / 1e6, 3), int(found["Nodes"]), int(found["JSEventListeners"]))
