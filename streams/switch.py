"""Switching over: the rows of a shadow store become the live ones in one step, and the old ones lie in its place.

First they are sent to the changelogs, so that a later restore brings these. Where the shadow does not hold all history, what the
changelogs hold is deleted before, since a row of the past may have come further than its successor. Then the databases are exchanged.
Workers that run notice at their next write, or within a second, and go on from the shadow's positions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from confluent_kafka import Consumer, Producer

from headrace.features.fingerprint import fingerprint
from headrace.features.online_store import OnlineStore
from headrace.features.shadow import RowCounts, Shadow, count_rows, exchange, missing_from, read_shadow
from headrace.schemas import encode
from headrace.schemas.topics import CLICKS, ITEM_CHANGES, ITEM_FEATURES, PURCHASES, USER_FEATURES, Topic
from headrace.schemas.wire import now_ms
from headrace.streams import kafka
from headrace.streams.restore import DEFINITIONS_HEADER

COMPONENT = "feature-switch"
MAX_BEHIND = 10_000


class NotReadyToSwitch(RuntimeError):
    """The shadow store must not become the live one; the text says why and what to do."""


@dataclass(frozen=True)
class Switched:
    """What a switch has done. `behind` events are left for the workers to read; `left_behind` had rows in the old store only."""

    definitions_before: str | None
    definitions: str
    before: RowCounts
    after: RowCounts
    behind: int
    sent: int
    users_left_behind: int
    items_left_behind: int


def switch(
    bootstrap: str,
    live: OnlineStore,
    shadow: OnlineStore,
    number: int,
    *,
    definitions: str | None = None,
    max_behind: int = MAX_BEHIND,
    progress: Callable[[int, int], object] = lambda sent, total: None,
    clock: Callable[[], int] = now_ms,
) -> Switched:
    """Make the rows of `shadow`, which lie in database `number`, the live ones. `progress` is told of rows sent, of how many.

    Raises NotReadyToSwitch before anything is done, KafkaException, RedisError.
    """
    definitions = definitions or fingerprint()
    made = _require_complete(shadow, definitions, number)
    behind = _behind(bootstrap, shadow, made, number, max_behind)
    before, after, definitions_before = count_rows(live), count_rows(shadow), live.definitions()
    users = list(missing_from(shadow, live, live.users))
    items = list(missing_from(shadow, live, live.items))
    sender = _Sender(bootstrap, definitions, after.users + after.items, progress)
    if made.from_ms is not None:
        for user_row in live.scan_users():
            sender.send(USER_FEATURES, user_row.shopper_id, None)
        for item_row in live.scan_items():
            sender.send(ITEM_FEATURES, item_row.item_id, None)
    for topic, key, body in _rows(shadow):
        sender.send(topic, key, body)
    sender.finish()
    exchange(live, number, clock())
    return Switched(definitions_before, definitions, before, after, behind, sender.sent, len(users), len(items))


class _Sender:
    """Sends rows to their changelogs, as the worker that made them would have."""

    def __init__(self, bootstrap: str, definitions: str, total: int, progress: Callable[[int, int], object]) -> None:
        self.sent = 0
        self._producer: Producer = kafka.producer(bootstrap, COMPONENT, **{"linger.ms": 50})
        self._definitions = definitions
        self._total = total
        self._progress = progress

    def send(self, topic: Topic, key: str, body: bytes | None) -> None:
        """Send a row, or where `body` is None the word that there is none."""
        while True:
            try:
                self._producer.produce(
                    topic.name, body, key, headers=[(DEFINITIONS_HEADER, self._definitions)], on_delivery=kafka.must_arrive
                )
                break
            except BufferError:
                self._producer.poll(0.05)
        self.sent += body is not None
        if self.sent % 1000 == 0:
            self._producer.poll(0)
            self._progress(self.sent, self._total)

    def finish(self) -> None:
        """Wait until all are acknowledged. Raises NotReadyToSwitch where they are not."""
        if waiting := self._producer.flush(60.0):
            raise NotReadyToSwitch(f"{waiting} rows are not acknowledged by Kafka after 60 s; nothing is switched, try again")
        self._progress(self.sent, self._total)


def _rows(store: OnlineStore) -> Iterator[tuple[Topic, str, bytes]]:
    users = ((USER_FEATURES, row.shopper_id, encode(row)) for row in store.scan_users())
    items = ((ITEM_FEATURES, row.item_id, encode(row)) for row in store.scan_items())
    return chain(users, items)


def _require_complete(shadow: OnlineStore, definitions: str, number: int) -> Shadow:
    made = read_shadow(shadow)
    anew = f"headrace replay --into {number}"
    if made is None:
        raise NotReadyToSwitch(f"database {number} holds no shadow store; make one with: {anew}")
    if made.finished_ms is None:
        raise NotReadyToSwitch(f"the replay into database {number} was not finished, or still runs; start it anew with: {anew} --yes")
    if made.to_ms is not None:
        # Changes of later events lie in item-changes already, and would come before those of events that are still to be read.
        raise NotReadyToSwitch(
            f"the shadow in database {number} ends at --to, which is for trying only; make a whole one with: {anew} --yes"
        )
    held = shadow.definitions()
    if held != definitions:
        raise NotReadyToSwitch(
            f"the shadow in database {number} was made by feature definitions {held}, this version makes {definitions}; "
            f"switch with the version that made it, or make it anew with: {anew} --yes"
        )
    return made


def _behind(bootstrap: str, shadow: OnlineStore, made: Shadow, number: int, max_behind: int) -> int:
    """Return how many events came after the shadow's. Raises NotReadyToSwitch where they are too many, or not there any more."""
    consumer = kafka.consumer(bootstrap, COMPONENT)
    try:
        behind = sum(_news(consumer, shadow, topic, number) for topic in (CLICKS, PURCHASES))
        _news(consumer, shadow, ITEM_CHANGES, number)
    finally:
        consumer.close()
    if behind > max_behind:
        raise NotReadyToSwitch(
            f"{behind} events have come since the shadow in database {number} was made, and the workers would need time for them; "
            f"allow it with --max-behind {behind}, or make it anew with: headrace replay --into {number} --yes"
        )
    return behind


def _news(consumer: Consumer, shadow: OnlineStore, topic: Topic, number: int) -> int:
    sources = [f"{topic.name}/{part}" for part in kafka.partitions(consumer, topic)]
    news = 0
    for source, position in shadow.positions(sources).items():
        low, high = kafka.watermarks(consumer, topic.name, int(source.rpartition("/")[2]))
        if position is None:
            # Rows that were live once have none for a partition of which nothing had come.
            position = -1
        if position + 1 < low:
            raise NotReadyToSwitch(
                f"Kafka has deleted events of {source} that the shadow in database {number} does not hold yet; "
                f"make it anew with: headrace replay --into {number} --yes"
            )
        if position >= high:
            raise NotReadyToSwitch(
                f"the shadow in database {number} has come to offset {position} of {source}, but Kafka ends at {high}: it belongs to "
                "another Kafka, or that one was emptied"
            )
        news += high - position - 1
    return news
