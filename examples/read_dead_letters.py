"""Print each refused record with its place, the reason and its bytes. HEADRACE_KAFKA names the broker."""

import os

from headrace.schemas import DeadLetter
from headrace.streams.subscriber import Subscriber

with Subscriber(os.environ.get("HEADRACE_KAFKA", "127.0.0.1:9092"), DeadLetter, start="beginning") as letters:
    for letter in letters:
        print(f"{letter.topic}/{letter.partition}/{letter.offset}: {letter.reason}: {letter.raw[:200]!r}", flush=True)
