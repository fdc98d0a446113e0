"""`headrace bench dashboard` on the command line."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from headrace.deploy.settings import Settings

PICTURES_TAKE_S = 150.0


def dashboard(
    seconds: Annotated[float, typer.Option(min=32, help="Seconds of the demo; with --pictures at least 150.")] = 45.0,
    rate: Annotated[float, typer.Option(min=1, help="Events a second.")] = 300.0,
    updates: Annotated[int, typer.Option(min=1, help="Frames of a second each; the default are 8 hours.")] = 28_800,
    pictures: Annotated[Path | None, typer.Option(metavar="DIR", help="Write dashboard-light.png, -dark and -phone there.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Has no effect: progress is told in plain lines always.")] = False,
) -> None:
    """Measure the dashboard: how soon its page paints, whether its memory grows in 8 hours, and what it costs the gateway.

    Runs `headrace demo` with its own Kafka and Redis in a folder of its own, and visits the page with a headless Chromium: five times
    with an empty cache (first_paint_ms, first_figures_ms: medians), then once more to push 28,800 frames through the page's own update
    function, every fourth of which is drawn. heap_start_mb is taken after the first 1,800 of them, when the page's arrays are full, and
    heap_end_mb at the end, both after a collection of garbage. cpu_share is the share of a core that the dashboard's own threads take,
    those of its Kafka clients included, over 20 s of the replay.

    Needs a Chromium (Debian's package chromium, or HEADRACE_CHROMIUM) and the extra 'dev'. Takes about three minutes.
    """
    from headrace.deploy.bench.chromium import ChromiumMissing
    from headrace.deploy.bench.dashboard_benchmark import Options, measure_dashboard, verdicts

    logging.getLogger("headrace").setLevel(logging.ERROR)
    options = Options(max(seconds, PICTURES_TAKE_S) if pictures else seconds, rate, updates, pictures)
    try:
        found = measure_dashboard(Settings.load(), options, lambda text: typer.echo(text, err=True))
    except ChromiumMissing as error:
        raise typer.BadParameter(str(error)) from None
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    for name, value, goal, met in verdicts(found):
        typer.echo(f"{name:38} {value:>12}   goal: {goal:16} {'met' if met else 'NOT MET'}")
