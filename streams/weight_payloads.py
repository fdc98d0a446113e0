"""The bytes of updates: parts that have come from `model-weights` and wait for their manifest, and where to find those that have not.

A manifest names the offsets of its parts. They are read as they come; what was passed over, or came damaged, is looked for in the weight
store, and once more in the topic.
"""

import logging
import time
from collections import OrderedDict

from confluent_kafka import Consumer, KafkaException, TopicPartition

from headrace.schemas import ModelUpdate
from headrace.schemas.topics import MODEL_WEIGHTS
from headrace.streams import kafka
from headrace.streams.chain import NOT_YET, NotYet
from headrace.streams.weight_store import WeightStore

log = logging.getLogger(__name__)

# Parts wait here for their manifest; twice the largest snapshot that is kept whole is plenty.
BYTES_WAITING = 512 << 20
FETCH_TIMEOUT_S = 20.0


class WeightPayloads:
    """Gathers parts and hands over payloads. `place` is the offset that is read next by whoever calls `put`.

    A reader of its own, made when it is first needed, looks for what has been passed over.
    """

    def __init__(self, bootstrap: str, client_id: str, store: WeightStore | None = None) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._store = store
        self._reader: Consumer | None = None
        self._parts: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self.place = 0
        # Whether nothing comes at the moment: then it is worth asking whether what is missing can come at all.
        self.is_quiet = False

    def put(self, offset: int, value: bytes) -> None:
        """Keep a part that has come."""
        self._parts[offset] = value
        self._bytes += len(value)
        self.place = max(self.place, offset + 1)
        while self._bytes > BYTES_WAITING:
            self._bytes -= len(self._parts.popitem(last=False)[1])

    def forget_until(self, update: ModelUpdate) -> None:
        """Drop the parts of an update that is done with, and those before it."""
        for offset in [offset for offset in self._parts if offset < _end_of(update)]:
            self._bytes -= len(self._parts.pop(offset))

    def of(self, update: ModelUpdate, fresh: bool) -> bytes | NotYet | None:
        """Return the bytes of an update as `chain.PayloadOf` tells; they are not checked."""
        if fresh:
            return self._elsewhere(update)
        wanted = range(update.payload_offset, _end_of(update))
        if all(offset in self._parts for offset in wanted):
            return b"".join(self._parts[offset] for offset in wanted)
        # Parts arrive in order: once a later one is here, a missing one will not come any more.
        if self.place >= wanted.stop or (self.is_quiet and not self._is_in_topic(update)):
            return self._elsewhere(update)
        return NOT_YET

    def close(self) -> None:
        """Let go of Kafka."""
        if self._reader is not None:
            self._reader.close()

    def _elsewhere(self, update: ModelUpdate) -> bytes | None:
        if self._store is not None and update.kind == "snapshot":
            try:
                payload = self._store.payload(update)
            except OSError as error:
                log.warning("the weight store does not answer", extra={"reason": str(error)})
            else:
                if payload is not None:
                    return payload
        try:
            return self._read_again(update) if self._is_in_topic(update) else None
        except KafkaException as error:
            log.warning("the broker reports a passing fault", extra={"fault": error.args[0].str()})
            return None

    def _is_in_topic(self, update: ModelUpdate) -> bool:
        """Whether the topic holds the parts of an update, or may: that is not known while the broker is away."""
        try:
            low, high = kafka.watermarks(self._own_reader(), MODEL_WEIGHTS.name, 0)
        except KafkaException as error:
            log.warning("the broker reports a passing fault", extra={"fault": error.args[0].str()})
            return True
        return low <= update.payload_offset and _end_of(update) <= high

    def _read_again(self, update: ModelUpdate) -> bytes | None:
        reader = self._own_reader()
        reader.assign([TopicPartition(MODEL_WEIGHTS.name, 0, update.payload_offset)])
        deadline = time.monotonic() + FETCH_TIMEOUT_S
        parts: dict[int, bytes] = {}
        try:
            while len(parts) < update.payload_parts and time.monotonic() < deadline:
                record = reader.poll(0.5)
                if record is None or record.error() is not None:
                    continue
                offset = record.offset() or 0
                if offset >= _end_of(update):
                    break
                parts[offset] = record.value() or b""
        finally:
            reader.unassign()
        return b"".join(parts[offset] for offset in sorted(parts)) if parts else None

    def _own_reader(self) -> Consumer:
        if self._reader is None:
            self._reader = kafka.consumer(self._bootstrap, f"{self._client_id}-again")
        return self._reader


def _end_of(update: ModelUpdate) -> int:
    return update.payload_offset + update.payload_parts
