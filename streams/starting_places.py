"""Where a feature worker begins to read its partitions, given what is committed and how far the online store has come."""

import logging
from collections.abc import Callable, Collection, Sequence

from confluent_kafka import Consumer, TopicPartition

from headrace.features.online_store import OnlineStore
from headrace.streams import kafka, metrics
from headrace.streams.record_places import source_of
from headrace.streams.restore import ForeignStore, restore, tail_start

log = logging.getLogger(__name__)


class StartingPlaces:
    """Finds where to begin, and restores what the store has lost altogether. `clock` gives milliseconds."""

    def __init__(
        self,
        bootstrap: str,
        group: str,
        store: OnlineStore,
        definitions: str,
        clock: Callable[[], int],
        *,
        from_events: bool = False,
    ) -> None:
        """With `from_events` all retained events are read again after a restore, not those of the last day alone."""
        self._bootstrap = bootstrap
        self._group = group
        self._store = store
        self._definitions = definitions
        self._clock = clock
        self._from_events = from_events

    def find(self, owned: Sequence[TopicPartition], behind: Collection[str]) -> tuple[list[TopicPartition], dict[str, int | None]]:
        """Return the places to begin at, and the positions that the store has reached, by source.

        That is what is committed, or before it where the store has not come so far. Partitions that are known to be `behind`,
        or of which more is committed than the store knows of, are restored first, if it knows nothing of them. Raises
        ForeignStore, KafkaException, RedisError, StoreBehind.
        """
        # Asked by another client: on the worker's own connection a question waits behind the open fetch, for half a second each.
        asking = kafka.consumer(self._bootstrap, "feature-worker-places", group=self._group)
        try:
            return self._find(asking, owned, behind)
        finally:
            asking.close()

    def _find(
        self, asking: Consumer, owned: Sequence[TopicPartition], behind: Collection[str]
    ) -> tuple[list[TopicPartition], dict[str, int | None]]:
        places = {source_of(place): place for place in owned}
        held = self._store.positions(list(places))
        committed = {source_of(place): place.offset for place in asking.committed(list(owned), timeout=30.0)}
        starts: dict[str, int] = {}
        lost: dict[str, TopicPartition] = {}
        for source, place in places.items():
            low, high = kafka.watermarks(asking, place.topic, place.partition)
            position, begun = held[source], max(low, committed[source])
            if position is not None and position >= high:
                raise ForeignStore(source, position, high)
            if position is None and (source in behind or begun > low):
                lost[source] = place
            starts[source] = begun if position is None else min(begun, position + 1)
        starts |= self._restored(asking, lost)
        # Told at once, or a partition of which nothing is read again would be taken for lost the next time too.
        reached = {source: starts[source] - 1 for source in lost}
        self._store.compare_and_set([], {source: (None, offset) for source, offset in reached.items()})
        return [TopicPartition(place.topic, place.partition, starts[source]) for source, place in places.items()], held | reached

    def _restored(self, asking: Consumer, lost: dict[str, TopicPartition]) -> dict[str, int]:
        """Restore the rows of lost partitions; return where their events are read from again."""
        starts: dict[str, int] = {}
        for number in sorted({place.partition for place in lost.values()}):
            restored = restore(self._bootstrap, self._store, number, definitions=self._definitions)
            metrics.ROWS_OF_OTHERS.inc(restored.passed_over)
            told = {"partition": number, "rows": restored.rows, "of_other_definitions": restored.passed_over}
            log.warning("rows restored from the changelogs", extra=told)
            everything = self._from_events or restored.passed_over > 0
            for source, place in lost.items():
                if place.partition == number:
                    starts[source] = tail_start(asking, place, self._clock(), everything)
        return starts
