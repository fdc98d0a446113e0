"""A picture of quality over the stream. Needs the extra `evaluate`."""

from pathlib import Path

import numpy as np

from headrace.online_model.evaluation.comparison import Comparison
from headrace.online_model.evaluation.measures import moving_mean

_WINDOWS = 25
_MOST_POINTS = 600


def draw(comparison: Comparison, data: str, file: Path) -> None:
    """Write a PNG with a line for each model: its NDCG@20, as the mean over a moving window of questions, along the events.

    The window holds a 25th of all questions, 50 at least. Raises OSError where the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    questions = comparison.questions
    window = max(50, len(questions) // _WINDOWS)
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    by_quality = sorted(comparison.models.items(), key=lambda pair: -(pair[1].whole.quality["ndcg@20"] or 0.0))
    # The order of the legend is that of the lines, best first; beyond ten colours, dashes tell lines apart.
    for number, (name, report) in enumerate(by_quality):
        if len(questions):
            height = moving_mean(report.ndcg, window)
            place = questions.events[len(questions) - len(height) :]
            shown = np.unique(np.linspace(0, len(height) - 1, _MOST_POINTS).astype(int))
            style = "-" if number < 10 else "--"
            axes.plot(place[shown], height[shown], style, linewidth=1.8, label=f"{name} ({report.whole.quality['ndcg@20']:.3f})")
    axes.set_xlabel("events of the stream")
    axes.set_ylabel(f"NDCG@20, mean of the last {min(window, len(questions))} questions")
    axes.set_title(f"{data}: each step predicted, then learned")
    axes.set_ylim(bottom=0.0)
    axes.xaxis.set_major_formatter(lambda events, _: f"{events:,.0f}")
    axes.grid(alpha=0.3)
    if len(questions):
        axes.legend(title="model (whole)", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(file, dpi=150, format="png")
