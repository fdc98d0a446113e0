"""Models compared on one stream, what is written of it, and its picture."""

import json
import random
from pathlib import Path

import pytest
from small_streams import stream_of, ticking

from headrace.online_model.evaluation.baselines import Covisitation, Popularity
from headrace.online_model.evaluation.comparison import Comparison, compare_models
from headrace.online_model.evaluation.picture import draw
from headrace.online_model.evaluation.segments import SEGMENTS
from headrace.online_model.evaluation.written import as_json

QUALITY = {f"{name}@{cutoff}" for name in ("hr", "ndcg", "mrr") for cutoff in (5, 10, 20)}


def to_and_fro(events: int) -> list[tuple[str, str]]:
    """Shoppers who go through pairs of items: after the first of a pair its second."""
    chance = random.Random(1)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < events:
        pair = chance.randrange(40)
        pairs += [(f"shopper-{chance.randrange(50)}-{len(pairs)}", item) for item in (f"a{pair}", f"b{pair}")]
        pairs[-1] = (pairs[-2][0], pairs[-1][1])
    return pairs[:events]


@pytest.fixture(scope="module")
def compared() -> Comparison:
    models = {"popularity": Popularity, "covisitation": Covisitation}
    return compare_models(stream_of(to_and_fro(1_000)), models, baseline="popularity", from_share=0.5, seed=1, clock=ticking(1_000))


def test_models_answer_the_same_questions(compared: Comparison) -> None:
    assert compared.first_event == 500
    assert len(compared.questions) == 250
    assert {report.whole.scored for report in compared.models.values()} == {250}
    assert compared.models["covisitation"].whole.quality["hr@5"] == 1.0


def test_each_model_is_compared_with_the_baseline_and_the_baseline_with_none(compared: Comparison) -> None:
    versus = compared.models["covisitation"].versus_baseline
    assert compared.models["popularity"].versus_baseline is None
    assert versus is not None
    assert versus.difference_interval is not None
    ndcg = [compared.models[name].whole.quality["ndcg@20"] or 0.0 for name in ("covisitation", "popularity")]
    assert versus.difference == pytest.approx(ndcg[0] - ndcg[1])
    assert 0.0 < versus.difference_interval[0] < versus.difference < versus.difference_interval[1]


def test_the_curve_adds_up_to_the_whole(compared: Comparison) -> None:
    report = compared.models["popularity"]
    assert list(report.curve) == list(range(11, 21))
    assert sum(part.scored for part in report.curve.values()) == report.whole.scored
    summed = sum(part.scored * (part.quality["ndcg@20"] or 0.0) for part in report.curve.values())
    assert summed / report.whole.scored == pytest.approx(report.whole.quality["ndcg@20"])


def test_costs_are_told_in_milliseconds_and_events_a_second(compared: Comparison) -> None:
    report = compared.models["popularity"]
    assert (report.ms_per_query, report.ms_per_query_p99) == (pytest.approx(0.001), pytest.approx(0.001))
    assert report.learn_events_per_s == pytest.approx(1e6)


def test_all_models_over_a_stream_know_nothing_of_each_other(compared: Comparison) -> None:
    alone = compare_models(
        stream_of(to_and_fro(1_000)), {"covisitation": Covisitation}, baseline="covisitation", from_share=0.5, seed=1, clock=ticking(1_000)
    )
    assert alone.models["covisitation"].whole == compared.models["covisitation"].whole


def test_the_json_holds_every_figure(compared: Comparison) -> None:
    told = json.loads(json.dumps(as_json(compared, data="made-up", seed=1, open_sessions=64), allow_nan=False))
    assert told.keys() == {
        "data", "events", "scored", "first_scored_event", "items", "seed", "open_sessions", "baseline", "models",
    }  # fmt: skip
    assert (told["data"], told["events"], told["scored"], told["items"], told["baseline"]) == ("made-up", 1_000, 250, 80, "popularity")
    model = told["models"]["covisitation"]
    costs = {"ms_per_query", "ms_per_query_p99", "learn_events_per_s"}
    assert model.keys() == QUALITY | costs | {"coverage", "popularity_bias", "segments", "versus_baseline", "curve"}
    assert model["segments"].keys() == SEGMENTS.keys()
    assert all(segment.keys() == QUALITY | {"scored"} for segment in model["segments"].values())
    assert model["segments"]["purchases"]["hr@20"] is None
    assert [part["twentieth"] for part in model["curve"]] == list(range(11, 21))
    assert model["versus_baseline"].keys() == {
        "baseline", "ndcg@20_difference", "ndcg@20_difference_95", "ndcg@20_ratio", "ndcg@20_ratio_95", "shoppers",
    }  # fmt: skip
    assert told["models"]["popularity"]["versus_baseline"] is None


def test_a_stream_without_questions_is_told_without_figures(tmp_path: Path) -> None:
    stream = stream_of([("ann", "lamp"), ("bob", "vase")])
    compared = compare_models(stream, {"a": Popularity, "b": Covisitation}, baseline="a", from_share=0.0, seed=1, clock=ticking(1))
    told = as_json(compared, data="nothing", seed=1, open_sessions=64)
    assert told["scored"] == 0
    assert json.loads(json.dumps(told, allow_nan=False))["models"]["b"]["hr@20"] is None
    draw(compared, "nothing", tmp_path / "nothing.png")


def test_the_picture_is_a_png(compared: Comparison, tmp_path: Path) -> None:
    draw(compared, "made-up", tmp_path / "quality.png")
    assert (tmp_path / "quality.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
