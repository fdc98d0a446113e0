"""Memory: what a user's row takes in Redis, and what the worker holds.

Rows of users that the throughput run has left are copied alone into another database, and the growth of Redis's
`used_memory_dataset` (its own overhead left out) is divided by their number. The worker's own memory is its resident set at the
end of a backlog; it keeps the rows used last at hand, up to a fixed number, so it does not grow with the users.
"""

from itertools import islice
from pathlib import Path
from typing import Any

import redis
from msgspec import Struct
from msgspec.structs import replace

from headrace.deploy.bench.ground import Ground
from headrace.deploy.bench.stock import shopper, user_row
from headrace.features.online_store import OnlineStore, connect
from headrace.features.user_row import HISTORY_LENGTH

SAMPLED_ROWS = 20_000
FULL_ROWS = 1_000
FULL_EVENTS = 3 * HISTORY_LENGTH


class RowMemory(Struct):
    """Bytes of Redis for one user's row: of the throughput run, with so many events in it on average, and of a full one."""

    bytes_per_user: float
    events_per_user: float
    bytes_per_full_user: float
    rows: int


def measure_rows(ground: Ground) -> RowMemory:
    """Measure the rows of users that lie in the ground's Redis now."""
    rows = list(islice(OnlineStore(connect(ground.redis_url)).scan_users(), SAMPLED_ROWS))
    if not rows:
        raise ValueError("rows of users were expected in Redis; let a worker take in events first")
    copies = OnlineStore(connect(ground.database(1), timeout_s=300.0))
    found = []
    full = user_row(shopper(0), FULL_EVENTS)
    for batch in (rows, [replace(full, shopper_id=shopper(number)) for number in range(FULL_ROWS)]):
        copies.client.flushdb()
        before = dataset_bytes(copies.client)
        for first in range(0, len(batch), 1000):
            copies.write(users=batch[first : first + 1000])
        found.append((dataset_bytes(copies.client) - before) / len(batch))
    copies.client.flushdb()
    events = sum(row.views + row.carts + row.purchases for row in rows)
    return RowMemory(found[0], events / len(rows), found[1], len(rows))


def dataset_bytes(client: redis.Redis) -> int:
    """Return how much memory Redis uses for what it holds."""
    told: Any = client.info("memory")
    return int(told["used_memory_dataset"])


def available_bytes() -> int:
    """Return how much memory the machine has to give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo says nothing of MemAvailable")
