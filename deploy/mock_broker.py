"""The mock broker of librdkafka in a child process, for where no real Kafka can be had."""

import json
import signal
import sys
from pathlib import Path

from confluent_kafka import Producer

from headrace.deploy.processes import ChildProcess
from headrace.schemas.topics import TOPICS

START_TIMEOUT_S = 30.0
NOTICE = (
    "a mock broker stands in for Apache Kafka: good enough to try Headrace, but it begins empty at each start, keeps only the newest "
    "5 MB or so of each partition, in memory, cannot create or delete topics, and lets groups wait seconds for their partitions."
)


class MockBroker:
    """A child process with the mock broker. The constructor starts it and does not wait."""

    version = "librdkafka's mock broker (no Kafka)"

    def __init__(self, log: Path) -> None:
        log.unlink(missing_ok=True)
        self._process = ChildProcess([sys.executable, "-m", "headrace.deploy.mock_broker"], log)
        self.bootstrap = ""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for its address. Raises NotReady with the end of its log."""
        self._process.wait_until(self._has_told, "the mock broker", timeout_s)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it; its records are gone."""
        self._process.stop(timeout_s)

    def _has_told(self) -> bool:
        for line in self._process.log.read_text(errors="replace").splitlines():
            if line.startswith('{"bootstrap"'):
                self.bootstrap = json.loads(line)["bootstrap"]
        return bool(self.bootstrap)


def main() -> None:
    """Run the mock broker with Headrace's topics until SIGTERM or SIGINT, and print its address."""
    owner = Producer({"test.mock.num.brokers": 1})
    for topic in TOPICS:
        owner.list_topics(topic.name, timeout=10.0)
    brokers = owner.list_topics(timeout=10.0).brokers.values()
    print(json.dumps({"bootstrap": ",".join(f"{broker.host}:{broker.port}" for broker in brokers)}), flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
