"""All manifests that `model-updates` holds, read once."""

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from headrace.schemas import InvalidMessage, ModelUpdate
from headrace.schemas.topics import MODEL_UPDATES
from headrace.streams import kafka
from headrace.streams.signed_records import open_record
from headrace.streams.signing import Forged, TrustedKeys

READ_TIMEOUT_S = 10.0
READ_AT_ONCE = 5000


def read_manifests(bootstrap: str, client_id: str, trusted: TrustedKeys | None = None) -> list[ModelUpdate]:
    """Return the manifests, oldest first; with `trusted` keys only those that one of them has signed. Raises KafkaException.

    What cannot be read is left out: the scorers refuse it too, and tell of it.
    """
    consumer = kafka.consumer(bootstrap, f"{client_id}-manifests")
    found: list[ModelUpdate] = []
    try:
        position, end = kafka.watermarks(consumer, MODEL_UPDATES.name, 0)
        consumer.assign([TopicPartition(MODEL_UPDATES.name, 0, position)])
        while position < end:
            records = kafka.next_batch(consumer, READ_AT_ONCE, READ_TIMEOUT_S)
            if not records:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"model-updates cannot be read at offset {position}"))
            for record in records:
                position = (record.offset() or 0) + 1
                try:
                    found.append(open_record(ModelUpdate, record.value(), record.headers(), trusted))
                except (InvalidMessage, Forged):
                    continue
    finally:
        consumer.close()
    return found
