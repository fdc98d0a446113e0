"""Print each version of the model since the first that is kept. HEADRACE_KAFKA names the broker."""

import os

from headrace.schemas import ModelUpdate
from headrace.streams.subscriber import Subscriber

with Subscriber(os.environ.get("HEADRACE_KAFKA", "127.0.0.1:9092"), ModelUpdate, start="beginning") as updates:
    for update in updates:
        print(f"{update.model} {update.kind} {update.base_version} -> {update.version} after {update.learned_events} events", flush=True)
