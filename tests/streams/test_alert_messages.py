"""Drift alerts in others' words: what an Alertmanager knows them by, and what a chat shows."""

import msgspec
import pytest

from headrace.schemas import DriftAlert
from headrace.schemas.drift_alerts import DriftCause, DriftReaction
from headrace.streams.alert_messages import alertmanager_alert, labels, slack_text, summary, worth_telling

ALERT = DriftAlert(
    alert_id="a-1", episode_id="e-1", state="started", kind="concept", signal="prequential_loss", detector="ADWIN", severity="warning",
    level_before=3.1, level_after=5.25, window=200, observations=9000, model_version=7, event_time_ms=1_000, created_ms=2_000,
    since_ms=500, p_value=0.0001, reaction="told", segment={"surface": "home", "country": "de"}, signals=["prequential_loss", "hit_rate"],
    causes=[DriftCause(signal="price", share=0.6, level_before=1.0, level_after=2.0, segment={"category": "shoes"})],
    reactions=[DriftReaction(name="quicken", state="kept", quality_before=0.3, quality_at=0.1, quality_after=0.28)],
    picture="http://127.0.0.1:8000/#drift",
)  # fmt: skip


def test_an_alert_is_known_by_signal_severity_kind_episode_and_segment() -> None:
    assert labels(ALERT) == {
        "alertname": "HeadraceDrift",
        "signal": "prequential_loss",
        "severity": "warning",
        "kind": "concept",
        "episode": "e-1",
        "segment": "country=de,surface=home",
    }
    # The end of an episode must be known by the same, or it would burn for ever.
    over = msgspec.structs.replace(ALERT, alert_id="a-9", state="resolved", level_after=3.0, causes=[], reactions=[])
    assert labels(over) == labels(ALERT)


def test_what_is_posted_is_what_the_api_takes() -> None:
    posted = msgspec.json.decode(msgspec.json.encode([alertmanager_alert(ALERT, 2_000, 62_000)]))
    assert len(posted) == 1
    assert set(posted[0]) == {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}
    assert (posted[0]["startsAt"], posted[0]["endsAt"]) == ("1970-01-01T00:00:02.000Z", "1970-01-01T00:01:02.000Z")
    assert posted[0]["generatorURL"] == ALERT.picture
    told = posted[0]["annotations"]
    assert told["summary"] == "prequential_loss (country=de,surface=home) and 1 more: concept drift from 3.1 to 5.25"
    assert "ADWIN saw it over the newest 200 of 9000 observations." in told["description"]
    assert "price (category=shoes) 1 to 2, 60%" in told["description"]
    assert told["reactions"] == "quicken kept (hit rate 0.3 before, 0.1 at, 0.28 after)"
    assert all(isinstance(text, str) and text for text in (*told.values(), *posted[0]["labels"].values()))


def test_an_alert_without_episode_segment_and_picture_leaves_them_out() -> None:
    plain = msgspec.structs.replace(ALERT, episode_id=None, segment={}, picture=None, reactions=[])
    posted = alertmanager_alert(plain, 2_000, 3_000)
    assert posted.labels["episode"] == "a-1"
    assert "segment" not in posted.labels
    assert "picture" not in posted.annotations
    assert posted.annotations["reactions"] == "told"
    assert b"generatorURL" not in msgspec.json.encode(posted)


def test_a_chat_message_tells_state_causes_and_reaction_and_escapes_the_rest() -> None:
    text = slack_text(msgspec.structs.replace(ALERT, reaction="<!channel> & all", reactions=[]))
    assert text.startswith("⚠️ *prequential_loss")
    assert "started, warning, model version 7, episode e-1" in text
    assert "Done: &lt;!channel&gt; &amp; all" in text
    assert text.endswith("<http://127.0.0.1:8000/#drift|picture>")
    assert slack_text(msgspec.structs.replace(ALERT, state="resolved")).startswith("✅ *prequential_loss")
    assert summary(msgspec.structs.replace(ALERT, state="resolved")).endswith("drift is over, at 5.25")


@pytest.mark.parametrize(
    ("state", "severity", "told"),
    [("started", "warning", True), ("ongoing", "warning", False), ("ongoing", "info", False), ("ongoing", "critical", True),
     ("resolved", "info", True)],
)  # fmt: skip
def test_that_an_episode_goes_on_is_news_only_when_it_grows_worse(state: str, severity: str, told: bool) -> None:
    now = msgspec.convert(msgspec.to_builtins(ALERT) | {"state": state, "severity": severity}, DriftAlert)
    assert worth_telling(now, ALERT) == told
