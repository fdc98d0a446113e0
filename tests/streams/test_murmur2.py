"""Which partition a key belongs to is worked out as Kafka's own clients do it."""

import pytest

from headrace.features.murmur2 import murmur2, partition_of
from headrace.schemas.topics import CLICKS
from headrace.streams import kafka as clients
from headrace.streams.kafka import must_arrive

KEYS = ["a", "ab", "abc", "abcd", "42", "session:617", "user-with-a-long-name-of-37-characters", "Jürgen", "日本", *map(str, range(500))]


def test_the_hash_is_that_of_javas_client() -> None:
    # Of Kafka's own UtilsTest.
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    assert {data: murmur2(data) for data in known} == {data: hashed % 2**32 for data, hashed in known.items()}


@pytest.mark.usefixtures("fresh_topics")
def test_a_producer_puts_each_key_where_it_is_worked_out_to_go(kafka: str) -> None:
    producer = clients.producer(kafka, "murmur2-test")
    found: dict[str, int] = {}

    def delivered(error: object, record: object) -> None:
        must_arrive(error, record)  # type: ignore[arg-type]
        found[record.key().decode()] = record.partition()  # type: ignore[attr-defined]

    for key in KEYS:
        producer.produce(CLICKS.name, b"{}", key.encode(), on_delivery=delivered)
    assert producer.flush(30) == 0
    assert found == {key: partition_of(key.encode(), CLICKS.partitions) for key in KEYS}
    assert set(found.values()) == set(range(CLICKS.partitions))
