"""The way of weights over Kafka: bytes in parts on `model-weights`, then one manifest on `model-updates` that points at them.

The manifest comes last, and only after every part is acknowledged, so whoever sees it can read what it names.
"""

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from headrace.online_model.weights import BadUpdate, MissingLink
from headrace.schemas import InvalidMessage, ModelUpdate, decode, encode
from headrace.schemas.topics import MODEL_UPDATES, MODEL_WEIGHTS
from headrace.schemas.wire import Headers, header, headers
from headrace.streams import kafka, metrics, tracing

log = logging.getLogger(__name__)

PART_BYTES = 768 * 1024
# Parts wait here for their manifest; twice the largest snapshot that is kept whole is plenty.
BYTES_WAITING = 512 << 20


class WeightsPublisher:
    """Sends payloads and manifests. One learner at a time publishes a model."""

    def __init__(self, bootstrap: str, client_id: str) -> None:
        self._producer = kafka.producer(bootstrap, client_id)
        self._client_id = client_id

    def send_payload(self, model: str, payload: bytes) -> tuple[int, int]:
        """Send the bytes in parts and return the offset of the first and their number. Raises KafkaException if one is lost."""
        parts = [payload[start : start + PART_BYTES] for start in range(0, len(payload), PART_BYTES)] or [b""]
        offsets: list[int] = []

        def placed(error: KafkaError | None, record: Message) -> None:
            if error is not None:
                raise KafkaException(error)
            offset = record.offset()
            if offset is not None:
                offsets.append(offset)

        name = hashlib.sha256(payload).hexdigest()
        for number, part in enumerate(parts):
            tags: Headers = [("payload_sha256", name), ("part", str(number)), ("parts", str(len(parts)))]
            while True:
                try:
                    self._producer.produce(MODEL_WEIGHTS.name, part, model, partition=0, headers=tags, on_delivery=placed)
                    break
                except BufferError:
                    # The weights are larger than the producer's buffer: go on as parts are acknowledged.
                    self._producer.poll(0.1)
        self._flush("the parts of the weights")
        # One idempotent producer keeps their order, but another learner's parts may lie between: then offsets do not follow on.
        if offsets != list(range(min(offsets), min(offsets) + len(parts))):
            raise KafkaException(KafkaError(KafkaError._CONFLICT, "another learner writes to model-weights; only one may publish a model"))
        return offsets[0], len(parts)

    def send_manifest(self, update: ModelUpdate, traceparent: str | None = None) -> None:
        """Announce an update whose payload has been sent, in the trace that led to it. Raises KafkaException if it is lost."""
        name = f"{update.model}-{update.version}-{update.kind}"
        tags = headers(update, event_id=name, time_ms=update.created_ms, source=self._client_id, traceparent=traceparent)
        self._producer.produce(MODEL_UPDATES.name, encode(update), update.model, partition=0, headers=tags, on_delivery=kafka.must_arrive)
        self._flush("the manifest")

    def _flush(self, what: str) -> None:
        if self._producer.flush(30.0):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{what} are not acknowledged after 30 s"))


class WeightsFollower:
    """Follows the chain from the newest snapshot on, or the newest of at most `from_version`, and hands each update with its
    payload to `apply`, in order.

    What does not fit is refused, counted and logged; the next snapshot brings the follower back. Give it a thread of its own.
    """

    def __init__(
        self, bootstrap: str, client_id: str, apply: Callable[[ModelUpdate, bytes], None], *, from_version: int | None = None
    ) -> None:
        self._consumer = kafka.consumer(bootstrap, client_id)
        self._apply = apply
        self._from_version = from_version
        self._version = -1
        self._lost = False
        self._parts: OrderedDict[int, bytes] = OrderedDict()
        self._bytes_waiting = 0
        self._manifests: list[ModelUpdate] = []
        # The traces of followed updates that came since the start, by version and kind.
        self._traces: dict[tuple[int, str], str] = {}
        self.newest: ModelUpdate | None = None
        self.caught_up = threading.Event()
        self._start()

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set."""
        try:
            while not stop.is_set():
                self.step(0.1)
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def step(self, timeout_s: float) -> None:
        """Take in one record, waiting up to `timeout_s`, and apply what has become complete."""
        record = self._consumer.poll(timeout_s)
        if record is not None:
            self._take(record)
        while self._manifests and self._complete(self._manifests[0]):
            self._behind -= 1
            self._handle(self._manifests.pop(0))
        if record is None and self._manifests and self._out_of_reach(self._manifests[0]):
            self._behind -= 1
            update = self._manifests.pop(0)
            metrics.SWAPS_REFUSED.labels("missing_parts").inc()
            log.warning("update refused", extra={"version": update.version, "kind": update.kind, "reason": "its bytes are not there"})
        if self._behind <= 0:
            self.caught_up.set()

    def _start(self) -> None:
        """Read the manifests that are there, and take up both topics from the newest snapshot on."""
        # Asked before anything is read: the answer to such a question would wait behind an open fetch for half a second.
        end = kafka.watermarks(self._consumer, MODEL_UPDATES.name, 0)[1]
        low, high = kafka.watermarks(self._consumer, MODEL_WEIGHTS.name, 0)
        places = kafka.assign_all(self._consumer, [MODEL_UPDATES])
        known: list[ModelUpdate] = []
        position = places[0].offset
        while position < end:
            record = self._consumer.poll(10.0)
            if record is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"model-updates cannot be read at offset {position}"))
            if record.error() is None:
                position = (record.offset() or 0) + 1
                update = _manifest(record)
                if update is not None:
                    known.append(update)
                    self.newest = update
        limit = self._from_version
        snapshots = [
            place for place, update in enumerate(known) if update.kind == "snapshot" and (limit is None or update.version <= limit)
        ]
        # After a rollback the stable version comes whole once more; whoever wants an older version begins before what was withdrawn.
        snapshot = max(snapshots, key=lambda place: place if limit is None else (known[place].version, -place), default=None)
        self._manifests = known[snapshot:] if snapshot is not None else []
        self._behind = len(self._manifests)
        first = self._manifests[0].payload_offset if self._manifests else high
        self._consumer.assign(
            [TopicPartition(MODEL_UPDATES.name, 0, max(end, position)), TopicPartition(MODEL_WEIGHTS.name, 0, max(low, first))]
        )

    def _take(self, record: Message) -> None:
        error = record.error()
        if error is not None:
            log.warning("the broker reports a passing fault", extra={"fault": error.str()})
        elif record.topic() == MODEL_WEIGHTS.name:
            value = record.value() or b""
            self._parts[record.offset() or 0] = value
            self._bytes_waiting += len(value)
            while self._bytes_waiting > BYTES_WAITING:
                self._bytes_waiting -= len(self._parts.popitem(last=False)[1])
        else:
            update = _manifest(record)
            if update is not None:
                self._manifests.append(update)
                self.newest = update
                trace = header(record.headers(), "traceparent")
                if trace is not None and tracing.is_followed(trace):
                    self._traces[update.version, update.kind] = trace

    def _complete(self, update: ModelUpdate) -> bool:
        wanted = range(update.payload_offset, update.payload_offset + update.payload_parts)
        if all(offset in self._parts for offset in wanted):
            return True
        # Parts arrive in order: once a later one is here, a missing one will not come any more.
        return any(offset >= wanted.stop for offset in self._parts)

    def _out_of_reach(self, update: ModelUpdate) -> bool:
        """Whether the parts of an update can never come: the topic has dropped them already, or never held them."""
        try:
            low, high = kafka.watermarks(self._consumer, MODEL_WEIGHTS.name, 0)
        except KafkaException as error:
            # Not known while the broker is away; asked again at the next step.
            log.warning("the broker reports a passing fault", extra={"fault": error.args[0].str()})
            return False
        return update.payload_offset < low or update.payload_offset + update.payload_parts > high

    def _handle(self, update: ModelUpdate) -> None:
        payload = b"".join(
            self._parts.get(offset, b"") for offset in range(update.payload_offset, update.payload_offset + update.payload_parts)
        )
        for offset in [offset for offset in self._parts if offset < update.payload_offset + update.payload_parts]:
            self._bytes_waiting -= len(self._parts.pop(offset))
        if update.version <= self._version and not self._lost:
            return
        trace = self._traces.pop((update.version, update.kind), None)
        try:
            with tracing.span("swap", trace, kind="consumer", attributes={"headrace.model_version": update.version}):
                self._apply(update, payload)
        except BadUpdate as error:
            self._lost = True
            metrics.SWAPS_REFUSED.labels("missing_link" if isinstance(error, MissingLink) else "bad_update").inc()
            log.warning("update refused", extra={"version": update.version, "kind": update.kind, "reason": str(error)})
            return
        self._lost = False
        self._version = update.version


def _manifest(record: Message) -> ModelUpdate | None:
    try:
        return decode(ModelUpdate, record.value(), record.headers())
    except InvalidMessage as error:
        metrics.SWAPS_REFUSED.labels("bad_manifest").inc()
        log.warning("manifest refused", extra={"offset": record.offset(), "reason": str(error)})
        return None
