"""The way of what the memories forget on drift: from the learner, which watches, over `memory-reactions`, to all that rank.

A process that starts builds its memories anew from the user rows, all of them at their full weight. Of the reactions that were decided
before its memories were read it takes the newest that was not taken back since and is younger than an hour, once, when they are read; what
came after that decision is then forgotten as well. All others, whatever they were, are passed over.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from headrace.online_model.ranker import Ranker
from headrace.schemas import InvalidMessage, MemoryReaction
from headrace.schemas.memory_reactions import MemoryAction
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import MEMORY_REACTIONS
from headrace.schemas.wire import headers, now_ms
from headrace.streams import kafka, metrics
from headrace.streams.signed_records import open_record, sign, signature_header
from headrace.streams.signing import Forged, SigningKey, TrustedKeys

log = logging.getLogger(__name__)

OLDEST_MS = 3_600_000
IDS_KEPT = 1000
READ_TIMEOUT_S = 10.0
ACKNOWLEDGED_WITHIN_S = 10.0


class MemoryReactionFollower:
    """Lets a ranker's memories forget and recall; with `trusted` keys only what one of them has signed counts. Give it a thread of its own.

    Nothing is done before `memories_read` is set, which is up to whoever teaches the ranker. Each reaction counts once. What is not
    signed, cannot be read, is doubled or older than an hour is refused, logged and counted by its reason. A recall takes back the cut of
    its own episode; where another episode has cut since, that one's cut stays. Raises KafkaException where the topic cannot be read.
    """

    def __init__(
        self, bootstrap: str, client_id: str, ranker: Ranker, trusted: TrustedKeys | None = None, clock: Callable[[], int] = now_ms
    ) -> None:
        self.memories_read = threading.Event()
        self._ranker = ranker
        self._trusted = trusted
        self._clock = clock
        self._known: deque[str] = deque(maxlen=IDS_KEPT)
        self._waiting: list[MemoryReaction] = []
        self._has_begun = False
        # Of which episode the cut is that holds now.
        self._cut_by: str | None = None
        self._consumer = kafka.consumer(bootstrap, f"{client_id}-reactions")
        self._read_those_before()

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set."""
        try:
            while not stop.is_set():
                self.step(0.5)
        finally:
            self._consumer.close()

    def step(self, timeout_s: float) -> None:
        """Take in the next reaction, waiting up to `timeout_s`, and do what waits where the memories are read."""
        record = self._consumer.poll(timeout_s)
        if record is not None and kafka.is_record(record):
            self._take(record)
        if self.memories_read.is_set():
            if not self._has_begun:
                self._has_begun = True
                newest = newest_in_force(self._waiting, self._clock())
                self._waiting = [newest] if newest is not None else []
            for reaction in self._waiting:
                self._apply(reaction)
            self._waiting.clear()

    def _read_those_before(self) -> None:
        """Read the last hour's reactions, which wait until the memories are read."""
        end = kafka.watermarks(self._consumer, MEMORY_REACTIONS.name, 0)[1]
        since = TopicPartition(MEMORY_REACTIONS.name, 0, self._clock() - OLDEST_MS)
        [first] = self._consumer.offsets_for_times([since], timeout=READ_TIMEOUT_S)
        position = first.offset if 0 <= first.offset < end else end
        for record in kafka.records_before(self._consumer, MEMORY_REACTIONS, position, end, READ_TIMEOUT_S):
            self._take(record)

    def _take(self, record: Message) -> None:
        """Keep a reaction that counts; refuse what does not."""
        try:
            reaction = open_record(MemoryReaction, record.value() or b"", record.headers(), self._trusted)
        except (InvalidMessage, Forged) as error:
            self._refuse(record, "forged" if isinstance(error, Forged) else "unreadable", str(error))
            return
        age_ms = self._clock() - reaction.decided_ms
        if reaction.model != MODEL:
            self._refuse(record, "another model", f"model: {MODEL} was expected; the value is {reaction.model!r}")
        elif age_ms > OLDEST_MS:
            self._refuse(record, "stale", f"decided_ms: at most {OLDEST_MS // 1000} s ago was expected; it is {age_ms // 1000} s")
        elif reaction.reaction_id in self._known:
            self._refuse(record, "doubled", f"reaction_id: {reaction.reaction_id!r} came before")
        else:
            self._known.append(reaction.reaction_id)
            self._waiting.append(reaction)

    def _refuse(self, record: Message, reason: str, told: str) -> None:
        metrics.MEMORY_REACTIONS_REFUSED.labels(reason).inc()
        log.warning("a reaction of the memories does not count", extra={"offset": record.offset(), "reason": told})

    def _apply(self, reaction: MemoryReaction) -> None:
        if reaction.action == "forget":
            self._ranker.forget(reaction.keep, cut=reaction.cut)
            if reaction.cut:
                self._cut_by = reaction.episode_id
        elif self._cut_by == reaction.episode_id:
            self._ranker.recall()
            self._cut_by = None
        metrics.MEMORY_REACTIONS.labels(reaction.action).inc()
        about = {"action": reaction.action, "keep": reaction.keep, "cut": reaction.cut, "episode": reaction.episode_id}
        log.warning("the memories react to drift", extra=about)


class MemoryReactionPublisher:
    """Tells all that rank what their memories shall do, signed where there is a `signing` key, and waits for the acknowledgement.

    All raise KafkaException where the broker does not acknowledge within ten seconds; it may still do so later.
    """

    def __init__(self, bootstrap: str, client_id: str, signing: SigningKey | None = None, clock: Callable[[], int] = now_ms) -> None:
        self._producer = kafka.producer(bootstrap, f"{client_id}-reactions")
        self._client_id = client_id
        self._signing = signing
        self._clock = clock

    def forget(self, episode_id: str, keep: float, *, cut: bool = False) -> None:
        """Let the memories count what they hold `keep` times as much, from above 0 to 1; with `cut`, not look at older events any more."""
        self._send(episode_id, "forget", keep, cut)

    def recall(self, episode_id: str) -> None:
        """Let the memories look again at what they were told to cut off for this episode."""
        self._send(episode_id, "recall", 1.0, False)

    def _send(self, episode_id: str, action: MemoryAction, keep: float, cut: bool) -> None:
        decided_ms = self._clock()
        message = MemoryReaction(
            model=MODEL,
            reaction_id=f"{decided_ms}-{'cut' if cut else action}-{episode_id}"[:128],
            episode_id=episode_id,
            action=action,
            keep=keep,
            cut=cut,
            decided_ms=decided_ms,
        )
        message, value, signature = sign(message, self._signing)
        tags = headers(message, event_id=message.reaction_id, time_ms=decided_ms, source=self._client_id) + signature_header(signature)
        self._producer.produce(MEMORY_REACTIONS.name, value, MODEL, partition=0, headers=tags, on_delivery=kafka.must_arrive)
        if self._producer.flush(ACKNOWLEDGED_WITHIN_S):
            told = f"the memories' reaction is not acknowledged after {ACKNOWLEDGED_WITHIN_S:g} s"
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, told))


def newest_in_force(reactions: Iterable[MemoryReaction], now_ms: int) -> MemoryReaction | None:
    """Return the newest reaction, oldest first, that was not recalled since and is younger than an hour; None where there is none."""
    in_force: dict[str, MemoryReaction] = {}
    for reaction in reactions:
        # To the end: an episode's later reaction goes further than its first.
        in_force.pop(reaction.episode_id, None)
        if reaction.action == "forget":
            in_force[reaction.episode_id] = reaction
    young = [reaction for reaction in in_force.values() if now_ms - reaction.decided_ms <= OLDEST_MS]
    return young[-1] if young else None
