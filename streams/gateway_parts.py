"""What the gateway is made of: the ranker with its two followers, the publisher, the online store, and how well they are."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from headrace.features.online_store import OnlineStore, connect
from headrace.features.reader import FeatureReader
from headrace.schemas import UserRow
from headrace.streams.live_scorer import LiveScorer
from headrace.streams.memory_follower import MemoryFollower
from headrace.streams.model_access import ModelAccess
from headrace.streams.outcome_reports import OutcomeReports
from headrace.streams.publisher import EventPublisher, UndeliveredEvents
from headrace.streams.right_of_way import RightOfWay
from headrace.streams.signing import KeyProblem, SigningKey

log = logging.getLogger(__name__)

COMPONENT = "gateway"
ANSWERING_THREADS = 8
# What a step of a swap, or of the look of the dashboard, waits for answers at most.
PATIENCE_S = 0.005
REDIS_TIMEOUT_S = 1.0
PROBE_TIMEOUT_S = 1.0
CLOSE_TIMEOUT_S = 5.0
REDIS_PAUSE_S = 1.0


class GatewayParts:
    """The parts, built and running from `start` to `stop`. Raises KafkaException where the broker or a topic is not there.

    Of its lists `reports` tells only which were clicked: whether next steps were foreseen the recommender tells of its own, and both
    together would count each step twice.
    """

    def __init__(self, bootstrap: str, redis_url: str, device: str, access: ModelAccess | None = None) -> None:
        self.bootstrap = bootstrap
        self.access = access or ModelAccess()
        self.right_of_way = RightOfWay(PATIENCE_S)
        self.live = LiveScorer(
            bootstrap, COMPONENT, device, trusted=self.access.trusted, store=self.access.store, give_way=self.right_of_way.give
        )
        self.reports = OutcomeReports(bootstrap, COMPONENT, signing=_signing_key(self.access))
        self.memories = MemoryFollower(bootstrap, f"{COMPONENT}-memories", self.live.ranker, self.live.reactions.memories_read)
        self.publisher = EventPublisher(bootstrap, source=COMPONENT)
        self._redis = connect(redis_url, REDIS_TIMEOUT_S)
        # A request may not wait as long as a worker: whoever asked has given up by then.
        self._redis.set_retry(Retry(ExponentialBackoff(cap=0.1, base=0.02), retries=2))
        self.store = OnlineStore(self._redis)
        self.features = FeatureReader(self.store)
        self._asked_again_at_s = 0.0
        settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "client.id": f"{COMPONENT}-probe",
            "logger": logging.getLogger("headrace.kafka"),
        }
        self._probe = AdminClient(settings)
        self.pool = ThreadPoolExecutor(ANSWERING_THREADS, "answer")

    def start(self) -> None:
        """Begin to follow the weights and the user rows."""
        self.live.start()
        self.memories.start()
        self.reports.start()

    def stop(self) -> None:
        """Send what still waits to be sent, and end all threads."""
        self.pool.shutdown()
        try:
            self.publisher.close(CLOSE_TIMEOUT_S)
        except UndeliveredEvents as error:
            # Whoever sent them was told that they are not acknowledged.
            log.warning("events were not delivered at the end", extra={"reason": str(error)})
        self.memories.stop()
        self.reports.stop()
        self.live.stop()
        self._redis.close()

    def user_row(self, shopper_id: str) -> tuple[UserRow | None, str | None]:
        """Return a shopper's row, or None and why there can be none while the store does not answer.

        After a failure nobody asks for a second: requests would queue up behind time-outs.
        """
        if time.monotonic() >= self._asked_again_at_s:
            try:
                [row] = self.store.read_users([shopper_id])
                return row, None
            except redis.RedisError as error:
                self._asked_again_at_s = time.monotonic() + REDIS_PAUSE_S
                log.warning("Redis does not answer; shoppers are answered without their histories", extra={"reason": str(error)})
        return None, "the online store (Redis) does not answer, so the shopper's history is not known"

    def failures(self) -> list[str]:
        """Return what has ended and will not come back by itself."""
        followed = (("weights", self.live.failure), ("memories", self.memories.failure), ("clicks on lists", self.reports.failure))
        return [f"{name} are no longer followed: {failure!r}; start the gateway anew" for name, failure in followed if failure is not None]

    def missing(self) -> list[str]:
        """Return what is not there yet, or not at the moment, and must be; asks the broker, and so takes up to some seconds."""
        reasons = self.failures()
        if not self.live.follower.caught_up.is_set():
            reasons.append("weights: the newest are not loaded yet")
        if not self.memories.caught_up.is_set():
            reasons.append("memories: the user rows are not read to their end yet")
        try:
            self._probe.list_topics(timeout=PROBE_TIMEOUT_S)
        except KafkaException as error:
            reasons.append(f"Kafka does not answer: {error}")
        return reasons

    def degraded(self) -> list[str]:
        """Return what is away that answers can do without; asks Redis, and so takes up to some seconds."""
        try:
            self._redis.ping()
        except redis.RedisError as error:
            return [f"Redis does not answer, so shoppers are answered without their histories: {error}"]
        return []


def _signing_key(access: ModelAccess) -> SigningKey | None:
    """Return the key by which the gateway signs what it reports; None where it has none, without which it answers all the same."""
    try:
        return access.key()
    except KeyProblem as error:
        log.warning("clicks on this gateway's lists are reported unsigned, and do not count", extra={"reason": str(error)})
        return None
