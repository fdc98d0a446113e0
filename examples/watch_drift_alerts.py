"""Print each drift alert, going on after a restart where it left off. HEADRACE_KAFKA names the broker."""

import os

from headrace.schemas import DriftAlert
from headrace.streams.subscriber import Subscriber

with Subscriber(os.environ.get("HEADRACE_KAFKA", "127.0.0.1:9092"), DriftAlert, group="on-call", start="beginning") as alerts:
    for alert in alerts:
        print(
            f"{alert.severity}: {alert.signal} went from {alert.level_before:.3f} to {alert.level_after:.3f}; {alert.reaction}", flush=True
        )
