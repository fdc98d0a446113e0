"""Where drift alerts are handed over to: an Alertmanager, and a chat that takes Slack's incoming webhooks."""

import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from headrace.schemas import DriftAlert
from headrace.streams.alert_messages import AlertmanagerAlert, alertmanager_alert, labels, slack_text, worth_telling

TIMEOUT_S = 10.0
# Alertmanager takes an alert that is not renewed for resolved; this outlives a restart of the bridge, and several renewals.
OPEN_FOR_MS = 15 * 60_000
# What is wrong with the message itself; anything else may be mended on the other side, and is tried again.
_FOREVER = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}


class NotDelivered(RuntimeError):
    """A target did not take an alert; it may later."""


class RefusedByTarget(RuntimeError):
    """A target will never take this alert."""


class BadTarget(ValueError):
    """A target's address cannot be used. The address itself is not told, since it may be a secret."""


class Target(Protocol):
    """Takes alerts. `name` is what it is called in metrics and in the memory of what was delivered."""

    name: str

    def send(self, alert: DriftAlert, first: DriftAlert, before: DriftAlert | None, now_ms: int) -> None:
        """Hand over an alert; `first` and `before` are the first and the last one of its episode, `before` None if it is the first.

        Raises NotDelivered, RefusedByTarget.
        """

    def renew(self, alerts: Sequence[tuple[DriftAlert, DriftAlert]], now_ms: int) -> None:
        """Say again of open episodes, each given by its first and its newest alert, that they are open. Raises as `send` does."""


class Alertmanager:
    """An Alertmanager by its address, such as http://127.0.0.1:9093, or with its path prefix. It groups, routes and silences."""

    name = "alertmanager"

    def __init__(self, url: str) -> None:
        _require_http(url, "HEADRACE_ALERTMANAGER_URL")
        self._url = f"{url.rstrip('/')}/api/v2/alerts"

    def send(self, alert: DriftAlert, first: DriftAlert, before: DriftAlert | None, now_ms: int) -> None:
        """Post the alert; where its severity has changed, the one by the old severity is resolved with it."""
        posted = [_as_open_or_over(alert, first, now_ms)]
        if before is not None and labels(before) != labels(alert):
            posted.append(alertmanager_alert(before, first.created_ms, alert.created_ms))
        self._post(posted)

    def renew(self, alerts: Sequence[tuple[DriftAlert, DriftAlert]], now_ms: int) -> None:
        """Post the open ones again; an Alertmanager that was started anew knows none of them."""
        self._post([_as_open_or_over(newest, first, now_ms) for first, newest in alerts])

    def _post(self, alerts: Sequence[AlertmanagerAlert]) -> None:
        post(self._url, msgspec.json.encode(alerts))


class SlackWebhook:
    """A chat by the URL in a file. The file is read for each message, so that a new URL needs no restart."""

    name = "slack"

    def __init__(self, file: Path) -> None:
        self._file = file
        self._url()

    def send(self, alert: DriftAlert, first: DriftAlert, before: DriftAlert | None, now_ms: int) -> None:
        """Post the text of an alert that people should read of."""
        if worth_telling(alert, before):
            post(self._url(), msgspec.json.encode({"text": slack_text(alert)}))

    def renew(self, alerts: Sequence[tuple[DriftAlert, DriftAlert]], now_ms: int) -> None:
        """Say nothing: a chat forgets nothing."""

    def _url(self) -> str:
        try:
            url = self._file.read_text().strip()
        except OSError as error:
            raise BadTarget(
                f"HEADRACE_SLACK_WEBHOOK_FILE: a file with one URL was expected; {self._file} cannot be read: {error}"
            ) from None
        _require_http(url, f"HEADRACE_SLACK_WEBHOOK_FILE ({self._file})")
        return url


def post(url: str, body: bytes) -> None:
    """Post JSON. Raises NotDelivered, RefusedByTarget; neither names the URL."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 -- checked when set
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            answer.read()
    except urllib.error.HTTPError as error:
        told = f"{error.code} {error.reason}: {error.read(500).decode(errors='replace')}"
        if error.code in _FOREVER:
            raise RefusedByTarget(told) from None
        raise NotDelivered(told) from None
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise NotDelivered(str(error)) from None


def _as_open_or_over(alert: DriftAlert, first: DriftAlert, now_ms: int) -> AlertmanagerAlert:
    over = alert.state == "resolved"
    return alertmanager_alert(alert, first.created_ms, alert.created_ms if over else now_ms + OPEN_FOR_MS)


def _require_http(url: str, where: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadTarget(f"{where}: a URL that begins with http:// or https:// was expected; correct it or unset it")
