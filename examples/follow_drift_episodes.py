"""Print when an episode of drift begins and ends, and what explains it best, once each, whatever comes in between."""

import os

from headrace.schemas import DriftAlert
from headrace.streams.subscriber import Subscriber

open_since_ms: dict[str, int] = {}

with Subscriber(os.environ.get("HEADRACE_KAFKA", "127.0.0.1:9092"), DriftAlert, group="episodes", start="beginning") as alerts:
    for alert in alerts:
        episode = alert.episode_id or alert.alert_id
        if alert.state == "resolved":
            lasted_ms = alert.created_ms - open_since_ms.pop(episode, alert.created_ms)
            print(f"{episode}: over after {lasted_ms / 1000:.0f} s; {alert.signal} is at {alert.level_after:.3f}", flush=True)
        elif episode not in open_since_ms:
            open_since_ms[episode] = alert.created_ms
            cause = f", mostly by {alert.causes[0].signal} ({alert.causes[0].share:.0%})" if alert.causes else ""
            print(f"{episode}: {alert.kind} drift of {alert.signal}{cause}; {alert.reaction}", flush=True)
