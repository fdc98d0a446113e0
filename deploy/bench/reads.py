"""Reading a feature service for 1, 100 and 500 entities, beside a redis-py pipeline that fetches the same rows, and Feast's own call.

The service is `next_item`: for each entity a user's row and an item's row. Ours is `FeatureReader.read`, which decodes the rows and
leaves the columns until they are looked at; with all columns looked at it is reported beside it as `columns`. The pipeline's
HGETALL returns the bytes as Redis holds them and decodes nothing. Feast's `get_online_features(...).to_dict()` returns columns.
All in one process, with one connection each and the same client library, in turns call by call on rows drawn anew each time,
with the garbage collector set as in production. Usage: python -m headrace.deploy.bench.reads REGISTRY REDIS_URL REPEATS SHARE
prints one JSON object: the median milliseconds of each reader, by number of entities and repeat. SHARE scales the calls.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from headrace.deploy.bench import stock
from headrace.deploy.bench.ground import Ground
from headrace.deploy.bench.measured_process import MeasuredProcess
from headrace.features.online_store import OnlineStore, connect
from headrace.features.reader import FeatureReader, Features
from headrace.features.services import NEXT_ITEM
from headrace.schemas.wire import now_ms

ENTITIES = (1, 100, 500)
USERS, ITEMS = 5_000, 5_000
DEPTH = 20
CALLS = {1: 400, 100: 60, 500: 15}
TIMEOUT_S = 900.0

Pairs = Sequence[tuple[str, str]]
Tell = Callable[[str], None]


class ReadTimes(Struct):
    """Median milliseconds of one call for so many entities, of each reader, in one repeat."""

    entities: int
    headrace: float
    columns: float
    pipeline: float
    feast: float

    @property
    def ratio(self) -> float:
        """Ours to the pipeline of the same rows."""
        return self.headrace / self.pipeline


def measure_reads(ground: Ground, repeats: int, share_of_calls: float, tell: Tell) -> list[ReadTimes]:
    """Fill the store and measure all readers `repeats` times. Raises Invalid."""
    ground.empty()
    store = OnlineStore(connect(ground.redis_url))
    stock.fill(store, USERS, DEPTH, tell, items=ITEMS)
    command = [sys.executable, "-W", "ignore", "-m", "headrace.deploy.bench.reads", str(ground.data / "feast" / "registry.db")]
    command += [ground.redis_url, str(repeats), str(share_of_calls)]
    tell("starting the readers (Feast takes ten seconds)")
    process = MeasuredProcess(command, ground.home / "logs" / "reads.log")
    try:
        rows = process.result(TIMEOUT_S)["times"]
    finally:
        process.stop()
    return [ReadTimes(**row) for row in rows]


def main(registry: str, redis_url: str, repeats: str, share_of_calls: str) -> None:
    """Measure, and print what was found."""
    from headrace.deploy.feature_repository import apply, open_store
    from headrace.streams.lifetime import collect_garbage_seldom

    apply(Path(registry), redis_url)
    feast_store = open_store(Path(registry), redis_url)
    service = feast_store.get_feature_service(NEXT_ITEM.name)
    store = OnlineStore(connect(redis_url))
    client = OnlineStore(connect(redis_url)).client

    ours = FeatureReader(store)

    def headrace(pairs: Pairs) -> list[Features]:
        return ours.read(NEXT_ITEM, [{"user_id": user, "item_id": item} for user, item in pairs], now_ms())

    def columns(pairs: Pairs) -> Any:
        return [list(features.values()) for features in headrace(pairs)]

    def pipeline(pairs: Pairs) -> Any:
        with client.pipeline(transaction=False) as pipe:
            for user, _ in pairs:
                pipe.hgetall(store.users.key(user))  # type: ignore[arg-type]
            for _, item in pairs:
                pipe.hgetall(store.items.key(item))  # type: ignore[arg-type]
            return pipe.execute()

    def feast(pairs: Pairs) -> Any:
        rows = [{"user_id": user, "item_id": item} for user, item in pairs]
        return feast_store.get_online_features(features=service, entity_rows=rows, full_feature_names=True).to_dict()

    readers: dict[str, Callable[[Pairs], Any]] = {"headrace": headrace, "columns": columns, "pipeline": pipeline, "feast": feast}
    rng = random.Random(1)
    for reader in readers.values():
        reader(next(_pairs(rng, 10)))
    collect_garbage_seldom()
    times = [_measure(readers, rng, entities, float(share_of_calls)) for _ in range(int(repeats)) for entities in ENTITIES]
    print(json.dumps({"times": times}), flush=True)


def _measure(readers: dict[str, Callable[[Pairs], Any]], rng: random.Random, entities: int, share_of_calls: float) -> dict[str, float]:
    took: dict[str, list[float]] = {name: [] for name in readers}
    draws = _pairs(rng, entities)
    for _ in range(max(3, int(share_of_calls * CALLS[entities]))):
        for name in rng.sample(list(readers), len(readers)):
            pairs = next(draws)
            started_s = time.perf_counter()
            readers[name](pairs)
            took[name].append(1000 * (time.perf_counter() - started_s))
    return {"entities": entities} | {name: statistics.median(times) for name, times in took.items()}


def _pairs(rng: random.Random, entities: int) -> Iterator[Pairs]:
    while True:
        users, items = rng.sample(range(USERS), entities), rng.sample(range(ITEMS), entities)
        yield [(stock.shopper(user), stock.item(item)) for user, item in zip(users, items, strict=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])
