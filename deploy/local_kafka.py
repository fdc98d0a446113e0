"""One real Kafka node on this machine, as a child process."""

import re
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.deploy.java import ClassArchive, find_java
from headrace.deploy.kafka_jars import KAFKA_VERSION, cache_folder, kafka_jars
from headrace.deploy.processes import ChildProcess, NotReady, accepts, free_port, is_free
from headrace.streams.kafka import LARGEST_MESSAGE

START_TIMEOUT_S = 60.0
FORMAT_TIMEOUT_S = 60.0
BIND_ATTEMPTS = 3
# Without the parallel collector, and without the second compiler, it starts in two thirds of the time. All wait while garbage is
# collected: with so little room for what is new that is 6 ms at a time, where the usual third of the memory would make it 18.
JVM_FLAGS = ("-Xmx512m", "-Xmn16m", "-XX:+UseSerialGC", "-Xshare:auto")
FIRST_COMPILER_ONLY = "-XX:TieredStopAtLevel=1"
LOG_FLAGS = tuple(
    f"-Dorg.slf4j.simpleLogger.{name}" for name in ("defaultLogLevel=warn", "showDateTime=true", "dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS")
)


class LocalKafka:
    """A Kafka of broker and controller in one, on 127.0.0.1 only. The constructor starts it and does not wait.

    `folder` keeps its data; a folder used before goes on where it ended, on the same port where that is free. One that is to be `busy`
    for minutes compiles what it runs often once more, as brokers in production do: after a minute an event takes it some 40% less.
    Raises KafkaJarsUnavailable, KafkaJarsError and JavaMissing where there is nothing to start.
    """

    version = f"Apache Kafka {KAFKA_VERSION} (KRaft)"

    def __init__(self, folder: Path, log: Path, say: Callable[[str], None] = print, *, busy: bool = False) -> None:
        self._folder = folder.absolute()
        self._log = log
        java = find_java()
        jars = ":".join(str(jar) for jar in kafka_jars(say))
        self._archive = ClassArchive(java, jars, cache_folder())
        flags = JVM_FLAGS if busy else (*JVM_FLAGS, FIRST_COMPILER_ONLY)
        self._java = [str(java.executable), *flags, *LOG_FLAGS, "-cp", jars]
        self._logs = self._folder / "logs"
        if not (self._logs / "meta.properties").exists():
            _copy_formatted(self._java, self._logs)
        log.unlink(missing_ok=True)
        self._spawn(_kept_port(self._folder / "port"))

    @property
    def bootstrap(self) -> str:
        """The address for clients."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the broker answers. Raises NotReady with the end of its log."""
        for attempt in range(BIND_ATTEMPTS):
            try:
                self._process.wait_until(self._answers, "Kafka", timeout_s)
                break
            except NotReady:
                # Between our look for a free port and Kafka's start somebody else may have taken it.
                if "Address already in use" not in self._log.read_text(errors="replace") or attempt == BIND_ATTEMPTS - 1:
                    raise
                self._log.unlink()
                self._spawn(free_port())
        (self._folder / "port").write_text(str(self._port))

    def stop(self, timeout_s: float = 20.0) -> None:
        """Let it close its files and end."""
        if self._process.stop(timeout_s):
            self._archive.keep()

    def _spawn(self, port: int) -> None:
        self._port = port
        properties = self._folder / "server.properties"
        properties.write_text(server_properties(port, free_port(), self._logs))
        self._process = ChildProcess([*self._java, self._archive.flag, "kafka.Kafka", str(properties)], self._log, folder=self._folder)

    def _answers(self) -> bool:
        # A client that is refused waits longer and longer before it tries again, so it is not asked before the port is open.
        if not accepts(self._port):
            return False
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            return bool(admin.list_topics(timeout=2.0).brokers)
        except KafkaException:
            return False


def server_properties(port: int, controller_port: int, logs: Path) -> str:
    """Return the configuration of a node that is alone."""
    return f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={logs}
auto.create.topics.enable=false
message.max.bytes={LARGEST_MESSAGE + 100_000}
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
log.segment.delete.delay.ms=1000
"""


def _kept_port(file: Path) -> int:
    """Return the port that was used before where it is free, else another."""
    if file.exists() and is_free(port := int(file.read_text())):
        return port
    return free_port()


def _copy_formatted(java: Sequence[str], logs: Path) -> None:
    """Make a formatted storage folder with ids of its own.

    Kafka's tool formats one for each user and version, which takes a second; the others are copies of that with new ids.
    """
    template = cache_folder() / f"kafka-{KAFKA_VERSION}-formatted"
    if not template.exists():
        _format(java, template)
    logs.parent.mkdir(parents=True, exist_ok=True)
    fresh = logs.with_name("logs.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(template, fresh)
    meta = fresh / "meta.properties"
    meta.write_text(re.sub(r"^(cluster\.id|directory\.id)=.*$", lambda match: f"{match[1]}={_new_id()}", meta.read_text(), flags=re.M))
    fresh.rename(logs)


def _format(java: Sequence[str], template: Path) -> None:
    with tempfile.TemporaryDirectory(dir=template.parent) as place:
        logs = Path(place) / "logs"
        properties = Path(place) / "server.properties"
        properties.write_text(server_properties(1, 2, logs))
        command = [*java, "kafka.tools.StorageTool", "format", "-t", _new_id(), "-c", str(properties)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
        if result.returncode != 0:
            raise NotReady(f"Kafka's storage tool ended with exit status {result.returncode}:\n{result.stdout}{result.stderr}")
        # Another process may have been faster; its folder is as good.
        if not template.exists():
            logs.rename(template)


def _new_id() -> str:
    # Kafka takes no id that begins with a dash.
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
