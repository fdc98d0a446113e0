"""What the dashboard costs the gateway: processor time of its own threads, those of its Kafka clients included."""

import threading
import time
from pathlib import Path

from headrace.schemas.wire import now_ms
from headrace.streams.dashboard.dashboard import Dashboard
from headrace.streams.gateway_parts import GatewayParts

READY_TIMEOUT_S = 60.0
SETTLE_S = 3.0


class DashboardCost:
    """A gateway's parts in this process, with a dashboard: all threads that begin after the parts are ready are the dashboard's."""

    def __init__(self, bootstrap: str, redis_url: str) -> None:
        self._parts = GatewayParts(bootstrap, redis_url, "cpu")
        self._parts.start()
        if not self._parts.memories.caught_up.wait(READY_TIMEOUT_S):
            raise TimeoutError(f"the user rows were not read to their end within {READY_TIMEOUT_S:g} s; look whether Kafka answers")
        time.sleep(SETTLE_S)
        self._others = set(_threads())
        self._dashboard = Dashboard(bootstrap, self._parts, now_ms)
        self._dashboard.start()
        time.sleep(SETTLE_S)
        self._begun_s, self._spent_s = time.monotonic(), self._cpu_s()

    def share(self) -> float:
        """Return the share of one core that was spent since the dashboard has settled."""
        return (self._cpu_s() - self._spent_s) / (time.monotonic() - self._begun_s)

    def close(self) -> None:
        """Stop everything."""
        self._dashboard.stop()
        self._parts.stop()

    def _cpu_s(self) -> float:
        # The thread that measures is not one of them, nor is any that the benchmark itself starts.
        own = {thread.native_id for thread in threading.enumerate() if thread.name in ("MainThread",)}
        return sum(_nanoseconds(number) for number in _threads() if number not in self._others | own) / 1e9


def _threads() -> list[int]:
    return [int(task.name) for task in Path("/proc/self/task").iterdir()]


def _nanoseconds(thread: int) -> int:
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0
