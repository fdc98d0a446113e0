"""Dead letters: a refused record is kept whole, with its place and the reason."""

import pytest
from confluent_kafka import Message

from headrace.schemas import Click, DeadLetter, InvalidMessage, wire
from headrace.schemas.topics import CLICKS, DEAD_LETTERS, TOPICS
from headrace.streams import kafka as kafka_client
from headrace.streams.dead_letters import RAW_LIMIT, DeadLetters, DeadLettersLost, dead_letter
from headrace.streams.subscriber import Subscriber

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def refusal(raw: bytes) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as error:
        wire.decode(Click, raw)
    return error.value


@pytest.mark.usefixtures("fresh_topics")
def test_a_refused_record_lies_whole_under_dead_letters_with_its_place_reason_and_trace(kafka: str) -> None:
    raw = b'{"type":"click","event_id":"1","event_time_ms":-5,"item_id":"a"}\xff'[:-1]
    producer = kafka_client.producer(kafka, "test")
    producer.produce(CLICKS.name, raw, "ada", headers=[("traceparent", TRACE.encode())])
    producer.flush(10.0)
    reader = kafka_client.consumer(kafka, "test")
    kafka_client.assign_all(reader, [CLICKS, DEAD_LETTERS])
    record = reader.poll(10.0)
    assert record is not None

    letters = DeadLetters(producer, "feature-worker", clock=lambda: 77)
    letters.refuse(record, refusal(raw))
    letters.confirm()

    assert letters.refused == 1
    kept = reader.poll(10.0)
    assert kept is not None
    assert kept.key() == b"clicks"
    assert wire.header(kept.headers(), "traceparent") == TRACE
    assert wire.header(kept.headers(), "ce_id") == f"clicks/{record.partition()}/0"
    letter = wire.decode(DeadLetter, kept.value(), kept.headers())
    assert (letter.topic, letter.partition, letter.offset) == ("clicks", record.partition(), 0)
    assert (letter.field, letter.raw, letter.component, letter.created_ms) == ("$.event_time_ms", raw, "feature-worker", 77)
    assert "the value is -5" in letter.reason
    reader.close()


@pytest.mark.usefixtures("fresh_topics")
def test_the_largest_letter_fits_its_topic_although_base64_grows_by_a_third(kafka: str) -> None:
    record = Message(topic="clicks", partition=1, offset=9, value=b"\xff" * 3_900_000)
    producer = kafka_client.producer(kafka, "test")
    letters = DeadLetters(producer, "test")
    letters.refuse(record, InvalidMessage("$." + "\x00" * 2000, "\x00" * 2000, "\x00" * 2000))
    letters.confirm()
    with Subscriber(kafka, DeadLetter, start="beginning") as subscriber:
        letter = subscriber.poll(20.0)
    assert letter is not None
    assert letter.raw == b"\xff" * RAW_LIMIT
    assert letter.reason.startswith(f"(the first {RAW_LIMIT} of 3900000 bytes are kept)")
    assert len(wire.encode(letter)) <= DEAD_LETTERS.max_bytes


def test_every_record_of_our_own_topics_is_kept_whole() -> None:
    assert max(topic.max_bytes + 1000 for topic in TOPICS if topic is not DEAD_LETTERS) < RAW_LIMIT


def test_an_empty_record_and_a_field_name_that_utf8_cannot_write_become_a_letter_too() -> None:
    letter = dead_letter(Message(topic="clicks", partition=0, offset=3), InvalidMessage("$.\ud800", None, "no"), "test", 1)
    assert (letter.raw, letter.field) == (b"", "$.?")
    assert wire.decode(DeadLetter, wire.encode(letter)) == letter


def test_a_letter_that_is_not_kept_forbids_the_commit() -> None:
    producer = kafka_client.producer("127.0.0.1:1", "test", **{"delivery.timeout.ms": 200, "log_level": 0})
    letters = DeadLetters(producer, "test")
    letters.refuse(Message(topic="clicks", partition=2, offset=3, value=b"x"), InvalidMessage("$", None, "no"))
    with pytest.raises(DeadLettersLost, match=r"1 failed: clicks/2/3: .*do not commit"):
        letters.confirm()
