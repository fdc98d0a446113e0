"""SIGKILL in the middle of a run: each part once, under load. What went in must be what the features say, no more and no less."""

from pathlib import Path

from headrace.deploy.demo import Demo, DemoOptions, Watcher
from headrace.deploy.settings import Settings

KILLS = [("feature-worker", 4.0), ("learner", 7.0), ("recommender", 10.0), ("feature-worker", 13.0)]


def test_nothing_is_lost_or_double_when_each_part_is_killed_in_the_middle_of_a_run(tmp_path: Path) -> None:
    said: list[str] = []
    settings = Settings(home=tmp_path / "home", device="cpu")
    options = DemoOptions(rate=600, seconds=20, kills=KILLS)
    with Demo(options, settings, Watcher(said.append)) as demo:
        report = demo.run()
    told = "\n".join(said)
    assert report.restarts == {"feature-worker": 2, "learner": 1, "recommender": 1, "gateway": 0, "release-manager": 0}, told
    assert told.count("killed by SIGKILL") == len(KILLS)
    assert report.events_published >= 0.8 * 600 * 20
    assert (report.events_lost, report.events_double) == (0, 0), told
    assert (report.item_touches_lost, report.item_touches_double) == (0, 0), told
    assert report.events_counted == report.events_published
    assert report.purchases_counted == report.purchases_published > 0
    assert report.torn_responses == 0
    assert report.responses_checked > 0
    assert report.model_versions >= 5
    assert report.lag_end == {"feature-worker": 0, "recommender": 0, "learner": 0}
    assert report.fresh_start
