"""The peer in Faust: one counter per shopper in a table (store `memory://`, with its changelog topic), and its value in Redis.

The agent counts event by event, since a table takes an entry's partition from the event at hand, and gathers the Redis writes into
pipelines of 200: a write of its own for each event would be several times slower. Values are decoded by the fastest means,
as raw bytes by msgspec. Usage: python -m headrace.deploy.bench.faust_peer BOOTSTRAP REDIS_URL TOPIC EVENTS DATA_DIR GROUP

Prints one JSON object as its last line: `started_s` when the first event was taken up, `finished_s` when the last value was in
Redis, `cpu_s` between the two.
"""

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

import faust
from redis.asyncio import Redis

from headrace.schemas import Click, decode
from headrace.schemas.topics import PARTITIONS

WRITES_AT_ONCE = 200


def main(bootstrap: str, redis_url: str, topic: str, events: str, data_dir: str, group: str) -> None:
    """Count `events` events of the topic, print what it took, and end the process."""
    for framework in ("faust", "mode", "aiokafka"):
        logging.getLogger(framework).setLevel(logging.ERROR)
    app = faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=data_dir,
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
    )
    source = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    views = app.Table("views", default=int, partitions=PARTITIONS, key_type=str)
    wanted = int(events)

    async def count(stream: Any) -> None:
        pipe = Redis.from_url(redis_url).pipeline(transaction=False)
        done, started_s, cpu_s = 0, 0.0, 0.0
        async for value in stream:
            if not done:
                started_s, cpu_s = time.time(), time.process_time()
            click = decode(Click, value)
            shopper = click.user_id or ""
            views[shopper] += 1
            pipe.set(shopper, views[shopper])
            done += 1
            if len(pipe) >= WRITES_AT_ONCE or done == wanted:
                await pipe.execute()
            if done == wanted:
                took = {"started_s": started_s, "finished_s": time.time(), "cpu_s": time.process_time() - cpu_s}
                sys.stdout.write(json.dumps(took) + "\n")
                sys.stdout.flush()
                # Faust takes seconds to say farewell; nothing of it is measured.
                os._exit(0)
            await asyncio.sleep(0) if done % 1000 == 0 else None

    app.agent(source)(count)
    worker = faust.Worker(app, loglevel="error", redirect_stdouts=False, quiet=True)
    worker.execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
