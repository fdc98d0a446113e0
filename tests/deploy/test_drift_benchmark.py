"""The drift benchmark: what is planted is what it says, signals are those of the learner, and figures are counted as told."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from headrace.deploy.bench.drift_benchmark import Options, verdicts
from headrace.deploy.bench.drift_comparison import compare_detectors, rows
from headrace.deploy.bench.drift_peers import Series, started_peers
from headrace.deploy.bench.drift_runs import Run, Told, plan_of, run_once
from headrace.deploy.bench.drift_score import Score, merged
from headrace.deploy.bench.drift_signals import batch_of, signals_of
from headrace.deploy.bench.drift_streams import KINDS, Columns, Plan, planted_stream
from headrace.deploy.bench.peer_environments import DRIFT_PEERS
from headrace.deploy.bench.progress import Progress
from headrace.deploy.settings import Settings
from headrace.online_model.watching.signals import EVENT_SIGNALS, EventSignals
from headrace.schemas import HistoryEntry

EVENTS = 4_000
HOME = Settings.load().home.absolute()


def stream(plan: Plan) -> Columns:
    return planted_stream(1, plan, shoppers=100, items=60)


def test_the_compiled_signals_are_those_that_the_learner_gathers() -> None:
    plan = Plan("none", EVENTS)
    columns = stream(plan)
    table = signals_of(columns, plan)
    gathered = EventSignals()
    histories: dict[int, list[HistoryEntry]] = {}
    seen: set[int] = set()
    for at, (time_ms, item, shopper, price) in enumerate(
        zip(columns.times_ms.tolist(), columns.item.tolist(), columns.shopper.tolist(), columns.price.tolist(), strict=True)
    ):
        history = histories.setdefault(shopper, [])
        entry = HistoryEntry(str(item), KINDS[int(columns.kind[at])], time_ms, price, columns.categories[int(columns.category[at])])  # type: ignore[arg-type]
        loss, hit = table[at, 0], table[at, 1]
        told = {} if np.isnan(loss) else {"loss": float(loss), "hit": bool(hit)}
        gathered.add(entry, history[-50:], shopper_id=str(shopper), is_new_item=item not in seen, **told)  # type: ignore[arg-type]
        history.append(entry)
        seen.add(item)
    batch = gathered.take()
    for place, name in enumerate(EVENT_SIGNALS):
        np.testing.assert_allclose(table[:, place], batch.values[name], rtol=1e-9, err_msg=name)
    ours = batch_of(columns, table, 0, len(table))
    assert ours.mixes["category"] == batch.mixes["category"]
    assert ours.mixes["kind"] == batch.mixes["kind"]


def test_drift_is_planted_where_it_is_said_and_nowhere_else() -> None:
    quiet = stream(Plan("none", EVENTS))
    abrupt = stream(Plan("abrupt", EVENTS, (2000,), share=1.0))
    before = quiet.event < 2000
    assert (quiet.item[before] == abrupt.item[before[: len(abrupt.item)].nonzero()[0]]).all()
    assert (quiet.item[-500:] != abrupt.item[-500:]).mean() > 0.5
    shifted = stream(Plan("feature_shift", EVENTS, (2000,)))
    moved = np.log1p(shifted.price) - np.log1p(quiet.price)
    assert moved[before] == pytest.approx(0.0)
    assert moved[~before].mean() == pytest.approx(0.5 * np.log1p(quiet.price).std(), rel=0.01)


def test_shoppers_who_come_back_do_what_they_did_before() -> None:
    share, places = 1.0, (1000, 2000)
    columns = stream(Plan("recurring", EVENTS, places, share=share))
    pairs = [set(zip(columns.last[part].tolist(), columns.item[part].tolist(), strict=True)) for part in _parts(columns, (0, *places))]
    assert len(pairs[2] & pairs[0]) > 1.5 * len(pairs[2] & pairs[1])


def _parts(columns: Columns, places: tuple[int, ...]) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    ends = (*places[1:], EVENTS)
    return [(columns.event >= begin) & (columns.event < end) for begin, end in zip(places, ends, strict=True)]


def test_a_run_tells_what_was_told_and_what_it_cost() -> None:
    run = run_once(1, Plan("none", 5_000))
    assert run.told == []
    assert run.watching_s > 0


def test_alerts_are_the_beginnings_of_episodes() -> None:
    told = [Told(event, state, "price", "price", "e", None) for event, state in ((5, "started"), (9, "ongoing"), (20, "started"))]
    run = Run(1, plan_of("abrupt", 1), told, 0.0, 1)
    assert [each.event for each in run.alerts()] == [5, 20]
    assert [each.event for each in run.alerts(6)] == [20]
    assert run.alerts(6, 20) == []
    with pytest.raises(ValueError, match="kind: abrupt, gradual"):
        plan_of("sideways", 1)


def test_a_second_finding_behind_a_drift_is_a_false_alarm() -> None:
    score = Score()
    score.add([50, 120, 180, 900], [100, 500], 1000, 200)
    told = merged([{"adwin": score}])["adwin"]
    assert told == {"false_alarms": 3, "false_alarms_per_million": 3000.0, "missed": 1, "planted": 2, "median_delay": 20}


def test_goals_are_held_against_what_was_measured() -> None:
    found = {"abrupt": {"runs": 30, "seen": 29, "median_delay_events": 1600.0}, "cpu_share": 0.01}
    assert [met for *_, met in verdicts(found)] == [True, False, True]
    assert Options(seeds=2, parts=("abrupt", "gradual")).steps == 4


def test_what_a_peer_finds_is_scored_by_the_event_of_the_value_and_by_the_rule_of_the_others() -> None:
    series = Series(np.array([0.5, 0.25, 1.0, 0.0]), np.array([3, 10, 12, 40]), [10], 5, reference=2, window=1)
    assert json.loads(series.asked()) == {"values": [0.5, 0.25, 1.0, 0.0], "reference": 2, "window": 1}
    told = merged([series.scores({"evidently": [2], "alibi_detect": [0, 3]})])
    assert told["evidently"] == {"false_alarms": 0, "false_alarms_per_million": 0.0, "missed": 0, "planted": 1, "median_delay": 2}
    assert (told["alibi_detect"]["false_alarms"], told["alibi_detect"]["missed"]) == (2, 1)


def test_without_the_peers_the_others_are_measured_and_why_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with ThreadPoolExecutor(1) as pool:
        found = compare_detectors(pool, (), tmp_path, Progress(0, lambda done, text: None))
    assert "Evidently with alibi-detect cannot be installed" in found["peers_left_out"]
    assert found["peer_versions"] is None
    assert "--no-peers" in list(rows(found))[-1]
    with started_peers(tmp_path, lambda text: None, install=False) as peers:
        assert peers is None


def test_peers_that_end_before_they_answer_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "bench" / DRIFT_PEERS.folder
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to("/bin/false")
    (folder / "made-of").write_text(hashlib.sha256(DRIFT_PEERS.lock.read_bytes()).hexdigest())
    with ThreadPoolExecutor(1) as pool:
        found = compare_detectors(pool, (), tmp_path, Progress(0, lambda done, text: None))
    assert found["peers_left_out"].startswith("Evidently with alibi-detect ended with 1")


@pytest.mark.skipif(not (HOME / "bench" / DRIFT_PEERS.folder / "made-of").exists(), reason="the peers' environment is not made here")
def test_both_peers_find_a_level_that_rises_and_begin_anew_after_it() -> None:
    random = np.random.default_rng(1)
    losses = random.normal(np.repeat([0.0, 1.0], [3_072, 5_120]))
    errors = (random.random(8_192) < np.repeat([0.1, 0.5], [3_072, 5_120])).astype(float)
    with started_peers(HOME, lambda text: None, install=False) as peers:
        if peers is None:
            pytest.skip("the peers' environment was made of another lock")
        assert set(peers.versions) == {"evidently", "alibi_detect"}
        for values in (losses, errors):
            for name, score in peers.judge(Series(values, np.arange(8_192), [3_072], 1_500, reference=1_024, window=1_024)).items():
                assert (score.false_alarms, score.delays) == (0, [1_023]), name
