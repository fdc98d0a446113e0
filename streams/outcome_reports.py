"""Each second, what became of this process's lists goes to `release-outcomes`.

A user row does not say which list its steps came from, so the events of `clicks` are read beside: those without an attribution are
passed over by a look at their bytes, which costs less than a millisecond for a thousand of them.

By what is reported versions are promoted and rolled back, so reports count only with a signature, and each only once.
"""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message
from msgspec import Struct

from headrace.online_model.list_outcomes import ListOutcomes
from headrace.schemas import InvalidMessage, ReleaseOutcomes
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import CLICKS, RELEASE_OUTCOMES
from headrace.schemas.wire import AnyHeaders, headers, now_ms
from headrace.streams import kafka, metrics
from headrace.streams.signed_records import open_record, sign, signature_header
from headrace.streams.signing import Forged, SigningKey, TrustedKeys

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
MOST_VERSIONS = 1000
# A report a second is a day of one process.
REPORTS_KEPT = 100_000
_NAMES_A_LIST = b'"recommendation_id"'


class _Attribution(Struct):
    recommendation_id: str | None = None


class _Attributed(Struct):
    attribution: _Attribution | None = None


_decoder = msgspec.json.Decoder(_Attributed)


class OutcomeReports:
    """Counts what becomes of the lists that `outcomes` remembers, and reports it, signed where there is a `signing` key.

    It does so from `start` to `stop`. `failure` is what ended the thread by itself; None while it runs.
    """

    def __init__(self, bootstrap: str, instance: str, clock: Callable[[], int] = now_ms, *, signing: SigningKey | None = None) -> None:
        self.outcomes = ListOutcomes()
        self.failure: BaseException | None = None
        self._bootstrap = bootstrap
        self._instance = instance
        self._clock = clock
        self._signing = signing
        self._started_ms = clock()
        self._producer = kafka.producer(bootstrap, f"{instance}-outcomes")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outcomes", daemon=True)

    def start(self) -> None:
        """Begin to read clicks and to report."""
        self._thread.start()

    def stop(self) -> None:
        """Report what is left, and end."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)

    def report(self) -> None:
        """Send what was counted since the last report; nothing where nothing was."""
        started_ms, self._started_ms = self._started_ms, self._clock()
        versions = self.outcomes.take()
        for outcome in versions:
            metrics.LANE_OUTCOMES.labels(outcome.lane).inc(outcome.answered)
            metrics.LANE_HITS.labels(outcome.lane).inc(outcome.hits)
        for start in range(0, len(versions), MOST_VERSIONS):
            message = ReleaseOutcomes(
                model=MODEL,
                instance=self._instance,
                started_ms=started_ms,
                ended_ms=self._started_ms,
                versions=versions[start : start + MOST_VERSIONS],
            )
            name = f"{self._instance}-{self._started_ms}-{start}"
            message, value, signature = sign(message, self._signing)
            tags = headers(message, event_id=name, time_ms=self._started_ms, source=self._instance) + signature_header(signature)
            try:
                self._producer.produce(RELEASE_OUTCOMES.name, value, MODEL, headers=tags, on_delivery=_told)
            except BufferError:
                log.warning("outcomes are dropped, since Kafka takes none")
        self._producer.poll(0)

    def _run(self) -> None:
        try:
            consumer = kafka.consumer(self._bootstrap, f"{self._instance}-clicks", patience_ms=200)
            try:
                kafka.assign_all(consumer, [CLICKS], kafka.END)
                due_s = time.monotonic() + REPORT_EVERY_S
                while not self._stop.is_set():
                    for record in kafka.next_batch(consumer, 5000, max(0.0, min(0.2, due_s - time.monotonic()))):
                        self._look_at(record)
                    if time.monotonic() >= due_s:
                        due_s = time.monotonic() + REPORT_EVERY_S
                        self.report()
                self.report()
                self._producer.flush(5.0)
            finally:
                consumer.close()
        except BaseException as error:
            # Kept for the owner's loop: a lane that nobody judges would stay live however bad it is.
            self.failure = error
            log.exception("outcomes are no longer reported")

    def _look_at(self, record: Message) -> None:
        value = record.value() or b""
        if _NAMES_A_LIST in value:
            try:
                attribution = _decoder.decode(value).attribution
            except msgspec.DecodeError:
                # The feature worker tells of it.
                return
            if attribution is not None and attribution.recommendation_id is not None:
                self.outcomes.clicked(attribution.recommendation_id)


class OutcomeReader:
    """Tells which reports count: with `trusted` keys only what one of them has signed, and of the last 100,000 each once.

    What does not count is refused, logged and counted by its reason, unless it is `quiet`. A report that is sent again is signed as well:
    without its name being known, whoever may write to the topic could count a version's good hours twice.
    """

    def __init__(self, trusted: TrustedKeys | None = None, *, quiet: bool = False) -> None:
        self._trusted = trusted
        self._quiet = quiet
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def read(self, value: bytes | None, tags: AnyHeaders, offset: int | None) -> ReleaseOutcomes | None:
        """Return the report that a record holds; None where it does not count."""
        try:
            outcomes = open_record(ReleaseOutcomes, value, tags, self._trusted)
        except (Forged, InvalidMessage) as error:
            self._refuse(error.fault if isinstance(error, Forged) else "unreadable", str(error), offset)
            return None
        name = hashlib.blake2b(value or b"", digest_size=16).digest()
        if name in self._known:
            self._refuse("doubled", f"the same report of {outcomes.instance!r} came before", offset)
            return None
        self._known[name] = None
        if len(self._known) > REPORTS_KEPT:
            self._known.popitem(last=False)
        return outcomes

    def _refuse(self, reason: str, told: str, offset: int | None) -> None:
        if not self._quiet:
            metrics.OUTCOMES_REFUSED.labels(reason).inc()
            log.warning("a report of outcomes does not count", extra={"offset": offset, "reason": told})


def _told(error: KafkaError | None, record: Message) -> None:
    """Log a loss: evidence that is missing delays a decision and changes none."""
    if error is not None:
        log.warning("outcomes were not acknowledged", extra={"reason": str(KafkaException(error))})
