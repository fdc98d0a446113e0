"""The way of what mixture and ranking network have learned: from one recommender, over `ranking-weights`, to all that rank.

The recommender that answers for the first partition of `user-features` publishes every ten seconds; the others, and the gateways, take
up what comes in place of what they learned from fewer events of their own. Whoever starts begins with the newest state. Each record
holds the whole of it, some tens of kilobytes, so nothing has to follow a chain.
"""

import logging
import threading

from confluent_kafka import Message, TopicPartition

from headrace.online_model.ranker import Ranker
from headrace.online_model.weights import BadUpdate
from headrace.schemas import InvalidMessage, RankingWeights
from headrace.schemas.topics import RANKING_WEIGHTS
from headrace.schemas.wire import headers, now_ms
from headrace.streams import kafka, metrics
from headrace.streams.signed_records import open_record, sign, signature_header
from headrace.streams.signing import Forged, SigningKey, TrustedKeys

log = logging.getLogger(__name__)

MODEL = "ranking"
PUBLISH_EVERY_S = 10.0
NEWEST_TIMEOUT_S = 5.0


class RankingFollower:
    """Teaches a ranker what another one has learned; with `trusted` keys only what one of them has signed. Give it a thread of its own.

    While `publishes` is true, the ranker is the one that others learn from, and takes up nothing. All that is there at the start is
    taken up before it is made.
    """

    def __init__(self, bootstrap: str, client_id: str, ranker: Ranker, trusted: TrustedKeys | None = None) -> None:
        self.publishes = False
        self._ranker = ranker
        self._trusted = trusted
        self._consumer = kafka.consumer(bootstrap, f"{client_id}-ranking")
        low, end = kafka.watermarks(self._consumer, RANKING_WEIGHTS.name, 0)
        # The last record is never compacted away, and those before it are of no use.
        self._consumer.assign([TopicPartition(RANKING_WEIGHTS.name, 0, max(low, end - 1))])
        if end > low and (newest := self._consumer.poll(NEWEST_TIMEOUT_S)) is not None and newest.error() is None:
            self._take(newest)

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set."""
        try:
            while not stop.is_set():
                self.step(0.5)
        finally:
            self._consumer.close()

    def step(self, timeout_s: float) -> None:
        """Take up the next state, waiting up to `timeout_s`."""
        record = self._consumer.poll(timeout_s)
        if record is not None and record.error() is None and not self.publishes:
            self._take(record)

    def _take(self, record: Message) -> None:
        try:
            learned = open_record(RankingWeights, record.value() or b"", record.headers(), self._trusted)
            self._ranker.take_up(learned.payload)
        except (InvalidMessage, Forged, BadUpdate) as error:
            metrics.RANKING_REFUSED.labels("forged" if isinstance(error, Forged) else "unfit").inc()
            log.warning("ranking weights refused", extra={"offset": record.offset(), "reason": str(error)})
        else:
            log.debug("ranking weights taken up", extra={"questions": learned.questions, "learned_by": learned.learned_by})


class RankingPublisher:
    """Publishes what a ranker has learned, signed where there is a `signing` key."""

    def __init__(self, bootstrap: str, client_id: str, learned_by: str, signing: SigningKey | None = None) -> None:
        self._producer = kafka.producer(bootstrap, f"{client_id}-ranking")
        self._learned_by = learned_by
        self._signing = signing
        self._questions = 0

    def publish(self, ranker: Ranker) -> bool:
        """Send the state where there is news since the last time, without waiting; return whether there was."""
        payload, questions = ranker.ranking_learned()
        self._producer.poll(0)
        if questions == self._questions:
            return False
        self._questions = questions
        message = RankingWeights(
            model=MODEL,
            questions=questions,
            learned_by=self._learned_by,
            created_ms=now_ms(),
            payload=payload,
        )
        message, value, signature = sign(message, self._signing)
        tags = headers(message, event_id=f"{MODEL}-{self._learned_by}-{questions}", time_ms=message.created_ms, source=self._learned_by)
        tags += signature_header(signature)
        self._producer.produce(RANKING_WEIGHTS.name, value, MODEL, partition=0, headers=tags, on_delivery=kafka.must_arrive)
        return True
