"""The subscriber: typed messages, each at least once, and no stop at what cannot be read."""

import pytest

from headrace.schemas import Click, Recommendation, wire
from headrace.schemas.topics import CLICKS, Topic
from headrace.streams import kafka as kafka_client
from headrace.streams.broker import TopicMissing
from headrace.streams.publisher import EventPublisher
from headrace.streams.subscriber import NotSubscribable, Subscriber, topic_of

pytestmark = pytest.mark.usefixtures("fresh_topics")


def publish(bootstrap: str, first: int, last: int) -> None:
    """One shopper, hence one partition and a fixed order."""
    with EventPublisher(bootstrap) as publisher:
        for number in range(first, last + 1):
            publisher.publish(Click(event_id=str(number), event_time_ms=number, item_id="lamp", user_id="ada"))


def read(subscriber: Subscriber[Click], count: int) -> list[int]:
    found = []
    while len(found) < count:
        message = subscriber.poll(20.0)
        assert message is not None, f"only {found} came"
        found.append(int(message.event_id))
    return found


def test_from_the_beginning_every_message_comes_with_its_type(kafka: str) -> None:
    publish(kafka, 1, 5)
    with Subscriber(kafka, Click, start="beginning") as subscriber:
        assert read(subscriber, 5) == [1, 2, 3, 4, 5]
        assert subscriber.poll(0.2) is None


def test_from_the_end_only_what_comes_later_is_seen(kafka: str) -> None:
    publish(kafka, 1, 5)
    with Subscriber(kafka, Click) as subscriber:
        publish(kafka, 6, 7)
        assert read(subscriber, 2) == [6, 7]


def test_iterating_yields_messages_as_they_come(kafka: str) -> None:
    publish(kafka, 1, 3)
    with Subscriber(kafka, "clicks", start="beginning") as subscriber:
        for count, message in enumerate(subscriber, start=1):
            assert isinstance(message, Click)
            if count == 3:
                break


def test_what_cannot_be_decoded_is_skipped_counted_and_told(kafka: str, caplog: pytest.LogCaptureFixture) -> None:
    producer = kafka_client.producer(kafka, "test")
    for value in (b"not json", None, b'{"type":"click","event_id":"1"}'):
        producer.produce(CLICKS.name, value, "ada")
    producer.flush(10.0)
    publish(kafka, 7, 7)
    with Subscriber(kafka, Click, start="beginning") as subscriber:
        assert read(subscriber, 1) == [7]
        assert subscriber.skipped == 3
    assert "at offset 0: $: not JSON" in caplog.text
    assert "tombstone" in caplog.text
    assert "event_time_ms" in caplog.text


def test_a_later_minor_versions_unknown_field_is_passed_over(kafka: str) -> None:
    producer = kafka_client.producer(kafka, "test")
    value = b'{"type":"click","event_id":"8","event_time_ms":1,"item_id":"a","user_id":"ada","mood":"good"}'
    producer.produce(CLICKS.name, value, "ada", headers=[("ce_dataschema", b"urn:headrace:click:1.7")])
    producer.flush(10.0)
    with Subscriber(kafka, Click, start="beginning") as subscriber:
        assert read(subscriber, 1) == [8]


def test_a_group_goes_on_after_the_last_message_that_was_done(kafka: str) -> None:
    publish(kafka, 1, 5)
    with Subscriber(kafka, Click, group="billing", start="beginning") as subscriber:
        assert read(subscriber, 3) == [1, 2, 3]
    # The third was handed out, but the next was never asked for: it may not have been worked on to its end.
    with Subscriber(kafka, Click, group="billing", start="beginning") as subscriber:
        assert read(subscriber, 3) == [3, 4, 5]
        assert subscriber.poll(0.2) is None
    publish(kafka, 6, 6)
    with Subscriber(kafka, Click, group="billing", start="beginning") as subscriber:
        assert read(subscriber, 1) == [6]


def test_without_a_group_every_subscriber_sees_every_message(kafka: str) -> None:
    publish(kafka, 1, 2)
    for _ in range(2):
        with Subscriber(kafka, Click, start="beginning") as subscriber:
            assert read(subscriber, 2) == [1, 2]


def test_a_topic_is_found_by_name_and_by_message_and_a_wrong_one_is_refused() -> None:
    assert topic_of("clicks") is topic_of(Click) is topic_of(CLICKS) is CLICKS
    assert topic_of(Recommendation).name == "recommendations"
    with pytest.raises(NotSubscribable, match=r"one of clicks, purchases, .* was expected; the value is 'clikcs'"):
        topic_of("clikcs")
    with pytest.raises(NotSubscribable, match="'model-weights' holds raw bytes"):
        topic_of("model-weights")


def test_a_topic_that_the_broker_does_not_have_is_named(kafka: str) -> None:
    with pytest.raises(TopicMissing, match=r"topic 'absent' does not exist at .*headrace topics create"):
        Subscriber(kafka, Topic("absent", "none", Click, "never created"))


def test_messages_are_read_back_as_they_were_sent(kafka: str) -> None:
    producer = kafka_client.producer(kafka, "test")
    message = wire.decode(
        Recommendation,
        b'{"recommendation_id":"r","shopper_id":"ada","items":[{"item_id":"a","score":0.5,"part":"popularity"}],"model_version":3,'
        b'"weights_sha256":"' + b"0" * 64 + b'","created_ms":5,"latency_ms":1.5,"cause":{"event_id":"e","published_ms":4}}',
    )
    producer.produce("recommendations", wire.encode(message), "ada")
    producer.flush(10.0)
    with Subscriber(kafka, Recommendation, start="beginning") as subscriber:
        assert subscriber.poll(20.0) == message
