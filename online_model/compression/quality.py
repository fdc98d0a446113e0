"""How good and how fast a served copy is, by the very function that serves: `scorer.score_with`."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from headrace.online_model.scorer import score_with
from headrace.online_model.training.examples import Example
from headrace.online_model.weights import ModelCopy

BEST = 20
TOGETHER = 64
LATENCY_BEST = 100


def ndcg(copy: ModelCopy, examples: Sequence[Example], progress: Callable[[int], object] = lambda done: None) -> float:
    """Return the mean NDCG@20 of the examples' targets among all items, the history's last item left out; not a number without any.

    Examples without a history, and those whose target is the last item again, are passed over. A target without a row counts as missed.
    """
    asked = [example for example in examples if example.history and example.history[-1].item_id != example.target.item_id]
    gained = 0.0
    for first in range(0, len(asked), TOGETHER):
        part = asked[first : first + TOGETHER]
        scores = score_with(copy, [example.history for example in part], best=BEST + 1, normalised=False)
        for example, scored in zip(part, scores, strict=True):
            last, target = copy.rows.get(example.history[-1].item_id, 0), copy.rows.get(example.target.item_id, 0)
            ranking = [row for row in scored.best_rows.tolist() if row != last][:BEST]
            if target in ranking:
                gained += 1.0 / math.log2(ranking.index(target) + 2)
        progress(len(part))
    return gained / len(asked) if asked else math.nan


def latencies_ms(copies: Mapping[str, ModelCopy], examples: Sequence[Example], questions: int = 300) -> dict[str, float]:
    """Return each copy's median time for one history and its 100 best items, in turns, question by question, in one thread."""
    histories = [example.history for example in examples if example.history][:questions]
    took: dict[str, list[float]] = {name: [] for name in copies}
    for copy in copies.values():
        score_with(copy, histories[:1], best=LATENCY_BEST, normalised=False)
    for history in histories:
        for name, copy in copies.items():
            started_s = time.perf_counter()
            score_with(copy, [history], best=LATENCY_BEST, normalised=False)
            took[name].append(1000.0 * (time.perf_counter() - started_s))
    return {name: statistics.median(times) if times else math.nan for name, times in took.items()}
