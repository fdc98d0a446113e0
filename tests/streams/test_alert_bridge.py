"""The alert bridge on a real Kafka, with a real HTTP server that takes what it posts, or does not."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from headrace.schemas import DriftAlert, wire
from headrace.schemas.topics import DRIFT_ALERTS
from headrace.streams import alert_bridge
from headrace.streams import kafka as clients
from headrace.streams.alert_bridge import AlertBridge, NoTarget
from headrace.streams.alert_targets import Alertmanager, BadTarget, SlackWebhook, Target
from headrace.streams.subscriber import Subscriber

PROJECT_START_MS = 1_700_000_000_000
ALERT = DriftAlert(
    alert_id="a-1", episode_id="e-1", state="started", signal="prequential_loss", detector="ADWIN", severity="warning", level_before=3.1,
    level_after=5.2, window=200, observations=9000, model_version=7, event_time_ms=1, created_ms=PROJECT_START_MS, reaction="told",
)  # fmt: skip


class Receiver:
    """An HTTP server that notes what is posted by path; `answers` are the statuses of the next posts, and then always 200."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    receiver.posted.append((self.path, body))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"told so")

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def to(self, path: str) -> list[Any]:
        return [body for posted, body in self.posted if posted == path]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def slack(receiver: Receiver, tmp_path: Path) -> SlackWebhook:
    (tmp_path / "slack").write_text(f"{receiver.url}/services/secret\n")
    return SlackWebhook(tmp_path / "slack")


def send(bootstrap: str, *alerts: DriftAlert | bytes) -> None:
    producer = clients.producer(bootstrap, "test")
    for alert in alerts:
        producer.produce(DRIFT_ALERTS.name, alert if isinstance(alert, bytes) else wire.encode(alert), "signal")
    assert producer.flush(10.0) == 0


def bridge(bootstrap: str, folder: Path, *targets: Target, now_ms: int = PROJECT_START_MS + 1000) -> AlertBridge:
    return AlertBridge(bootstrap, targets, folder, "bridge-0", lambda: now_ms, first_wait_s=0.05)


def work(worker: AlertBridge, until: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        worker.step(0.05)
        assert time.monotonic() < deadline
    # What has just been posted is committed within the same step, or the next.
    worker.step(0.05)


def alert(number: int, **changes: Any) -> DriftAlert:
    return msgspec.structs.replace(ALERT, alert_id=f"a-{number}", **changes)


def test_an_episode_burns_in_the_alertmanager_from_its_start_to_its_end(fresh_topics: str, receiver: Receiver, tmp_path: Path) -> None:
    worker = bridge(fresh_topics, tmp_path, Alertmanager(f"{receiver.url}/prefix/"))
    send(fresh_topics, alert(1), alert(2, state="ongoing", created_ms=PROJECT_START_MS + 500))
    work(worker, lambda: len(receiver.posted) == 2)
    assert open_episodes() == 1
    worker.renew()
    send(fresh_topics, alert(3, state="resolved", created_ms=PROJECT_START_MS + 900))
    work(worker, lambda: len(receiver.posted) == 4)
    worker.close()
    [started], [ongoing], [renewed], [resolved] = receiver.to("/prefix/api/v2/alerts")
    assert started["labels"] == ongoing["labels"] == renewed["labels"] == resolved["labels"]
    assert started["startsAt"] == resolved["startsAt"] == "2023-11-14T22:13:20.000Z"
    assert started["endsAt"] == renewed["endsAt"] == "2023-11-14T22:28:21.000Z"
    assert resolved["endsAt"] == "2023-11-14T22:13:20.900Z"
    assert open_episodes() == 0


def test_an_alert_that_grows_worse_resolves_the_one_by_its_old_severity(fresh_topics: str, receiver: Receiver, tmp_path: Path) -> None:
    worker = bridge(fresh_topics, tmp_path, Alertmanager(receiver.url))
    send(fresh_topics, alert(1), alert(2, state="ongoing", severity="critical", created_ms=PROJECT_START_MS + 500))
    work(worker, lambda: len(receiver.posted) == 2)
    worker.close()
    new, old = receiver.to("/api/v2/alerts")[1]
    assert (new["labels"]["severity"], old["labels"]["severity"]) == ("critical", "warning")
    assert old["endsAt"] == "2023-11-14T22:13:20.500Z" < new["endsAt"]


def test_a_target_that_fails_is_asked_again_and_no_other_hears_twice(
    fresh_topics: str, receiver: Receiver, slack: SlackWebhook, tmp_path: Path
) -> None:
    worker = bridge(fresh_topics, tmp_path, slack, Alertmanager(receiver.url))
    # The chat takes it, the Alertmanager only the third time.
    receiver.answers = [200, 503, 500]
    send(fresh_topics, alert(1), alert(2, state="resolved"))
    work(worker, lambda: len(receiver.to("/api/v2/alerts")) == 2)
    worker.close()
    assert [body["text"][:1] for body in receiver.to("/services/secret")] == ["⚠", "✅"]
    assert REGISTRY.get_sample_value("headrace_alert_deliveries_failed_total", {"target": "alertmanager"}) == 2


def test_after_a_crash_nothing_is_lost_and_nothing_is_told_twice(
    fresh_topics: str, receiver: Receiver, slack: SlackWebhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bridge(fresh_topics, tmp_path, slack)
    send(fresh_topics, alert(1))
    monkeypatch.setattr(first, "_commit", lambda record: (_ for _ in ()).throw(RuntimeError("killed before the commit")))
    with pytest.raises(RuntimeError, match="killed before the commit"):
        work(first, lambda: False)
    first.close()
    send(fresh_topics, alert(2, state="resolved"))
    second = bridge(fresh_topics, tmp_path, slack)
    work(second, lambda: len(receiver.posted) == 2)
    second.close()
    assert [body["text"][:1] for body in receiver.to("/services/secret")] == ["⚠", "✅"]


def test_what_cannot_be_read_or_is_refused_for_good_goes_to_the_dead_letters(fresh_topics: str, receiver: Receiver, tmp_path: Path) -> None:
    worker = bridge(fresh_topics, tmp_path, Alertmanager(receiver.url))
    receiver.answers = [422]
    send(fresh_topics, b"{nonsense", alert(1), alert(2, episode_id="e-2"))
    work(worker, lambda: len(receiver.posted) == 1)
    worker.close()
    assert receiver.to("/api/v2/alerts")[0][0]["labels"]["episode"] == "e-2"
    with Subscriber(fresh_topics, "dead-letters", start="beginning") as letters:
        reasons = [str(getattr(letters.poll(5.0), "reason", None)) for _ in range(2)]
        assert letters.poll(0.5) is None
    assert "not JSON" in reasons[0]
    assert "alertmanager refuses it: 422" in reasons[1]


def test_a_bridge_that_is_new_tells_nobody_of_last_month_but_knows_what_is_open(
    fresh_topics: str, receiver: Receiver, slack: SlackWebhook, tmp_path: Path
) -> None:
    send(fresh_topics, alert(1), alert(2, episode_id="e-2"), alert(3, state="resolved"), alert(4, episode_id="e-4", created_ms=10**12 * 2))
    worker = bridge(fresh_topics, tmp_path, slack, Alertmanager(receiver.url), now_ms=PROJECT_START_MS + alert_bridge.MOST_LATE_MS + 1)
    work(worker, lambda: len(receiver.posted) == 2)
    receiver.posted.clear()
    worker.renew()
    worker.close()
    assert [part["labels"]["episode"] for part in receiver.to("/api/v2/alerts")[0]] == ["e-2", "e-4"]


def test_a_bridge_without_a_target_or_with_a_bad_one_says_what_to_set(kafka: str, tmp_path: Path) -> None:
    with pytest.raises(NoTarget, match="set HEADRACE_ALERTMANAGER_URL, HEADRACE_SLACK_WEBHOOK_FILE or both"):
        bridge(kafka, tmp_path)
    with pytest.raises(BadTarget, match="HEADRACE_ALERTMANAGER_URL"):
        Alertmanager("file:///etc/passwd")
    with pytest.raises(BadTarget, match="a file with one URL was expected"):
        SlackWebhook(tmp_path / "none")
    (tmp_path / "slack").write_text("hooks.example/T0/secret")
    with pytest.raises(BadTarget) as caught:
        SlackWebhook(tmp_path / "slack")
    assert "secret" not in str(caught.value)


def open_episodes() -> float:
    return REGISTRY.get_sample_value("headrace_drift_episodes_open", {"signal": "prequential_loss", "severity": "warning"}) or 0.0
