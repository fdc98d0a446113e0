"""Publish a click and a purchase. HEADRACE_KAFKA names the broker."""

import os
import time
import uuid

from headrace.schemas import Click, OrderLine, Purchase
from headrace.streams.publisher import EventPublisher

now_ms = int(time.time() * 1000)
shoe = OrderLine(item_id="running-shoes-red-07", unit_price=89.9)
with EventPublisher(os.environ.get("HEADRACE_KAFKA", "127.0.0.1:9092"), source="example-shop") as publisher:
    publisher.publish(Click(event_id=f"click-{uuid.uuid4()}", event_time_ms=now_ms, item_id=shoe.item_id, user_id="ada"))
    publisher.publish(
        Purchase(event_id=f"buy-{uuid.uuid4()}", event_time_ms=now_ms, order_id="order-1", lines=[shoe], currency="EUR", user_id="ada")
    )
    publisher.flush()
    print(f"{publisher.acknowledged} events are acknowledged")
