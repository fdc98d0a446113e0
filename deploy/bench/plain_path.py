"""The plain path from Kafka to Redis: a confluent-kafka consumer that writes ready bytes with a redis-py pipeline.

Before it begins it folds the very events that will be published, and keeps for each the fields of its user, visit and items as
Headrace would write them. So it writes the same bytes under the same keys, and does nothing else: no decoding, no folding, no
comparing, no changelog. Usage: python -m headrace.deploy.bench.plain_path BOOTSTRAP REDIS_URL and the fields of a Shop as JSON.
Prints `ready` once it has its partitions.
"""

import json
import sys
import time
from typing import Any

import redis

from headrace.deploy.bench.events import Shop
from headrace.deploy.bench.ground import PLAIN_GROUP
from headrace.features.item_row import changes_of, fold_item
from headrace.features.online_store import OnlineStore
from headrace.features.place import Place
from headrace.features.session_row import fold_session
from headrace.features.user_row import fold_user
from headrace.schemas import Click, ItemRow, SessionRow, UserRow, encode, shopper_id
from headrace.schemas.topics import CLICKS, PURCHASES
from headrace.schemas.wire import now_ms
from headrace.streams import kafka
from headrace.streams.lifetime import collect_garbage_seldom, stop_on_signals

LARGEST_BATCH = 2000
COMMIT_EVERY_S = 0.5
Write = tuple[bytes, list[bytes]]


def main(bootstrap: str, redis_url: str, shop: str) -> None:
    """Write what arrives until SIGTERM."""
    stop = stop_on_signals()
    client = redis.Redis.from_url(redis_url)
    prepared = prepare(Shop(**json.loads(shop)), OnlineStore(client))
    collect_garbage_seldom()
    consumer = kafka.consumer(bootstrap, "bench-plain", group=PLAIN_GROUP)
    assigned: list[Any] = []
    consumer.subscribe([CLICKS.name, PURCHASES.name], on_assign=lambda _, places: assigned.extend(places))
    while not assigned and not stop.is_set():
        consumer.poll(0.1)
    print("ready", flush=True)
    committed_s = time.monotonic()
    while not stop.is_set():
        records = kafka.next_batch(consumer, LARGEST_BATCH, 0.1)
        if records:
            with client.pipeline(transaction=False) as pipe:
                for record in records:
                    for key, fields in prepared[record.value() or b""]:
                        pipe.execute_command("HSET", key, *fields)
                pipe.execute()
            if time.monotonic() - committed_s > COMMIT_EVERY_S:
                consumer.commit(asynchronous=True)
                committed_s = time.monotonic()
    consumer.close()


def prepare(shop: Shop, store: OnlineStore) -> dict[bytes, list[Write]]:
    """Return for the bytes of each event the rows that Headrace would write after it."""
    users: dict[str, UserRow] = {}
    items: dict[str, ItemRow] = {}
    visits: dict[str, SessionRow] = {}
    prepared: dict[bytes, list[Write]] = {}
    published_ms = now_ms()
    for number, event in enumerate(shop):
        place = Place("clicks/0" if isinstance(event, Click) else "purchases/0", number, published_ms)
        user_id, visit_id = shopper_id(event), event.session_id or ""
        user = users[user_id] = fold_user(users.get(user_id, UserRow(shopper_id=user_id)), event, place)
        visit = visits[visit_id] = fold_session(visits.get(visit_id, SessionRow(session_id=visit_id)), event, place)
        writes = [(store.users.key(user_id), store.users.fields(user)), (store.sessions.key(visit_id), store.sessions.fields(visit))]
        for change in changes_of(event, place):
            item = items[change.item_id] = fold_item(items.get(change.item_id, ItemRow(item_id=change.item_id)), change)
            writes.append((store.items.key(change.item_id), store.items.fields(item)))
        prepared[encode(event)] = writes
    return prepared


if __name__ == "__main__":
    main(*sys.argv[1:])
