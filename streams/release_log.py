"""The decisions on `model-releases`: who reads them takes in those that count, who writes them signs them."""

import logging
import time

from confluent_kafka import KafkaError, KafkaException, Message

from headrace.online_model.release_state import ReleaseState
from headrace.schemas import InvalidMessage, ModelRelease, encode
from headrace.schemas.topics import MODEL_RELEASES
from headrace.schemas.wire import headers
from headrace.streams import kafka, metrics
from headrace.streams.signed_records import open_record
from headrace.streams.signing import SIGNATURE_HEADER, Forged, SigningKey, TrustedKeys

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 10.0
COUNTS_TIMEOUT_S = 10.0


class ReleaseVoid(RuntimeError):
    """A decision that was published does not count, since another one was made at the same time, or its key is not trusted."""


class ReleaseLog:
    """Follows the decisions. `state` is what they add up to, `counted` those that count, oldest first.

    All that are there are read before it is made. With `trusted` keys only what one of them has signed counts. Whatever does not
    count is skipped, logged and counted by its reason. Raises KafkaException where the topic cannot be read.
    """

    def __init__(self, bootstrap: str, client_id: str, trusted: TrustedKeys | None = None) -> None:
        self.state = ReleaseState()
        self.counted: list[ModelRelease] = []
        self._trusted = trusted
        self._consumer = kafka.consumer(bootstrap, f"{client_id}-releases")
        low, end = kafka.watermarks(self._consumer, MODEL_RELEASES.name, 0)
        for record in kafka.records_before(self._consumer, MODEL_RELEASES, low, end, READ_TIMEOUT_S):
            self._take(record)

    def poll(self, timeout_s: float) -> bool:
        """Take in the next decision, waiting up to `timeout_s`; return whether one came that counts."""
        record = self._consumer.poll(timeout_s)
        return record is not None and kafka.is_record(record) and self._take(record)

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _take(self, record: Message) -> bool:
        try:
            release = open_record(ModelRelease, record.value() or b"", record.headers(), self._trusted)
        except (InvalidMessage, Forged) as error:
            reason, told = "forged" if isinstance(error, Forged) else "unreadable", str(error)
        else:
            reason, objection = "void", self.state.objection(release)
            if objection is None:
                self.state = self.state.after(release)
                self.counted.append(release)
                return True
            told = objection
        metrics.RELEASES_SKIPPED.labels(reason).inc()
        log.warning("a decision does not count", extra={"offset": record.offset(), "reason": told})
        return False


class ReleasePublisher:
    """Writes decisions, signed where there is a `key`."""

    def __init__(self, bootstrap: str, client_id: str, key: SigningKey | None = None) -> None:
        self._producer = kafka.producer(bootstrap, client_id)
        self._client_id = client_id
        self._key = key

    @property
    def key_id(self) -> str | None:
        """The key that decisions must name."""
        return self._key.key_id if self._key is not None else None

    def publish(self, release: ModelRelease) -> None:
        """Send a decision, which must name this publisher's key, and wait for its acknowledgement. Raises KafkaException.

        Whether it counts is known once it is read back.
        """
        value = encode(release)
        name = f"{release.model}-{release.sequence}-{release.action}"
        tags = headers(release, event_id=name, time_ms=release.decided_ms, source=self._client_id)
        if self._key is not None:
            tags.append((SIGNATURE_HEADER, self._key.sign(value)))
        self._producer.produce(MODEL_RELEASES.name, value, release.model, partition=0, headers=tags, on_delivery=kafka.must_arrive)
        if self._producer.flush(30.0):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the decision is not acknowledged after 30 s"))


def publish_and_wait(log_: ReleaseLog, publisher: ReleasePublisher, release: ModelRelease) -> None:
    """Publish a decision and wait until it counts. Raises ReleaseVoid where it does not."""
    publisher.publish(release)
    deadline = time.monotonic() + COUNTS_TIMEOUT_S
    while time.monotonic() < deadline:
        log_.poll(0.2)
        newest = log_.state.newest
        if newest is not None and newest.sequence >= release.sequence:
            if newest == release:
                return
            break
    raise ReleaseVoid(
        f"decision {release.sequence} ({release.action}) does not count: another one was made at the same moment, or its key is not "
        "trusted here; look with `headrace models list`, and try again"
    )
