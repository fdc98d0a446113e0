"""Print each new list of recommendations, best item first. HEADRACE_KAFKA names the broker."""

import os

from headrace.schemas import Recommendation
from headrace.streams.subscriber import Subscriber

with Subscriber(os.environ.get("HEADRACE_KAFKA", "127.0.0.1:9092"), Recommendation) as recommendations:
    for message in recommendations:
        print(message.shopper_id, *(f"{item.item_id}={item.score:.3f}" for item in message.items), flush=True)
