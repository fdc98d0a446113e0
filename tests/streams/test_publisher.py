"""The publisher: nothing unfit is sent, nothing is lost in silence."""

import asyncio
import math
import socket
import threading
from typing import Any

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas import Attribution, Click, InvalidMessage, OrderLine, Purchase, shopper_id, wire
from headrace.schemas.topics import CLICKS, PURCHASES, Topic
from headrace.streams import kafka as kafka_client
from headrace.streams.outgoing import outgoing
from headrace.streams.publisher import BufferFull, EventPublisher, PublishError, UndeliveredEvents

NOW_MS = 1_760_000_000_000
LINE = OrderLine(item_id="tent")


def click(number: int = 1, **fields: Any) -> Click:
    return Click(**({"event_id": f"click-{number}", "event_time_ms": NOW_MS, "item_id": "lamp", "user_id": "ada"} | fields))


def purchase(**fields: Any) -> Purchase:
    base = {"event_id": "buy-1", "event_time_ms": NOW_MS, "order_id": "o-1", "lines": [LINE], "currency": "EUR", "user_id": "ada"}
    return Purchase(**(base | fields))


def records(bootstrap: str, topic: Topic, count: int) -> list[Message]:
    reader = kafka_client.consumer(bootstrap, "test-reader")
    try:
        kafka_client.assign_all(reader, [topic])
        found: list[Message] = []
        while len(found) < count:
            record = reader.poll(10.0)
            assert record is not None, f"only {len(found)} of {count} records came"
            assert record.error() is None
            found.append(record)
        assert reader.poll(0.3) is None
        return found
    finally:
        reader.close()


@pytest.fixture
def dead_broker() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.usefixtures("fresh_topics")
def test_clicks_and_purchases_go_to_their_topics_keyed_by_shopper_with_cloudevents_headers(kafka: str) -> None:
    guest = purchase(user_id=None, session_id="s-9")
    with EventPublisher(kafka, source="my-shop") as publisher:
        publisher.publish(click())
        publisher.publish(guest)
        publisher.flush()
        assert (publisher.acknowledged, publisher.failed, publisher.waiting) == (2, 0, 0)
    [sent] = records(kafka, CLICKS, 1)
    assert sent.key() == b"ada"
    assert wire.decode(Click, sent.value(), sent.headers()) == click()
    names = {name: value.decode() for name, value in sent.headers() or []}
    assert names["ce_id"] == "click-1"
    assert names["ce_source"] == "my-shop"
    assert names["ce_type"] == "headrace.click.v1"
    assert names["ce_time"] == "2025-10-09T08:53:20.000Z"
    [bought] = records(kafka, PURCHASES, 1)
    assert bought.key() == shopper_id(guest).encode() == b"session:s-9"


def test_a_trace_is_handed_on_and_a_broken_one_replaced() -> None:
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert wire.header(outgoing(click(), "shop", NOW_MS, good).headers, "traceparent") == good
    replaced = wire.header(outgoing(click(), "shop", NOW_MS, "nonsense\r\nx").headers, "traceparent")
    assert replaced is not None
    assert replaced.startswith("00-")
    assert len(replaced) == len(good)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (click(item_id=""), "$.item_id"),
        (click(item_id="a\nb"), "$.item_id"),
        (click(item_id="x" * 129), "$.item_id"),
        (click(event_id=7), "$.event_id"),
        (click(event_time_ms=-1), "$.event_time_ms"),
        (click(event_time_ms=True), "$.event_time_ms"),
        (click(event_time_ms=2**70), "$.event_time_ms"),
        (click(action="buy"), "$.action"),
        (click(price=math.nan), "$.price"),
        (click(price=-math.inf), "$.price"),
        (click(price="9"), "$.price"),
        (click(category=object()), "$.category"),
        (click(item_id="\ud800"), "$.item_id"),
        (click(attribution=Attribution(position=-1)), "$.attribution.position"),
        (click(user_id=None), "$.user_id"),
        (click(user_id="session:9"), "$.user_id"),
        (click(event_time_ms=NOW_MS + 3_600_000), "$.event_time_ms"),
        (purchase(lines=[]), "$.lines"),
        (purchase(lines=[LINE, OrderLine(item_id="tent", quantity=0)]), "$.lines[1].quantity"),
        (purchase(lines=[LINE, OrderLine(item_id="tent", unit_price=math.nan)]), "$.lines[1].unit_price"),
        (purchase(currency="euro"), "$.currency"),
        (click(item_id="x" * 1_000_001), "$"),
        ({"type": "click"}, "$"),
        (LINE, "$"),
    ],
)
def test_an_event_built_by_hand_is_refused_with_its_field_before_anything_is_sent(event: Any, field: str, dead_broker: str) -> None:
    with EventPublisher(dead_broker, clock=lambda: NOW_MS) as publisher:
        with pytest.raises(InvalidMessage) as refusal:
            publisher.publish(event)
        assert publisher.waiting == 0
    assert refusal.value.field == field


def test_a_refusal_names_the_value() -> None:
    with pytest.raises(InvalidMessage, match=r"\$\.price: .*the value is -5\.0"):
        outgoing(click(price=-5.0), "shop", NOW_MS)
    with pytest.raises(InvalidMessage, match="is 1000096 bytes as JSON, at most 1000000 are allowed on 'clicks'"):
        outgoing(click(item_id="x" * 1_000_000), "shop", NOW_MS)


@given(
    st.builds(
        Click,
        event_id=st.text(max_size=5),
        event_time_ms=st.integers(-5, NOW_MS * 2),
        item_id=st.text(max_size=130),
        user_id=st.none() | st.text(max_size=5),
        session_id=st.none() | st.text(max_size=5),
        price=st.none() | st.floats() | st.integers(-5, 5),
        category=st.none() | st.text(max_size=5),
    )
)
def test_what_is_sent_reads_back_as_the_very_same_event(event: Click) -> None:
    try:
        record = outgoing(event, "shop", NOW_MS)
    except InvalidMessage:
        return
    assert wire.decode(Click, record.value, record.headers) == event
    assert record.key == shopper_id(event).encode()


def test_a_full_buffer_is_told_after_the_time_out_with_the_address(dead_broker: str) -> None:
    publisher = EventPublisher(dead_broker, max_buffered=3)
    for number in range(3):
        publisher.publish(click(number))
    with pytest.raises(BufferFull, match=f"3 events wait for {dead_broker}.*max_buffered is 3"):
        publisher.publish(click(4), timeout_s=0.2)
    with pytest.raises(UndeliveredEvents):
        publisher.close(0.0)


def test_flush_names_how_many_events_were_lost_and_why_and_on_error_hears_of_each(dead_broker: str) -> None:
    lost: list[tuple[str, str]] = []
    publisher = EventPublisher(
        dead_broker, on_error=lambda event_id, reason: lost.append((event_id, reason)), **{"delivery.timeout.ms": 300}
    )
    for number in range(3):
        publisher.publish(click(number))
    with pytest.raises(UndeliveredEvents, match=r"3 events could not be delivered .3 x Local: Message timed out") as error:
        publisher.flush(10.0)
    assert (error.value.failed, error.value.waiting, publisher.failed) == (3, 0, 3)
    assert [event_id for event_id, _ in lost] == ["click-0", "click-1", "click-2"]
    publisher.flush(1.0)
    publisher.close()


def test_failures_are_counted_without_any_further_call(dead_broker: str) -> None:
    told = threading.Event()
    publisher = EventPublisher(dead_broker, on_error=lambda *_: told.set(), **{"delivery.timeout.ms": 200})
    publisher.publish(click())
    assert told.wait(10.0)
    with pytest.raises(UndeliveredEvents):
        publisher.close()


def test_closing_gives_up_what_still_waits_and_tells_of_each_event(dead_broker: str) -> None:
    lost: list[str] = []
    publisher = EventPublisher(dead_broker, on_error=lambda event_id, _: lost.append(event_id))
    publisher.publish(click(1))
    publisher.publish(click(2))
    with pytest.raises(UndeliveredEvents, match="2 events are not acknowledged yet") as error:
        publisher.close(0.1)
    assert error.value.waiting == 2
    assert lost == ["click-1", "click-2"]
    with pytest.raises(PublishError, match="closed"):
        publisher.publish(click(3))
    publisher.close()


def test_an_on_error_that_fails_stops_no_count(dead_broker: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event_id: str, _: str) -> None:
        raise RuntimeError(event_id)

    publisher = EventPublisher(dead_broker, on_error=broken)
    for number in range(3):
        publisher.publish(click(number))
    with pytest.raises(UndeliveredEvents):
        publisher.close(0.0)
    assert publisher.failed == 3
    assert caplog.text.count("on_error failed for event") == 3


def test_the_callers_own_error_is_not_hidden_by_ours(dead_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = EventPublisher(dead_broker, **{"delivery.timeout.ms": 200})

    def publish_and_fail() -> None:
        with publisher:
            publisher.publish(click())
            raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        publish_and_fail()
    assert publisher.failed == 1


@pytest.mark.usefixtures("fresh_topics")
def test_threads_may_share_a_publisher(kafka: str) -> None:
    with EventPublisher(kafka, max_buffered=50) as publisher:

        def work(worker: int) -> None:
            for number in range(250):
                publisher.publish(click(worker * 1000 + number, user_id=f"user-{worker}"))

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        publisher.flush()
        assert publisher.acknowledged == 1000
    found = [wire.decode(Click, record.value()).event_id for record in records(kafka, CLICKS, 1000)]
    assert len(set(found)) == 1000
    first = [event_id for event_id in found if len(event_id.removeprefix("click-")) < 4]
    assert first == [f"click-{number}" for number in range(250)], "a shopper's events keep their order"


@pytest.mark.usefixtures("fresh_topics")
def test_an_awaited_batch_gets_one_outcome_for_each_event_in_order(kafka: str) -> None:
    async def publish() -> list[tuple[str, str, str | None]]:
        with EventPublisher(kafka) as publisher:
            assert await publisher.publish_and_wait([]) == []
            outcomes = await publisher.publish_and_wait([click(1), click(2, item_id=""), purchase()])
            return [(outcome.event_id, outcome.status, outcome.field) for outcome in outcomes]

    assert asyncio.run(publish()) == [
        ("click-1", "acknowledged", None),
        ("click-2", "refused", "$.item_id"),
        ("buy-1", "acknowledged", None),
    ]
    records(kafka, CLICKS, 1)
    records(kafka, PURCHASES, 1)


@pytest.mark.usefixtures("fresh_topics")
def test_many_requests_may_wait_at_once(kafka: str) -> None:
    async def publish() -> int:
        with EventPublisher(kafka) as publisher:
            batches = [publisher.publish_and_wait([click(place * 10 + number) for number in range(10)]) for place in range(100)]
            return sum(outcome.status == "acknowledged" for batch in await asyncio.gather(*batches) for outcome in batch)

    assert asyncio.run(publish()) == 1000


def test_without_a_broker_a_waiting_request_is_told_what_is_unknown_and_what_found_no_room(dead_broker: str) -> None:
    publisher = EventPublisher(dead_broker, max_buffered=2)
    outcomes = asyncio.run(publisher.publish_and_wait([click(1), click(2), click(3)], timeout_s=0.2))
    assert [outcome.status for outcome in outcomes] == ["unacknowledged", "unacknowledged", "buffer_full"]
    assert outcomes[0].reason == "no answer from the broker within 0.2 s"
    with pytest.raises(UndeliveredEvents):
        publisher.close(0.0)
