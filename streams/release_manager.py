"""The release manager: promotes what does well on trial, and rolls back what does not (`release_policy` has the rules).

It holds nothing that is not in the topics: started again, it reads decisions, versions and the outcomes since the last decision, and is
where it was. Several may run; of two decisions made at once only the first counts.
"""

import logging
import math
import threading
from collections.abc import Callable

from confluent_kafka import KafkaException, Message, TopicPartition

from headrace.online_model.release_policy import Decision, ReleasePolicy, ReleaseRules
from headrace.schemas import DriftAlert, InvalidMessage, ModelRelease, ModelUpdate, ReleaseOutcomes, encode
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import DRIFT_ALERTS, MODEL_UPDATES, RELEASE_OUTCOMES
from headrace.schemas.wire import headers, now_ms
from headrace.streams import kafka, metrics
from headrace.streams.outcome_reports import OutcomeReader
from headrace.streams.release_log import ReleaseLog, ReleasePublisher, ReleaseVoid, publish_and_wait
from headrace.streams.signed_records import open_record
from headrace.streams.signing import Forged, SigningKey, TrustedKeys

log = logging.getLogger(__name__)

COMPONENT = "release-manager"
SIGNAL = "online_hit_rate"
DETECTOR = "two-sample confidence sequence"


class ReleaseManager:
    """Follows versions, outcomes and decisions, and decides."""

    def __init__(
        self,
        bootstrap: str,
        key: SigningKey | None = None,
        trusted: TrustedKeys | None = None,
        rules: ReleaseRules | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.policy = ReleasePolicy(rules)
        self._clock = clock
        self._trusted = trusted
        self._outcomes = OutcomeReader(trusted)
        self._publisher = ReleasePublisher(bootstrap, COMPONENT, key)
        self._alerts = kafka.producer(bootstrap, f"{COMPONENT}-alerts")
        self._log = ReleaseLog(bootstrap, COMPONENT, trusted)
        self._consumer = kafka.consumer(bootstrap, COMPONENT)
        self._updates_read, self._updates_end = kafka.watermarks(self._consumer, MODEL_UPDATES.name, 0)
        low, end = kafka.watermarks(self._consumer, RELEASE_OUTCOMES.name, 0)
        newest = self._log.state.newest
        since = [end] if newest is None else [place.offset for place in self._first_since(newest.decided_ms)]
        updates = TopicPartition(MODEL_UPDATES.name, 0, self._updates_read)
        self._consumer.assign([updates, TopicPartition(RELEASE_OUTCOMES.name, 0, since[0] if since[0] >= low else end)])
        # What comes before all versions are known cannot be told to be on trial.
        self._early: list[ReleaseOutcomes] = []
        self._caught_up = False

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        """Decide until `stop` is set; `ready` is set once everything that was there at the start is read."""
        try:
            while not stop.is_set():
                self.step(0.2)
                if self._caught_up:
                    ready.set()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of Kafka."""
        self._consumer.close()
        self._log.close()

    def step(self, timeout_s: float) -> ModelRelease | None:
        """Take in what is there, waiting up to `timeout_s`, and return the decision that was made, if one was."""
        for record in kafka.next_batch(self._consumer, 500, timeout_s):
            self._take(record)
        if not self._caught_up:
            if self._updates_read < self._updates_end:
                return None
            self._catch_up()
        while self._log.poll(0):
            self._saw_decision()
        decision = self.policy.decide(self._clock())
        return self._publish(decision) if decision is not None else None

    def _take(self, record: Message) -> None:
        if record.topic() == MODEL_UPDATES.name:
            self._updates_read = (record.offset() or 0) + 1
            if (update := self._update(record)) is not None:
                self.policy.saw_update(update)
            return
        outcomes = self._outcomes.read(record.value(), record.headers(), record.offset())
        if outcomes is None:
            return
        if self._caught_up:
            self.policy.saw_outcomes(outcomes)
        else:
            self._early.append(outcomes)

    def _update(self, record: Message) -> ModelUpdate | None:
        try:
            return open_record(ModelUpdate, record.value(), record.headers(), self._trusted)
        except (InvalidMessage, Forged) as error:
            log.warning("manifest passed over", extra={"offset": record.offset(), "reason": str(error)})
            return None

    def _catch_up(self) -> None:
        self._caught_up = True
        if self._log.state.newest is not None:
            self._saw_decision()
        for outcomes in self._early:
            self.policy.saw_outcomes(outcomes)
        self._early.clear()

    def _first_since(self, time_ms: int) -> list[TopicPartition]:
        return self._consumer.offsets_for_times([TopicPartition(RELEASE_OUTCOMES.name, 0, time_ms)], timeout=30.0)

    def _publish(self, decision: Decision) -> ModelRelease | None:
        newest = self._log.state.newest
        release = ModelRelease(
            model=MODEL,
            sequence=newest.sequence + 1 if newest else 1,
            action=decision.action,
            stable_version=decision.version,
            stable_sha256=decision.sha256,
            withdrawn_to=decision.withdrawn_to,
            trial_share=decision.trial_share,
            reason=decision.reason[:1000],
            decided_by=COMPONENT,
            decided_ms=self._clock(),
            evidence=decision.evidence,
            key_id=self._publisher.key_id,
        )
        try:
            publish_and_wait(self._log, self._publisher, release)
        except ReleaseVoid as error:
            log.warning("decision void", extra={"action": release.action, "reason": str(error)})
            release_that_counts = None
        else:
            metrics.RELEASES.labels(release.action).inc()
            log.info("decided", extra={"action": release.action, "version": release.stable_version, "reason": release.reason})
            release_that_counts = release
        self._saw_decision()
        return release_that_counts

    def _saw_decision(self) -> None:
        """Let the policy begin anew from the newest decision, and tell of a rollback, whoever decided it.

        After a restart it is told again, under the same id.
        """
        newest = self._log.state.newest
        if newest is None or newest == self.policy.state.newest:
            return
        self.policy.saw_decision(self._log.state)
        metrics.STABLE_VERSION.set(newest.stable_version)
        if newest.action == "rollback":
            self._alert(newest)

    def _alert(self, release: ModelRelease) -> None:
        ours, figures = release.decided_by == COMPONENT, release.evidence
        seen = int(figures.get("trial_answered", 0)), int(figures.get("stable_answered", 0))
        alert = DriftAlert(
            alert_id=f"{MODEL}-{SIGNAL}-{release.sequence}",
            signal=SIGNAL,
            detector=DETECTOR if ours else release.decided_by,
            severity="critical",
            level_before=figures.get("stable_hit_rate", 0.0),
            level_after=figures.get("trial_hit_rate", 0.0),
            window=seen[0],
            observations=sum(seen),
            model_version=release.withdrawn_to,
            event_time_ms=release.decided_ms,
            created_ms=self._clock(),
            reaction=f"rolled back to version {release.stable_version}; versions up to {release.withdrawn_to} are withdrawn, and learning "
            f"resumes from version {release.stable_version}. {release.reason}"[:1000],
            episode_id=f"{MODEL}-rollback-{release.sequence}",
            since_ms=int(figures["since_ms"]) if "since_ms" in figures else None,
            p_value=math.exp(-figures["evidence"]) if "evidence" in figures else None,
        )
        tags = headers(alert, event_id=alert.alert_id, time_ms=alert.created_ms, source=COMPONENT)
        self._alerts.produce(DRIFT_ALERTS.name, encode(alert), SIGNAL, headers=tags, on_delivery=kafka.must_arrive)
        if self._alerts.flush(30.0):
            raise KafkaException("the alert of a rollback is not acknowledged after 30 s")
        metrics.DRIFT_ALERTS.labels(SIGNAL).inc()
        log.warning("rolled back", extra={"version": release.stable_version, "withdrawn_to": release.withdrawn_to})
