"""Growth: what an event costs the worker when the shop has 2,000,000 users, against 10,000.

Two databases of one Redis are filled with rows of equal depth, one with few users and one with many; 40,000 items in each. In
each repeat fresh events are published for users drawn from the few, then for users drawn from the many, and a fresh worker
takes them in; the CPU time of its process for one event is compared, since that does not depend on what else the machine does.
With many users nearly every event needs a row that is not at hand, which must be read from Redis and decoded: that is the
growth. The few users' rows would grow with each repeat, so their database is filled anew each time. While the many rows lie in
Redis its append-only file is off, on both sides: it would need as much disk, and is not what is measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from msgspec import Struct

from headrace.deploy.bench import stock
from headrace.deploy.bench.events import Shop, publish
from headrace.deploy.bench.ground import Ground
from headrace.deploy.bench.memory import available_bytes, dataset_bytes
from headrace.deploy.bench.throughput import Rate, measure_worker
from headrace.features.online_store import OnlineStore, connect
from headrace.schemas.wire import now_ms

DEPTH = 8
MOST_OF_MEMORY = 0.6
MINUTE_MS = 60_000

Tell = Callable[[str], None]


class GrowthSample(Struct):
    """The same number of events among few and among many users."""

    few: Rate
    many: Rate
    few_users: int
    many_users: int

    @property
    def ratio(self) -> float:
        """CPU time per event with many users to that with few."""
        return self.many.cpu_us_per_event / self.few.cpu_us_per_event


@dataclass
class Growth:
    """The two stores side by side. `many_users` may be fewer than asked for where memory does not hold them."""

    ground: Ground
    few_users: int
    many_users: int
    events: int
    _append_only: str = "yes"

    def prepare(self, tell: Tell) -> int:
        """Empty all and fill the store of the many; return how many users there is room for."""
        ground = self.ground
        ground.empty()
        store = OnlineStore(connect(ground.database(1), timeout_s=300.0))
        told: Any = store.client.config_get("appendonly")
        self._append_only = told["appendonly"]
        store.client.config_set("appendonly", "no")
        before = dataset_bytes(store.client)
        stock.fill(store, min(self.many_users, 10_000), DEPTH, tell, items=0)
        each = (dataset_bytes(store.client) - before) / min(self.many_users, 10_000)
        self.many_users = min(self.many_users, max(self.few_users, int(MOST_OF_MEMORY * available_bytes() / each)))
        stock.fill(store, self.many_users, DEPTH, tell)
        return self.many_users

    def sample(self, seed: int, tell: Tell) -> GrowthSample:
        """Measure both once."""
        few = OnlineStore(connect(self.ground.database(0), timeout_s=300.0))
        few.client.flushdb()
        stock.fill(few, self.few_users, DEPTH, tell)
        rates = [self._rate(number, users, seed, tell) for number, users in enumerate((self.few_users, self.many_users))]
        return GrowthSample(rates[0], rates[1], self.few_users, self.many_users)

    def close(self) -> None:
        """Empty the stores again."""
        self.ground.empty()
        with redis.Redis.from_url(self.ground.redis_url) as client:
            client.config_set("appendonly", self._append_only)

    def _rate(self, database: int, users: int, seed: int, tell: Tell) -> Rate:
        url = self.ground.database(database)
        self.ground.catch_up(url)
        shop = Shop(self.events, users, seed, now_ms() - 10 * MINUTE_MS, 5 * MINUTE_MS / self.events)
        publish(shop, self.ground.bootstrap, tell)
        return measure_worker(self.ground, self.events, lambda text: tell(f"{users:,} users, {text}"), url)
