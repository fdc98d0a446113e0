"""The peer in Quix Streams 3: one counter per shopper, kept in its state store and written to Redis by its own Redis sink.

Run as a script in the environment of `quix.lock`, since Quix Streams needs an older Kafka client than Headrace; so nothing of
Headrace is imported here. In the mode `sink` values reach Redis through Quix's own batching `RedisSink`, in one pipeline at each
checkpoint; in the mode `each` a plain SET follows each event, so that Redis is as fresh as it can be. State lives in RocksDB
with a changelog topic, as it must for a restart; checkpoints come at the default interval of 5 s, which gathers most;
`fetch.queue.backoff.ms` is that of Headrace's own consumer.
Usage: quix_peer.py MODE BOOTSTRAP REDIS_HOST REDIS_PORT REDIS_DB TOPIC EVENTS STATE_DIR GROUP

Prints one JSON object as its last line: `started_s` when the first event was taken up, `finished_s` once the last checkpoint was
committed, `cpu_s` between the two.
"""

import json
import sys
import time
from typing import Any

from quixstreams import Application, State
from quixstreams.sinks.community.redis import RedisSink
from redis import Redis


def main(mode: str, bootstrap: str, host: str, port: str, database: str, topic: str, events: str, state_dir: str, group: str) -> None:
    """Count `events` events of the topic, then print what it took."""
    app = Application(
        bootstrap,
        consumer_group=group,
        auto_offset_reset="earliest",
        state_dir=state_dir,
        loglevel="WARNING",
        consumer_extra_config={"fetch.queue.backoff.ms": 10},
        consumer_poll_timeout=0.1,
    )
    began: dict[str, float] = {}

    def count(event: Any, state: State) -> int:
        if not began:
            began.update(started_s=time.time(), cpu_s=time.process_time())
        views = int(state.get("views", 0)) + 1
        state.set("views", views)
        return views

    source = app.topic(topic, key_deserializer="str", value_deserializer="json")
    counts = app.dataframe(source).apply(count, stateful=True)
    if mode == "sink":
        counts.sink(RedisSink(host, int(port), int(database), value_serializer=str))
    else:
        client = Redis(host, int(port), int(database))
        counts.update(lambda views, key, timestamp, headers: client.set(key, views), metadata=True)
    app.run(count=int(events), collect=False)
    print(json.dumps(began | {"finished_s": time.time(), "cpu_s": time.process_time() - began["cpu_s"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
