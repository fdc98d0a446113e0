"""Models compared on one stream: everything that `headrace evaluate` reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.evaluation import measures
from headrace.online_model.evaluation.bootstrap import PairedDifference, compare
from headrace.online_model.evaluation.measures import Quality
from headrace.online_model.evaluation.prequential import DEPTH, Answers, Clock, answers_of
from headrace.online_model.evaluation.segments import Questions, questions_of
from headrace.online_model.evaluation.stream_model import StreamModel, StreamStep

CURVE_PARTS = 20

Factory = Callable[[], StreamModel]
Progress = Callable[[str, int, int], None]


class Measured(NamedTuple):
    """Quality over some of the questions, `scored` of them."""

    scored: int
    quality: Quality


@dataclass(frozen=True)
class ModelReport:
    """What one model showed. `curve` holds, for each twentieth of the stream (numbered from 1) with questions, the quality in it.
    `ndcg` (questions,) is the NDCG@20 of each answer.

    `learn_events_per_s` counts the events of the stream by the time spent inside `learn` alone; None where no time passed.
    """

    whole: Measured
    ms_per_query: float
    ms_per_query_p99: float
    learn_events_per_s: float | None
    coverage: float
    popularity_bias: float | None
    segments: dict[str, Measured]
    curve: dict[int, Measured]
    ndcg: NDArray[np.float64]
    versus_baseline: PairedDifference | None = None


@dataclass(frozen=True)
class Comparison:
    """Models on one stream of `events` events, asked from event `first_event` on."""

    events: int
    first_event: int
    baseline: str
    questions: Questions
    models: dict[str, ModelReport]


def compare_models(
    stream: Sequence[StreamStep],
    models: Mapping[str, Factory],
    *,
    baseline: str,
    from_share: float,
    seed: int,
    clock: Clock,
    progress: Progress = lambda name, done, total: None,
) -> Comparison:
    """Run each model over the stream, one after the other, and compare each with the one named `baseline`.

    Questions are asked from the share `from_share` of the events on. `seed` is that of the bootstrap; `clock` gives nanoseconds;
    `progress` is told the model's name and its steps done, of how many.
    """
    events = stream[-1].event + 1 if stream else 0
    first_event = int(from_share * events)
    questions = questions_of(stream, first_event)
    catalogue = {step.entry.item_id for step in stream}
    reports: dict[str, ModelReport] = {}
    for name, factory in models.items():
        answers = answers_of(factory(), stream, questions, clock, partial(progress, name))
        reports[name] = _report(answers, questions, events, catalogue)
    against = reports[baseline].ndcg
    for name, report in reports.items():
        if name != baseline:
            reports[name] = replace(report, versus_baseline=compare(report.ndcg, against, questions.shoppers, seed))
    return Comparison(events, first_event, baseline, questions, reports)


def _report(answers: Answers, questions: Questions, events: int, catalogue: set[str]) -> ModelReport:
    ranks = answers.ranks
    query_ms = answers.query_ns / 1e6
    parts = questions.events * CURVE_PARTS // max(1, events) + 1
    return ModelReport(
        whole=_measured(ranks),
        ms_per_query=float(query_ms.mean()) if len(query_ms) else 0.0,
        ms_per_query_p99=float(np.percentile(query_ms, 99)) if len(query_ms) else 0.0,
        learn_events_per_s=events / (answers.learn_ns / 1e9) if answers.learn_ns else None,
        coverage=measures.coverage(answers.recommended, catalogue),
        popularity_bias=measures.popularity_bias(answers.popularity, questions),
        segments={name: _measured(ranks[held]) for name, held in questions.segments.items()},
        curve={part: _measured(ranks[parts == part]) for part in sorted(set(parts.tolist()))},
        ndcg=measures.ndcg(ranks, DEPTH),
    )


def _measured(ranks: NDArray[np.int64]) -> Measured:
    return Measured(len(ranks), measures.quality(ranks))
