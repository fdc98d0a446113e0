"""Asking the gateway again and again while everything else goes on, and keeping the answers."""

import http.client
import json
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from headrace.schemas import HistoryEntry


@dataclass(frozen=True)
class Answer:
    """What the Transformer said of a history, and the weights and the lane that it named."""

    history: tuple[HistoryEntry, ...]
    probabilities: dict[str, float]
    version: int
    sha256: str
    lane: str | None = None


class Asker:
    """Asks the gateway `POST /v1/predict` again and again, and keeps the answers."""

    def __init__(self, port: int, histories: Callable[[], Sequence[Sequence[HistoryEntry]]], every_s: float = 0.1) -> None:
        self.answers: list[Answer] = []
        self.failed = 0
        self._port = port
        self._histories = histories
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asker", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking; nothing happens where it has not begun."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)

    def _run(self) -> None:
        draw = random.Random(1)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5.0)
        while not self._stop.wait(self._every_s):
            known = self._histories()
            if not known:
                continue
            try:
                # Unknown shoppers, who change nothing but which lane answers.
                answer = ask(connection, tuple(draw.choice(known)), f"asker-{draw.randrange(10**6)}")
                if answer.probabilities:
                    self.answers.append(answer)
            except (OSError, http.client.HTTPException, ValueError):
                self.failed += 1
                connection.close()


def ask(connection: http.client.HTTPConnection, history: tuple[HistoryEntry, ...], shopper_id: str | None = None) -> Answer:
    """Ask for one history, as the shopper named. Raises OSError, HTTPException, or ValueError for an answer that is no answer."""
    steps = [{name: value for name, value in msgspec.structs.asdict(entry).items() if value is not None} for entry in history]
    body = json.dumps({"history": steps, "k": 20, "shopper_id": shopper_id})
    connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    raw = response.read()
    if response.status != 200:
        raise ValueError(f"/v1/predict answered {response.status}: {raw[:200]!r}")
    told = json.loads(raw)
    probabilities = {entry["item_id"]: entry["probability"] for entry in told["transformer"]}
    return Answer(history, probabilities, told["model_version"], told["weights_sha256"], told["lane"])
