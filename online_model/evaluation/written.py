"""A comparison as JSON."""

from headrace.online_model.evaluation.bootstrap import PairedDifference
from headrace.online_model.evaluation.comparison import Comparison, Measured, ModelReport

Json = dict[str, object]


def as_json(comparison: Comparison, *, data: str, seed: int, open_sessions: int) -> Json:
    """Return the comparison as objects that JSON knows, with null where there is nothing to tell; `data` names the stream."""
    return {
        "data": data,
        "events": comparison.events,
        "scored": len(comparison.questions),
        "first_scored_event": comparison.first_event,
        "items": comparison.questions.items,
        "seed": seed,
        "open_sessions": open_sessions,
        "baseline": comparison.baseline,
        "models": {name: _model(report, comparison.baseline) for name, report in comparison.models.items()},
    }


def _model(report: ModelReport, baseline: str) -> Json:
    return {
        **report.whole.quality,
        "ms_per_query": report.ms_per_query,
        "ms_per_query_p99": report.ms_per_query_p99,
        "learn_events_per_s": report.learn_events_per_s,
        "coverage": report.coverage,
        "popularity_bias": report.popularity_bias,
        "segments": {name: _measured(measured) for name, measured in report.segments.items()},
        "versus_baseline": None if report.versus_baseline is None else _versus(report.versus_baseline, baseline),
        "curve": [{"twentieth": part, **_measured(measured)} for part, measured in report.curve.items()],
    }


def _measured(measured: Measured) -> Json:
    return {"scored": measured.scored, **measured.quality}


def _versus(found: PairedDifference, baseline: str) -> Json:
    return {
        "baseline": baseline,
        "ndcg@20_difference": found.difference,
        "ndcg@20_difference_95": found.difference_interval,
        "ndcg@20_ratio": found.ratio,
        "ndcg@20_ratio_95": found.ratio_interval,
        "shoppers": found.shoppers,
    }
