"""Two feature workers against one, on the same backlog, whose partitions they share.

Where the machine has three cores or more, each worker is pinned to a core of its own and broker and Redis to the others, so
that what is measured is how the work divides. A machine of two cores has no room for that: one worker runs on the first core with
the servers on the second, two workers on a core each with the servers in between on both. Then the servers' work, which grows
with the rate, takes from the workers, and even perfect workers come to less than twice; `most_possible` says to how much, if
no core ever rests: the CPU time of one worker over half of that of worker and servers. `cost_ratio` is what does not depend on
the machine: CPU time for an event in two workers, against one. Servers that were given rather than started cannot be pinned.

The workers are there, with their partitions, before the events are published, and Redis holds back their writes meanwhile; the
clock starts when it lets them go on, so that all begin at once with the whole backlog before them.
"""

import os
import time
from collections.abc import Callable

from msgspec import Struct

from headrace.deploy.bench.events import Shop, publish
from headrace.deploy.bench.ground import HOLD_TIMEOUT_S, Ground
from headrace.deploy.bench.measured_process import Worker, cpu_s, pin
from headrace.deploy.bench.throughput import limit_s

WORKERS = (1, 2)

Tell = Callable[[str], None]


class Crew(Struct):
    """What so many workers did together; `servers_cpu_s` is the CPU time of broker and Redis meanwhile."""

    workers: int
    events: int
    seconds: float
    cpu_s: float
    servers_cpu_s: float

    @property
    def events_per_s(self) -> float:
        """Events in a second of the clock on the wall."""
        return self.events / self.seconds


class Speedup(Struct):
    """One worker and two in the same repeat."""

    one: Crew
    two: Crew

    @property
    def ratio(self) -> float:
        """How many times as fast two are."""
        return self.two.events_per_s / self.one.events_per_s

    @property
    def cost_ratio(self) -> float:
        """CPU time per event of two workers to that of one."""
        return (self.two.cpu_s / self.two.events) / (self.one.cpu_s / self.one.events)

    @property
    def most_possible(self) -> float:
        """How many times as fast two could be on two cores that they share with broker and Redis."""
        return 2 * self.one.cpu_s / (self.one.cpu_s + self.one.servers_cpu_s)


def measure_speedup(ground: Ground, shop: Shop, tell: Tell) -> Speedup:
    """Take in the shop's events with one worker, then with two. Raises Invalid."""
    return Speedup(*(_crew(ground, shop, workers, tell) for workers in WORKERS))


def placement(cores: list[int], workers: int) -> tuple[list[list[int]], list[int]]:
    """Return the cores of each worker, and those of the servers."""
    if len(cores) == 1:
        return [cores] * workers, cores
    own = [[cores[number]] for number in range(workers)]
    if len(cores) == 2:
        return own, cores[1:] if workers == 1 else cores
    return own, cores[2:]


def _crew(ground: Ground, shop: Shop, count: int, tell: Tell) -> Crew:
    ground.empty()
    all_cores = sorted(os.sched_getaffinity(0))
    own, others = placement(all_cores, count)
    # Longer than writes are held back.
    url = f"{ground.redis_url}?socket_timeout={HOLD_TIMEOUT_S:.0f}"
    workers = [Worker(ground.bootstrap, url, ground.home, f"worker-{number}") for number in range(count)]
    try:
        for pid in ground.pids:
            pin(pid, others)
        for worker, cores in zip(workers, own, strict=True):
            worker.wait_until_assigned()
            pin(worker.pid, cores)
        while not ground.all_have_partitions(count):
            time.sleep(0.05)
        with ground.writes_held():
            publish(shop, ground.bootstrap, tell)
            commits = ground.commits()
            workers_cpu_s = sum(worker.cpu_s() for worker in workers)
            servers_cpu_s = sum(map(cpu_s, ground.pids))
            started_s = time.time()

        def alive() -> None:
            for worker in workers:
                worker.require_alive()

        finished_s = commits.wait(
            lambda left: tell(f"{count} workers: {shop.events - left:,} of {shop.events:,} events"), alive, limit_s(shop.events)
        )
        workers_cpu_s = sum(worker.cpu_s() for worker in workers) - workers_cpu_s
        return Crew(count, shop.events, finished_s - started_s, workers_cpu_s, sum(map(cpu_s, ground.pids)) - servers_cpu_s)
    finally:
        for worker in workers:
            worker.stop()
        for pid in ground.pids:
            pin(pid, all_cores)
