"""Replay: the history of `clicks` and `purchases`, folded by the same functions into a shadow store beside the live one.

Neither live rows nor topics are touched. What an event does to its items is folded at once, without the topic `item-changes`. For
the workers that take the shadow over after a switch, it holds positions: where the replay ended in clicks and purchases, and where
`item-changes` ended before any event was read. Changes from there on either come from events that were replayed, and the item's row
knows them by the events' offsets, or follow upon them in order.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, Message, TopicPartition
from msgspec.structs import replace

from headrace.features.fingerprint import fingerprint
from headrace.features.folding import Arrival, RowFolder
from headrace.features.online_store import OnlineStore, StoreBehind
from headrace.features.place import Place
from headrace.features.shadow import Shadow, begin_generation, write_shadow
from headrace.schemas import Event, InvalidMessage, ItemChange, check_event
from headrace.schemas.topics import CLICKS, ITEM_CHANGES, PURCHASES, Topic
from headrace.schemas.wire import now_ms
from headrace.streams import kafka
from headrace.streams.record_places import event_of, offset_of, partition_of, place_of, source_of

COMPONENT = "feature-replay"
EVENTS = (CLICKS, PURCHASES)
LARGEST_BATCH = 5000
# A shadow that is this near to the end of the events is not brought nearer: the workers that take it over read the rest.
NEAR_ENOUGH = 2000


class ShadowInUse(RuntimeError):
    """The database of the shadow store holds something already."""


class ShadowLost(RuntimeError):
    """Redis has lost rows of the shadow store while they were made."""


@dataclass
class Replayed:
    """How far a replay has come. `events` counts records passed, `refused` those among them that were no fit events."""

    total: int = 0
    events: int = 0
    counted: int = 0
    repeated: int = 0
    late: int = 0
    refused: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds > 0 else 0.0


def replay(
    bootstrap: str,
    store: OnlineStore,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    definitions: str | None = None,
    progress: Callable[[Replayed], object] = lambda replayed: None,
    clock: Callable[[], int] = now_ms,
) -> Replayed:
    """Fold the events published from `from_ms` to before `to_ms` into an empty store; all that Kafka has where these are None.

    Without `to_ms` it also takes in what is published meanwhile. Raises ShadowInUse, ShadowLost, KafkaException, RedisError.
    """
    if store.client.dbsize():
        raise ShadowInUse("the database of the shadow store is not empty; give another number, or let --yes empty it")
    definitions = definitions or fingerprint()
    consumer = kafka.consumer(bootstrap, COMPONENT)
    try:
        # First of all, and before the events' ends: no change before these ends may come from an event that is not replayed.
        changes = _places(consumer, [ITEM_CHANGES], None, kafka.END)
        starts = _places(consumer, EVENTS, from_ms, kafka.BEGINNING)
        ends = _places(consumer, EVENTS, to_ms, kafka.END)
        shadow = Shadow(begun_ms=clock(), from_ms=from_ms, to_ms=to_ms)
        store.claim_definitions(definitions)
        write_shadow(store, shadow)
        begin_generation(store, f"{shadow.begun_ms}-{secrets.token_hex(4)}")
        work = _Replay(consumer, RowFolder(store), progress)
        work.take_in(starts, ends)
        while to_ms is None and _events_between(ends, latest := _places(consumer, EVENTS, None, kafka.END)) > NEAR_ENOUGH:
            work.take_in(ends, latest)
            ends = latest
        work.finish(ends | changes, store)
        write_shadow(store, replace(shadow, finished_ms=clock(), events=work.replayed.events))
    except StoreBehind as error:
        raise ShadowLost(f"Redis has lost rows of the shadow store ({error}); start the replay anew, with --yes") from error
    finally:
        consumer.close()
    return work.replayed


class _Replay:
    """Folds stretches of the history, one after the other."""

    def __init__(self, consumer: Consumer, folder: RowFolder, progress: Callable[[Replayed], object]) -> None:
        self.replayed = Replayed()
        self._consumer = consumer
        self._folder = folder
        self._progress = progress
        self._started_s = time.monotonic()
        # What a batch does to its items is stored along with the next one.
        self._changes: list[ItemChange] = []

    def take_in(self, starts: dict[str, int], ends: dict[str, int]) -> None:
        """Fold what lies from `starts` to before `ends`, by source."""
        self.replayed.total += _events_between(starts, ends)
        at = {source: offset for source, offset in starts.items() if offset < ends[source]}
        self._consumer.assign([partition_of(source, offset) for source, offset in at.items()])
        while at:
            records = kafka.next_batch(self._consumer, LARGEST_BATCH, 1.0)
            self._fold([record for record in records if offset_of(record) < ends[source_of(record)]])
            for place in self._consumer.position([partition_of(source, 0) for source in at]):
                # The position, not the record's offset: the last offsets may hold no record, but the mark of a transaction.
                source = source_of(place)
                reached = min(max(at[source], place.offset), ends[source])
                self.replayed.events += reached - at[source]
                at[source] = reached
            done = [source for source, offset in at.items() if offset >= ends[source]]
            if done:
                self._consumer.pause([partition_of(source, 0) for source in done])
            for source in done:
                del at[source]
            self._tell()

    def finish(self, ends: dict[str, int], store: OnlineStore) -> None:
        """Store what is left, and say up to where the store has come."""
        self._folder.take_in([], self._changes, {})
        held = self._folder.expected
        store.compare_and_set([], {source: (held.get(source), end - 1) for source, end in ends.items()})
        self._tell()

    def _fold(self, records: Sequence[Message]) -> None:
        arrivals: list[Arrival] = []
        reached: dict[str, int] = {}
        for record in records:
            place = place_of(record)
            reached[place.source] = place.offset
            try:
                arrivals.append((_event(record, place), place))
            except InvalidMessage:
                self.replayed.refused += 1
        taken = self._folder.take_in(arrivals, self._changes, reached)
        self._changes = [change for _, change in taken.changes]
        self.replayed.counted += taken.counted
        self.replayed.repeated += taken.repeated
        self.replayed.late += taken.late

    def _tell(self) -> None:
        self.replayed.seconds = time.monotonic() - self._started_s
        self._progress(self.replayed)


def _event(record: Message, place: Place) -> Event:
    event = event_of(record)
    # What lay in the future when it was published was refused then, though its time may have come since.
    check_event(event, place.published_ms)
    return event


def _places(consumer: Consumer, topics: Sequence[Topic], time_ms: int | None, otherwise: str) -> dict[str, int]:
    """Return for each partition the first offset published at `time_ms` or later, or its beginning or end where that is None."""
    found: dict[str, int] = {}
    for topic in topics:
        for number in kafka.partitions(consumer, topic):
            low, high = kafka.watermarks(consumer, topic.name, number)
            offset = low if otherwise == kafka.BEGINNING else high
            if time_ms is not None:
                [place] = consumer.offsets_for_times([TopicPartition(topic.name, number, time_ms)], timeout=30.0)
                offset = place.offset if place.offset >= 0 else high
            found[f"{topic.name}/{number}"] = offset
    return found


def _events_between(starts: dict[str, int], ends: dict[str, int]) -> int:
    return sum(max(0, end - starts[source]) for source, end in ends.items())
