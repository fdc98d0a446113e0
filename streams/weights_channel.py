"""The way of weights over Kafka: bytes in parts on `model-weights`, then one manifest on `model-updates` that points at them.

The manifest comes last, and only after every part is acknowledged, so whoever sees it can read what it names. It is signed, and names
the SHA-256 of the bytes: with the right key nothing else needs to be believed. Snapshots go to the weight store too.
"""

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from msgspec.structs import replace

from headrace.online_model.payload_layout import shapes_of
from headrace.online_model.weights import BadUpdate
from headrace.schemas import InvalidMessage, ModelUpdate
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import MODEL_UPDATES, MODEL_WEIGHTS
from headrace.schemas.wire import Headers, header, headers
from headrace.streams import kafka, metrics, tracing
from headrace.streams.chain import NOTHING, ChainFollower, KnownUpdates, Reason
from headrace.streams.signed_records import open_record, sign, signature_header
from headrace.streams.signing import Forged, SigningKey, TrustedKeys
from headrace.streams.weight_payloads import WeightPayloads
from headrace.streams.weight_store import WeightStore

log = logging.getLogger(__name__)

PART_BYTES = 768 * 1024
# Manifests read at first from the end of their topic; further back only where no snapshot is among them.
FIRST_LOOK = 500
STORED_ASKED = 3
STORE_PAUSE_S = 0.5
READ_TIMEOUT_S = 10.0


class WeightsPublisher:
    """Sends payloads and manifests, signed with the `signing` key. One learner at a time publishes a model.

    In the `store` the newest snapshots are kept, and those of the versions in `kept`.
    """

    def __init__(self, bootstrap: str, client_id: str, *, signing: SigningKey | None = None, store: WeightStore | None = None) -> None:
        # LZ4 makes weights 3% smaller, and a third more work for the broker.
        self._producer = kafka.producer(bootstrap, client_id, **{"compression.type": "none"})
        self._client_id = client_id
        self._signing = signing
        self._store = store
        self.kept: Collection[int] = ()

    def publish(self, update: ModelUpdate, payload: bytes, traceparent: str | None = None) -> ModelUpdate:
        """Send a payload and the manifest that announces it, and store it where it is a snapshot; return the manifest as sent.

        What the manifest says of the payload is filled in here. Raises KafkaException if any of it is lost; a store that fails is told in
        the log, and scorers are left with Kafka.
        """
        offset, parts = self.send_payload(update.model, payload)
        update = replace(
            update,
            payload_sha256=hashlib.sha256(payload).hexdigest(),
            payload_bytes=len(payload),
            payload_parts=parts,
            payload_offset=offset,
            shapes=shapes_of(payload),
        )
        return self.send_manifest(self._stored(update, payload), traceparent)

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

    def send_manifest(self, update: ModelUpdate, traceparent: str | None = None) -> ModelUpdate:
        """Announce an update whose payload has been sent, in the trace that led to it; return the manifest as sent.

        Raises KafkaException if it is lost.
        """
        update, value, signature = sign(update, self._signing)
        name = f"{update.model}-{update.version}-{update.kind}"
        tags = headers(update, event_id=name, time_ms=update.created_ms, source=self._client_id, traceparent=traceparent)
        tags += signature_header(signature)
        self._producer.produce(MODEL_UPDATES.name, value, update.model, partition=0, headers=tags, on_delivery=kafka.must_arrive)
        self._flush("the manifest")
        return update

    def store_snapshot(self, delta: ModelUpdate, payload: bytes) -> bool:
        """Put the whole of a version that went out as a delta into the store alone; return whether it is there."""
        update = replace(
            delta,
            kind="snapshot",
            base_version=delta.version,
            base_sha256=delta.weights_sha256,
            payload_sha256=hashlib.sha256(payload).hexdigest(),
            payload_bytes=len(payload),
            # It never was in the topic.
            payload_parts=1,
            payload_offset=0,
            shapes=shapes_of(payload),
        )
        return self._stored(update, payload).payload_uri is not None

    def _stored(self, update: ModelUpdate, payload: bytes) -> ModelUpdate:
        """Put a snapshot into the store, and return its manifest with the place where it lies."""
        if self._store is None or update.kind != "snapshot":
            return update
        stored = replace(update, payload_uri=self._store.place_of(update))
        try:
            signed, value, signature = sign(stored, self._signing)
            self._store.put(signed, payload, value, signature)
            self._store.prune(self.kept)
        except OSError as error:
            metrics.STORE_FAILURES.inc()
            log.error("a snapshot is not in the weight store", extra={"version": update.version, "reason": str(error)})
            return update
        return stored

    def _flush(self, what: str) -> None:
        if self._producer.flush(30.0):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{what} are not acknowledged after 30 s"))


class WeightsFollower:
    """Follows the chain of a model and hands each update with its payload to `apply`, in order.

    It begins with the shortest way to the newest version; with `from_version`, to which old answers are held, it hands over every update
    from the newest snapshot of at most that version on. With `trusted` keys only what one of them has signed is taken in. What does
    not fit is refused, counted and logged with its reason, and the newest good snapshot is looked for, in the `store` and the topic
    (`chain` has the rules). `may_fork` tells whether `apply` wants a delta that builds on another version than the newest. Give it a
    thread of its own.
    """

    def __init__(
        self,
        bootstrap: str,
        client_id: str,
        apply: Callable[[ModelUpdate, bytes], None],
        *,
        from_version: int | None = None,
        model: str = MODEL,
        trusted: TrustedKeys | None = None,
        store: WeightStore | None = None,
        may_fork: Callable[[ModelUpdate], bool] = lambda update: False,
    ) -> None:
        self._consumer = kafka.consumer(bootstrap, client_id)
        self._apply = apply
        self._model = model
        self._trusted = trusted
        self._store = store
        self._store_free_s = 0.0
        # Whether the store would have been asked, had it not been asked a moment before.
        self._owes_look = False
        self._payloads = WeightPayloads(bootstrap, client_id, store)
        # The traces of followed updates that came since the start, by version and kind.
        self._traces: dict[tuple[int, str], str] = {}
        self.chain = ChainFollower(self._payloads.of, self._take_in, refuse, snapshots=self._snapshots, may_fork=may_fork, unfit=BadUpdate)
        self.newest: ModelUpdate | None = None
        self.caught_up = threading.Event()
        self._start(from_version)

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
        self._payloads.close()

    def step(self, timeout_s: float) -> None:
        """Take in one record, waiting up to `timeout_s`, and apply what has become complete."""
        record = self._consumer.poll(timeout_s)
        self._payloads.is_quiet = record is None
        if record is not None:
            self._take(record)
        if self._owes_look and time.monotonic() >= self._store_free_s:
            self._owes_look = False
            self.chain.look_again()
        self.chain.advance()
        if not self.chain.is_on_way:
            self.caught_up.set()

    def _start(self, from_version: int | None) -> None:
        """Read the manifests that are there, and take up both topics where the way to the newest version begins."""
        # Asked before anything is read: the answer to such a question would wait behind an open fetch for half a second.
        low, end = kafka.watermarks(self._consumer, MODEL_UPDATES.name, 0)
        first, high = kafka.watermarks(self._consumer, MODEL_WEIGHTS.name, 0)
        look = FIRST_LOOK
        while True:
            start = max(low, end - look)
            known = self._read_manifests(start, end)
            way = self._way(known, from_version)
            if start == low or (way and (from_version is not None or way[-1].version == max(update.version for update in known))):
                break
            look *= 8
        self.newest = max(known, key=lambda update: (update.version, update.payload_offset), default=None)
        self.chain.begin(known, way, to_its_end=from_version is not None)
        begins = [update.payload_offset for update in way if first <= update.payload_offset < high]
        self._payloads.place = min(begins, default=high)
        self._consumer.assign([TopicPartition(MODEL_UPDATES.name, 0, end), TopicPartition(MODEL_WEIGHTS.name, 0, self._payloads.place)])

    def _read_manifests(self, start: int, end: int) -> list[ModelUpdate]:
        records = kafka.records_before(self._consumer, MODEL_UPDATES, start, end, READ_TIMEOUT_S)
        known = [self._manifest(record) for record in records if (record.offset() or 0) < end]
        return [update for update in known if update is not None]

    def _way(self, known: Sequence[ModelUpdate], from_version: int | None) -> list[ModelUpdate]:
        updates = KnownUpdates(len(known) + STORED_ASKED)
        if from_version is not None and not any(update.kind == "snapshot" and update.version <= from_version for update in known):
            stored = self._from_store(lambda update: update.version <= from_version)
            for update in reversed(stored):
                updates.add(update)
        for update in known:
            updates.add(update)
        return updates.walk(from_version) if from_version is not None else updates.way(NOTHING, self._snapshots(0))

    def _snapshots(self, version: int) -> list[ModelUpdate]:
        """Return the newest snapshots in the store that are newer than a version; none, for now, where it was asked a moment ago."""
        now_s = time.monotonic()
        if version and now_s < self._store_free_s:
            self._owes_look = True
            return []
        self._store_free_s = now_s + STORE_PAUSE_S
        return self._from_store(lambda update: update.version > version)

    def _from_store(self, wanted: Callable[[ModelUpdate], bool]) -> list[ModelUpdate]:
        if self._store is None:
            return []
        try:
            stored = (one.update for one in self._store.manifests() if one.update.model == self._model)
            return list(itertools.islice(filter(wanted, stored), STORED_ASKED))
        except OSError as error:
            log.warning("the weight store does not answer", extra={"reason": str(error)})
            return []

    def _take(self, record: Message) -> None:
        error = record.error()
        if error is not None:
            log.warning("the broker reports a passing fault", extra={"fault": error.str()})
        elif record.topic() == MODEL_WEIGHTS.name:
            self._payloads.put(record.offset() or 0, record.value() or b"")
        else:
            update = self._manifest(record)
            if update is not None:
                if self.newest is None or update.version >= self.newest.version:
                    self.newest = update
                trace = header(record.headers(), "traceparent")
                if trace is not None and tracing.is_followed(trace):
                    self._traces[update.version, update.kind] = trace
                self.chain.offer(update)

    def _manifest(self, record: Message) -> ModelUpdate | None:
        """Return the manifest of our model that a record holds; None, counted and logged, where it cannot be trusted."""
        try:
            update = open_record(ModelUpdate, record.value(), record.headers(), self._trusted)
        except (InvalidMessage, Forged) as error:
            reason = Reason.FORGED if isinstance(error, Forged) else Reason.BAD_MANIFEST
            metrics.SWAPS_REFUSED.labels(reason).inc()
            log.warning("manifest refused", extra={"offset": record.offset(), "reason": str(reason), "told": str(error)})
            return None
        return update if update.model == self._model else None

    def _take_in(self, update: ModelUpdate, payload: bytes) -> None:
        trace = self._traces.pop((update.version, update.kind), None)
        try:
            with tracing.span("swap", trace, kind="consumer", attributes={"headrace.model_version": update.version}):
                self._apply(update, payload)
        finally:
            self._payloads.forget_until(update)


def refuse(update: ModelUpdate, reason: str, told: str) -> None:
    """Count and log an update that was not taken in, or not when it came."""
    metrics.SWAPS_REFUSED.labels(reason).inc()
    log.warning("update refused", extra={"version": update.version, "kind": update.kind, "reason": str(reason), "told": told})
