"""The recommender: from changed user rows to ranked lists on `recommendations`.

It reads the changelog `user-features` twice over. All partitions, from the beginning and outside of any group, teach the
memories, so that every recommender knows the whole shop. The group `recommender` only shares out who answers for which
partition, and keeps how far that has come; its own reading is paused.
"""

import hashlib
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.online_model.list_outcomes import MadeList
from headrace.online_model.ranker import RankedItem
from headrace.schemas import Cause, InvalidMessage, Recommendation, RecommendedItem, UserRow, decode, encode
from headrace.schemas.topics import RECOMMENDATIONS, USER_FEATURES
from headrace.schemas.wire import header, headers, now_ms
from headrace.streams import kafka, metrics, tracing
from headrace.streams.dead_letters import DeadLetters
from headrace.streams.lag import lag_by_topic
from headrace.streams.lifetime import collect_garbage_seldom
from headrace.streams.live_scorer import LiveScorer
from headrace.streams.outcome_reports import OutcomeReports
from headrace.streams.ranking_channel import PUBLISH_EVERY_S, RankingPublisher
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.weight_store import WeightStore

log = logging.getLogger(__name__)

COMPONENT = "recommender"
LIST_LENGTH = 20
# Large, so that whoever comes back several times while we are behind is answered once.
LARGEST_BATCH = 1000
PATIENCE_MS = 5
SCORED_AT_ONCE = 64
# Each test costs as much as an answer; of a shop with fewer steps, all are tested.
TESTED_PER_S, MOST_TESTS_DUE = 250, 16.0
# The thread that swaps weights gives its turn away some sixty times in a swap, and at the usual 5 ms would wait as long for each next one.
SWITCH_INTERVAL_S = 0.0002
COMMIT_EVERY_S = 0.5
FIRST_PARTITION = 0


class Recommender:
    """Publishes the newest list of each shopper whose row has changed; any number of recommenders share the partitions.

    When rows come faster than lists can be made, only the newest row of a shopper in a batch is answered.
    """

    def __init__(
        self,
        bootstrap: str,
        device: str = "auto",
        instance: str = "",
        clock: Callable[[], int] = now_ms,
        *,
        trusted: TrustedKeys | None = None,
        store: WeightStore | None = None,
        signing: SigningKey | None = None,
    ) -> None:
        self.live = LiveScorer(bootstrap, COMPONENT, device, trusted=trusted, store=store)
        self._ranking = RankingPublisher(bootstrap, COMPONENT, instance or COMPONENT, signing)
        self._ranking_due_s = time.monotonic() + PUBLISH_EVERY_S
        self.reports = OutcomeReports(bootstrap, instance or COMPONENT, clock, signing=signing)
        self._clock = clock
        self._producer = kafka.producer(bootstrap, COMPONENT)
        self._dead_letters = DeadLetters(self._producer, COMPONENT)
        self._random = random.Random(1)
        self._tests_due, self._tested_s = MOST_TESTS_DUE, time.monotonic()
        self._rows = kafka.consumer(bootstrap, f"{COMPONENT}-memory", patience_ms=PATIENCE_MS)
        self._ends = {place.partition: place.offset for place in kafka.assign_all(self._rows, [USER_FEATURES], kafka.END)}
        self._next = {place.partition: place.offset for place in kafka.assign_all(self._rows, [USER_FEATURES])}
        # The first offset of each partition of ours that has not been answered yet.
        self._open: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._committed_at = time.monotonic()
        self._group = kafka.consumer(bootstrap, COMPONENT, group=COMPONENT, instance=instance)
        self._group.subscribe([USER_FEATURES.name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        """Work until `stop` is set; `ready` is set once the memories hold what was there at the start and a list can be made."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.live.start()
        self.reports.start()
        try:
            while not stop.is_set():
                self.step(timeout_s=0.1)
                for failure in (self.live.failure, self.reports.failure):
                    if failure is not None:
                        raise failure
                if not ready.is_set() and self.caught_up() and self.live.follower.caught_up.is_set():
                    collect_garbage_seldom()
                    ready.set()
            self.commit()
        finally:
            self._group.close()
            self._rows.close()
            self.reports.stop()
            self.live.stop()

    def caught_up(self) -> bool:
        """Whether the memories hold all rows that were there at the start."""
        return all(self._next[number] >= end for number, end in self._ends.items())

    def step(self, timeout_s: float) -> int:
        """Take in the rows that are there, waiting up to `timeout_s` for the first; return their number."""
        self._keep_membership()
        records = kafka.next_batch(self._rows, LARGEST_BATCH, timeout_s)
        if records:
            self._take_in(records)
        if not self.live.reactions.memories_read.is_set() and self.caught_up():
            self.live.reactions.memories_read.set()
        self._producer.poll(0)
        if time.monotonic() - self._committed_at > COMMIT_EVERY_S:
            self.commit()
        self._share_ranking()
        return len(records)

    def commit(self) -> None:
        """Wait until all lists are acknowledged, then commit how far they reach. Raises KafkaException."""
        self._committed_at = time.monotonic()
        for topic, records in lag_by_topic(self._rows, [USER_FEATURES.name]).items():
            metrics.RECOMMENDER_LAG.labels(topic).set(records)
        news = {number: offset for number, offset in self._open.items() if offset != self._committed.get(number)}
        if not news:
            return
        if self._producer.flush(30.0):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "recommendations are not acknowledged after 30 s"))
        self._dead_letters.confirm()
        places = [TopicPartition(USER_FEATURES.name, number, offset) for number, offset in news.items()]
        self._group.commit(offsets=places, asynchronous=False)
        self._committed |= news

    def _share_ranking(self) -> None:
        """Let the others learn from the one that answers for the first partition."""
        leads = self.live.ranking.publishes = FIRST_PARTITION in self._open
        if leads and self.caught_up() and time.monotonic() > self._ranking_due_s:
            self._ranking_due_s = time.monotonic() + PUBLISH_EVERY_S
            self._ranking.publish(self.live.ranker)

    def _take_in(self, records: Sequence[Message]) -> None:
        rows: list[UserRow] = []
        newest: dict[str, tuple[UserRow, Message]] = {}
        for record in records:
            number, offset = record.partition() or 0, record.offset() or 0
            self._next[number] = offset + 1
            ours = number in self._open and offset >= self._open[number]
            if record.value() is not None:
                try:
                    row = decode(UserRow, record.value(), record.headers())
                except InvalidMessage as error:
                    if ours:
                        self._dead_letters.refuse(record, error)
                        metrics.REFUSED.labels(COMPONENT).inc()
                else:
                    rows.append(row)
                    if ours:
                        newest[row.shopper_id] = (row, record)
        answers = list(newest.values())
        self._test(answers)
        for row in rows:
            self.live.ranker.learn(row)
        for start in range(0, len(answers), SCORED_AT_ONCE):
            self._answer(answers[start : start + SCORED_AT_ONCE])
        for number in self._open:
            self._open[number] = max(self._open[number], self._next[number])

    def _test(self, answers: Sequence[tuple[UserRow, Message]]) -> None:
        """Compare the lists made before with what came, measure on a sample how well that was foreseen, and teach the mixture by it."""
        for row, _ in answers:
            self.reports.outcomes.meet(row)
        now_s = time.monotonic()
        self._tests_due = min(MOST_TESTS_DUE, self._tests_due + TESTED_PER_S * (now_s - self._tested_s))
        self._tested_s = now_s
        sample = [row for row, _ in self._random.sample(answers, min(len(answers), int(self._tests_due)))]
        self._tests_due -= len(sample)
        for foreseen in self.live.test_then_learn(sample) if sample else ():
            metrics.PREQUENTIAL.inc()
            for model, place in (("live", foreseen.live), ("popularity", foreseen.popularity)):
                if place is not None and place < LIST_LENGTH:
                    metrics.PREQUENTIAL_HITS.labels(model).inc()

    def _answer(self, answers: Sequence[tuple[UserRow, Message]]) -> None:
        started_s, started_ns = time.perf_counter(), time.time_ns()
        sequence = self.live.lanes.sequence
        ranked = self.live.rank([row.history for row, _ in answers], LIST_LENGTH, [row.shopper_id for row, _ in answers])
        seconds = time.perf_counter() - started_s
        metrics.SCORING.observe(seconds)
        for (row, record), ranking in zip(answers, ranked, strict=True):
            cause = row.cause or Cause(event_id="unknown", published_ms=max(0, record.timestamp()[1]))
            message = Recommendation(
                recommendation_id=_name(row, cause),
                shopper_id=row.shopper_id,
                items=[_as_message(item) for item in ranking.items],
                model_version=ranking.version,
                weights_sha256=ranking.sha256,
                created_ms=self._clock(),
                latency_ms=round(1000 * seconds, 3),
                cause=cause,
                lane=ranking.lane,
            )
            items = tuple(item.item_id for item in ranking.items)
            last = row.history[-1].item_id if row.history else ""
            made = MadeList(message.recommendation_id, ranking.version, ranking.lane, row.steps, last, items, sequence)
            self.reports.outcomes.remember(row.shopper_id, made)
            trace = header(record.headers(), "traceparent")
            about = {"headrace.recommendation_id": message.recommendation_id, "headrace.model_version": message.model_version}
            self._send(message, tracing.note("recommend", trace, started_ns, time.time_ns(), kind="consumer", attributes=about) or trace)

    def _send(self, message: Recommendation, trace: str | None) -> None:
        tags = headers(message, event_id=message.recommendation_id, time_ms=message.created_ms, source=COMPONENT, traceparent=trace)
        kept = partial(self._kept, message.cause.published_ms)
        while True:
            try:
                self._producer.produce(RECOMMENDATIONS.name, encode(message), message.shopper_id, headers=tags, on_delivery=kept)
                return
            except BufferError:
                self._producer.poll(0.05)

    def _kept(self, published_ms: int, error: KafkaError | None, record: Message) -> None:
        kafka.must_arrive(error, record)
        metrics.RECOMMENDATIONS.inc()
        metrics.RECOMMENDATION_FRESHNESS.observe(max(0, self._clock() - published_ms) / 1000)

    def _keep_membership(self) -> None:
        record = self._group.poll(0)
        if record is not None and (error := record.error()) is not None:
            if error.fatal():
                raise KafkaException(error)
            log.warning("the broker reports a passing fault", extra={"fault": error.str()})

    def _assigned(self, group: Consumer, places: list[TopicPartition]) -> None:
        group.assign(places)
        group.pause(places)
        self._open = {}
        for place in group.committed(places, timeout=10.0):
            # Without a commit everything is open; -1001 and the like stand for "none".
            first = max(place.offset, 0)
            self._open[place.partition] = self._committed[place.partition] = first
            if self._next[place.partition] > first:
                # Whoever answered for this partition before did not get as far as our memories have read.
                self._rows.seek(TopicPartition(USER_FEATURES.name, place.partition, first))
                self._next[place.partition] = first
        log.info("partitions assigned", extra={"partitions": sorted(self._open)})

    def _revoked(self, group: Consumer, places: list[TopicPartition]) -> None:
        self.commit()
        self._open = {}

    def _lost(self, group: Consumer, places: list[TopicPartition]) -> None:
        self._open = {}
        log.warning("partitions lost", extra={"partitions": [place.partition for place in places]})


def _name(row: UserRow, cause: Cause) -> str:
    """Return an id that is the same whenever the same row is answered, so that a list sent twice can be known as one."""
    return hashlib.blake2b(f"{row.shopper_id}\n{row.steps}\n{cause.event_id}".encode(), digest_size=12).hexdigest()


def _as_message(item: RankedItem) -> RecommendedItem:
    return RecommendedItem(item_id=item.item_id, score=round(item.score, 6), part=item.part, because=list(item.reasons))
