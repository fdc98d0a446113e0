"""The training thread of the learner: rounds of fine-tuning, and the chain of weights that it publishes."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from headrace.features.online_store import OnlineStore
from headrace.features.services import FEATURE_SERVICE
from headrace.online_model.fine_tuning import Round, TuningPlan
from headrace.online_model.gate_state import BadGateState
from headrace.online_model.resumable_tuner import ResumableTuner
from headrace.online_model.scorer import warm_up
from headrace.online_model.trusted_set import TrustedSet
from headrace.online_model.weights import NO_WEIGHTS, BadUpdate, ModelCopy, chained_sha256, snapshot_payload
from headrace.schemas import ModelUpdate
from headrace.schemas.model_updates import MODEL, Trigger
from headrace.schemas.wire import now_ms
from headrace.streams import metrics, tracing
from headrace.streams.drift_actions import DriftActions, falling_back
from headrace.streams.drift_watch import DriftWatch, Watching
from headrace.streams.gate_store import GateResumption, GateStore
from headrace.streams.learning_base import LearningBase
from headrace.streams.lifetime import collect_garbage_seldom
from headrace.streams.memory_reactions import MemoryReactionPublisher
from headrace.streams.model_access import ModelAccess
from headrace.streams.promoted_snapshots import PromotedSnapshots
from headrace.streams.quarantine import Quarantine
from headrace.streams.release_requests import ReleaseRequests
from headrace.streams.round_traces import traced_round
from headrace.streams.shopper_histories import ShopperHistories
from headrace.streams.stable_weights import StableWeights
from headrace.streams.training_buffer import Example, ExampleBuffer
from headrace.streams.weights_channel import WeightsFollower, WeightsPublisher

log = logging.getLogger(__name__)

COMPONENT = "learner"
SNAPSHOT_EVERY = 20
SAMPLED_TIMES = 64
# A usual round takes a tenth of a second.
ROUND_LIMIT_S = 2.0
BEHIND_MS = 2000
RESTS = 3.0
# A busy shop's rounds make a step for so many events; one that has time makes the plan's steps whatever there is.
EVENTS_PER_STEP = 256
RESUME_TIMEOUT_S = 20.0
# How many versions may lie between what the gate remembers and the newest weights.
MOST_SINCE = 2 * SNAPSHOT_EVERY


class Trainer:
    """Takes examples from the buffer, fine-tunes, and publishes what passes the gate.

    Which events are in the weights is part of the weights: each update carries the offsets learned so far. After a crash
    the events behind them come again, and those that were learned before are known and passed over. After a rollback learning
    goes on from the stable weights, with what comes then: what the withdrawn versions had learned, and what was kept to be
    replayed, is dropped. What the gate remembers is kept in the weight store with each snapshot and at the end.
    """

    def __init__(
        self,
        bootstrap: str,
        store: OnlineStore,
        buffer: ExampleBuffer,
        clock: Callable[[], int] = now_ms,
        *,
        access: ModelAccess | None = None,
        watching: Watching | None = None,
    ) -> None:
        self._store = store
        self._buffer = buffer
        self._clock = clock
        access = access or ModelAccess()
        self._publisher = WeightsPublisher(bootstrap, COMPONENT, signing=access.key(), store=access.store)
        self._histories = ShopperHistories(store.read_users)
        self._trusted_set = access.trusted_set
        self._quarantine = Quarantine(access.store) if access.store is not None else None
        self._base = LearningBase(bootstrap, COMPONENT, access)
        stable = StableWeights(bootstrap, f"{COMPONENT}-promoted", access.store, access.trusted)
        self._promoted = PromotedSnapshots(self._publisher, stable, store=access.store) if access.store is not None else None
        self._gates = GateStore(access.store, access.key()) if access.store is not None else None
        kept = self._gates.newest() if self._gates is not None else None
        gate = GateResumption(*kept) if kept is not None else None
        live, newest = resume(bootstrap, self._base.withdraws, access, gate)
        self._tuner = self._resumed(live, gate) or self._new_tuner(live)
        self._gate_kept = live.sha256
        # Of the round in hand, where it learns from a followed event.
        self._trace: str | None = None
        # Live weights of a higher version than any manifest come from the store; another chain begins with them, and no number twice.
        self._newest_version = max(newest.version if newest else 0, live.version, self._base.highest_version())
        self._whole = newest is not None and newest.version == live.version
        # Where the newest version was withdrawn, learning starts again from the stable one.
        self._stable = self._base.at_start(newest.version) if newest and not self._whole else None
        known = newest if self._whole or self._stable else None
        self._learned_events = known.learned_events if known else 0
        self._offsets = dict(known.learned_offsets) if known else {}
        watching = watching or Watching()
        requests = ReleaseRequests(bootstrap, COMPONENT, access.key(), access.trusted, clock)
        memories = MemoryReactionPublisher(bootstrap, COMPONENT, access.key(), clock) if watching.reacts else None
        actions = DriftActions(lambda: self._tuner, buffer, falling_back(requests), watching.retrain, memories)
        self.drift = DriftWatch(bootstrap, COMPONENT, watching, actions, lambda: self._tuner.live.version, clock)

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        """Train until `stop` is set; `ready` is set once weights are published."""
        if self._stable is not None:
            self._start_again(*self._stable)
        elif not self._whole:
            # Nothing is there yet, or the newest weights cannot be read any more: a new chain begins here.
            self._tuner.live.version = 0
            self._publish_snapshot("start")
            self._whole = True
        metrics.MODEL_VERSION.set(self._tuner.live.version)
        # Else what is published meanwhile would wait for it in the first round.
        warm_up()
        collect_garbage_seldom()
        ready.set()
        left_out = 0
        while not stop.is_set():
            self._follow_releases()
            self.drift.tick()
            trigger, examples = self._buffer.take(timeout_s=0.2)
            if self._buffer.left_out > left_out:
                metrics.SKIPPED.inc(self._buffer.left_out - left_out)
                log.warning("events left out, since learning cannot keep up", extra={"events": self._buffer.left_out - left_out})
                left_out = self._buffer.left_out
            if examples:
                started_s = time.monotonic()
                self.learn(trigger, examples)
                stop.wait(rest_s(time.monotonic() - started_s, self._buffer.newest_ms(), self._clock()))
        self._keep_gate()
        self.drift.close()

    def learn(self, trigger: Trigger, examples: Sequence[Example]) -> None:
        """Run one round and publish its outcome; the examples are released afterwards."""
        self._follow_releases()
        fresh = [example for example in examples if example.offset > self._offsets.get(example.source, -1)]
        if fresh:
            started_s, started_ns = time.perf_counter(), time.time_ns()
            newest = self._histories.extend(fresh)
            steps = self._tuner.plan.steps if trigger != "count" else -(-len(fresh) // EVENTS_PER_STEP)
            learned = self._tuner.run(
                [shopper.history for shopper in newest],
                steps,
                shoppers=[shopper.shopper_id for shopper in newest],
                fresh=[shopper.fresh for shopper in newest],
            )
            if learned.losses and learned.steps < steps:
                log.warning("a round was cut short", extra={"steps": learned.steps, "planned": steps, "limit_s": ROUND_LIMIT_S})
            for example in fresh:
                self._offsets[example.source] = max(example.offset, self._offsets.get(example.source, -1))
            self._learned_events += len(fresh)
            metrics.LEARNED.inc(len(fresh))
            with traced_round(fresh, started_ns, learned.verdict) as self._trace:
                self._settle(trigger, learned, fresh)
            self._trace = None
            metrics.ROUND.observe(time.perf_counter() - started_s)
            if learned.losses:
                metrics.LOSS.set(sum(learned.losses) / len(learned.losses))
            self.drift.learned(newest, learned)
        self._buffer.release(examples)

    def _new_tuner(self, live: ModelCopy) -> ResumableTuner:
        trusted = TrustedSet.load(self._trusted_set) if self._trusted_set is not None else None
        return ResumableTuner(live, TuningPlan(round_limit_s=ROUND_LIMIT_S), trusted=trusted)

    def _resumed(self, live: ModelCopy, gate: GateResumption | None) -> ResumableTuner | None:
        """Return a tuner whose gate goes on where the last one was; None where nothing is kept that belongs to these weights."""
        if gate is None or not gate.is_met:
            return None
        tuner = self._new_tuner(live)
        try:
            tuner.restore(gate.state, gate.since)
        except BadGateState as error:
            log.warning("what the gate remembered cannot be used; it starts anew", extra={"reason": str(error)})
            return None
        log.info("the gate goes on", extra={"version": gate.version, "live": live.version})
        return tuner

    def _keep_gate(self) -> None:
        """Keep what the gate remembers with the live weights, unless it is kept."""
        live = self._tuner.live
        if self._gates is None or live.sha256 == self._gate_kept:
            return
        try:
            self._gates.put(self._tuner.state(), live.version, live.sha256, self._clock())
            self._gate_kept = live.sha256
        except OSError as error:
            metrics.STORE_FAILURES.inc()
            log.warning("what the gate remembers could not be kept", extra={"version": live.version, "reason": str(error)})

    def _follow_releases(self) -> None:
        """Go on from the stable weights where there was a rollback."""
        if (found := self._base.look()) is not None:
            self._start_again(*found)
        if self._promoted is not None:
            self._promoted.see(self._base.stable_version, self._base.stable_sha256)

    def _start_again(self, stable: ModelCopy, manifest: ModelUpdate) -> None:
        """Learn on these weights from now on, and publish them whole, so that who follows the chain finds where it goes on.

        Versions go on rising. Offsets stay: the events since are committed and do not come again.
        """
        self._tuner = self._new_tuner(stable)
        self._newest_version = max(self._newest_version, self._base.highest_version())
        self._learned_events = manifest.learned_events
        self._whole = True
        metrics.MODEL_VERSION.set(stable.version)
        self._publish_snapshot("start")

    def _settle(self, trigger: Trigger, learned: Round, fresh: Sequence[Example]) -> None:
        """Publish what passed the gate; drop what did not."""
        verdict = learned.verdict
        outcome = "published" if verdict.passed else "refused"
        metrics.ROUNDS.labels(trigger, outcome).inc()
        metrics.GATE.observe(verdict.metrics.get("gate_ms", 0.0) / 1000.0)
        if learned.surging:
            metrics.SURGING.inc(len(learned.surging))
            log.warning("shoppers rush to items, which are left out of learning for now", extra={"items": list(learned.surging)})
        if not verdict.passed:
            self._refuse(trigger, learned, fresh)
            return
        live = self._tuner.live
        payload = self._tuner.payload(learned)
        version = self._newest_version + 1
        name = chained_sha256(live.sha256, hashlib.sha256(payload).hexdigest())
        self._send("delta", payload, version, name, trigger, fresh, learned)
        self._tuner.accept(learned.touched, learned.new_items, version, name)
        self._newest_version = version
        metrics.MODEL_VERSION.set(version)
        if version % SNAPSHOT_EVERY == 0:
            self._publish_snapshot(trigger)

    def _refuse(self, trigger: Trigger, learned: Round, fresh: Sequence[Example]) -> None:
        """Drop a candidate, and keep it in quarantine where there was anything to be judged."""
        verdict, live = learned.verdict, self._tuner.live
        metrics.GATE_REFUSED.labels(verdict.check).inc()
        log.warning("the gate refused a candidate", extra={"check": verdict.check, "reason": verdict.reason, "trigger": trigger})
        if self._quarantine is not None and learned.losses:
            try:
                self._quarantine.put(
                    verdict,
                    self._tuner.payload(learned),
                    fresh,
                    version=self._newest_version + 1,
                    base_version=live.version,
                    base_sha256=live.sha256,
                    trigger=trigger,
                    refused_ms=self._clock(),
                )
            except OSError as error:
                # Learning does not wait for a disk or a bucket.
                log.warning("a refused candidate could not be kept", extra={"reason": str(error)})
        self._tuner.reject()

    def _publish_snapshot(self, trigger: Trigger) -> None:
        """Publish the live weights whole, under the version and name that they have; the first weights get theirs here."""
        live = self._tuner.live
        payload = snapshot_payload(live)
        if live.version == 0:
            self._newest_version += 1
            live.version = self._newest_version
            live.sha256 = chained_sha256(NO_WEIGHTS, hashlib.sha256(payload).hexdigest())
        # Ahead of the snapshot: whoever takes up the chain begins with the newest of these, and must meet the state on the way.
        self._keep_gate()
        self._send("snapshot", payload, live.version, live.sha256, trigger, [], None)

    def _send(
        self, kind: str, payload: bytes, version: int, name: str, trigger: Trigger, fresh: Sequence[Example], learned: Round | None
    ) -> None:
        live = self._tuner.live
        every = max(1, len(fresh) // SAMPLED_TIMES)
        times_ms = [example.time_ms for example in fresh]
        update = ModelUpdate(
            model=MODEL,
            kind="delta" if kind == "delta" else "snapshot",
            version=version,
            base_version=live.version,
            base_sha256=live.sha256,
            weights_sha256=name,
            # The publisher fills in what it tells of the payload.
            payload_sha256=NO_WEIGHTS,
            payload_bytes=0,
            payload_parts=1,
            payload_offset=0,
            trigger=trigger,
            feature_service=FEATURE_SERVICE,
            created_ms=self._clock(),
            learned_events=self._learned_events,
            learned_offsets=dict(self._offsets),
            learned_published_ms=[example.published_ms for example in fresh[::every][:SAMPLED_TIMES]],
            holdout_loss=learned.verdict.candidate_loss if learned else None,
            live_holdout_loss=learned.verdict.live_loss if learned else None,
            window_start_ms=min(times_ms, default=None),
            window_end_ms=max(times_ms, default=None),
            metrics=dict(learned.verdict.metrics) if learned else {},
        )
        about = {"headrace.model_version": version, "headrace.update": kind, "headrace.payload_bytes": len(payload)}
        self._publisher.kept = {self._base.stable_version}
        with tracing.span("publish weights", self._trace, kind="producer", attributes=about) as span:
            self._publisher.publish(update, payload, tracing.traceparent_of(span))
        log.info("weights published", extra={"kind": kind, "version": version, "bytes": len(payload), "trigger": trigger})


def rest_s(took_s: float, newest_ms: int | None, now_ms: int) -> float:
    """Return how long to rest after a round that took some time, where `newest_ms` is when the newest event that waits was published.

    Where even that is old the agents, which share our processor, read late: without a rest they would fall ever further behind. What is
    old because rounds are slow is no reason.
    """
    return RESTS * took_s if newest_ms is not None and now_ms - newest_ms > BEHIND_MS else 0.0


def resume(
    bootstrap: str,
    withdraws: Callable[[int], bool] = lambda version: False,
    access: ModelAccess | None = None,
    gate: GateResumption | None = None,
) -> tuple[ModelCopy, ModelUpdate | None]:
    """Return the newest weights that can be had, new ones of version 0 where there are none, and the newest manifest seen.

    What `withdraws` names is left out. The way goes by the weights that a `gate` belongs to where these are not far behind.
    """
    access = access or ModelAccess()
    if gate is not None:
        copy, newest = _follow(bootstrap, withdraws, access, gate)
        if newest is not None and gate.is_met and (copy.version, copy.sha256) == (newest.version, newest.weights_sha256):
            return copy, newest
    return _follow(bootstrap, withdraws, access, None)


def _follow(
    bootstrap: str, withdraws: Callable[[int], bool], access: ModelAccess, gate: GateResumption | None
) -> tuple[ModelCopy, ModelUpdate | None]:
    copy = ModelCopy()

    def take(update: ModelUpdate, payload: bytes) -> None:
        if withdraws(update.version):
            raise BadUpdate(f"version {update.version} was withdrawn by a rollback")
        if gate is not None:
            gate.take(copy, update, payload)
        else:
            copy.apply(update, payload)

    begin = gate.version if gate is not None else None
    follower = WeightsFollower(bootstrap, f"{COMPONENT}-resume", take, from_version=begin, trusted=access.trusted, store=access.store)
    newest = follower.newest
    deadline = time.monotonic() + RESUME_TIMEOUT_S
    while not follower.caught_up.is_set() and (gate is None or newest is None or newest.version <= gate.version + MOST_SINCE):
        if time.monotonic() > deadline:
            log.warning("the chain of weights is not whole", extra={"taken_up": copy.version})
            break
        follower.step(0.1)
    newest = follower.newest
    follower.close()
    log.info("taken up", extra={"version": copy.version, "newest": newest.version if newest else 0})
    return copy, newest
