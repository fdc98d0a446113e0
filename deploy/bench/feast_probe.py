"""The reader of the latency measurement: a process with Feast loaded that asks for one user until the answer holds an event.

Usage: python -m headrace.deploy.bench.feast_probe REGISTRY REDIS_URL. It prints `ready`, then reads from standard input a line
for each event, as JSON: the user's id and the event's own time in ms. It asks for the feature `updated_ms` of that user, with
Feast's own `get_online_features`, at once and then with a pause of 0.2 ms after each answer, until that is no less than the event's
time. At the line `null` it prints one JSON list: for each event, in the clock CLOCK_MONOTONIC in ns, when the first question was
asked, when the answer with the event was in hand (null where it took more than 5 s), and how many questions there were.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

PAUSE_S = 0.0002
PATIENCE_NS = 5_000_000_000


def main(registry: str, redis_url: str) -> None:
    """Answer until standard input ends."""
    from headrace.deploy.feature_repository import apply, open_store
    from headrace.features.columns import USER_VIEW
    from headrace.streams.lifetime import collect_garbage_seldom

    apply(Path(registry), redis_url)
    store = open_store(Path(registry), redis_url)
    features = [f"{USER_VIEW}:updated_ms"]

    def updated_ms(user_id: str) -> int:
        found: dict[str, Any] = store.get_online_features(features=features, entity_rows=[{"user_id": user_id}]).to_dict()
        return int(found["updated_ms"][0] or 0)

    for number in range(50):
        updated_ms(f"nobody-{number}")
    collect_garbage_seldom()
    _print("ready")
    found: list[tuple[int, int | None, int]] = []
    for line in sys.stdin:
        event = json.loads(line)
        if event is None:
            _print(json.dumps(found))
            found = []
        else:
            found.append(_look_for(event, updated_ms))


def _look_for(event: tuple[str, int], updated_ms: Any) -> tuple[int, int | None, int]:
    user_id, time_ms = event
    first_ns = time.monotonic_ns()
    asked = 1
    while updated_ms(user_id) < time_ms:
        if time.monotonic_ns() - first_ns > PATIENCE_NS:
            return first_ns, None, asked
        time.sleep(PAUSE_S)
        asked += 1
    return first_ns, time.monotonic_ns(), asked


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
