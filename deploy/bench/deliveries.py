"""Runs a delivery schedule against the rules of `streams.chain`; after each step the weights must be what they are said to be.

The weights are one number of 32 bytes here, and every update changes it: so fast that ten thousand schedules take seconds, and no mistake
hides behind another.
"""

import hashlib
from dataclasses import dataclass, field

from headrace.deploy.bench.schedules import Fate, Schedule
from headrace.schemas import ModelUpdate
from headrace.streams.chain import NOT_YET, NOTHING, ChainFollower, KnownUpdates, Name, NotYet, Unfit, base_of, name_of

Link = tuple[ModelUpdate, bytes]


@dataclass
class Outcome:
    """What a run came to: whether other weights than those named were held at any moment, and which reasons were given for refusals."""

    is_wrong: bool = False
    reasons: list[str] = field(default_factory=list)
    held: list[Name] = field(default_factory=list)


def run_schedule(schedule: Schedule) -> Outcome:
    """Deliver a chain as scheduled and return what came of it."""
    run = _Run(schedule)
    for place in range(len(schedule.steps)):
        run.step(place)
    run.arrive_late()
    return run.outcome


class ToyWeights:
    """Weights of 32 bytes that take updates in by the rules of `ModelCopy`, but do not look at the bytes: that is the chain's to do."""

    def __init__(self) -> None:
        self.value = b"\x00" * 32
        self.name = NOTHING

    def apply(self, update: ModelUpdate, payload: bytes) -> None:
        """Take an update in. Raises Unfit where a delta builds on something else."""
        if update.kind == "delta" and base_of(update) != self.name:
            raise Unfit(f"it builds on {base_of(update)}, here is {self.name}")
        self.value = payload[:32] if update.kind == "snapshot" else hashlib.sha256(self.value + payload).digest()
        self.name = name_of(update)


class _Run:
    def __init__(self, schedule: Schedule) -> None:
        self.outcome = Outcome()
        self._schedule = schedule
        self._links, self._truth = make_chain(schedule)
        self._log: list[ModelUpdate] = []
        self._fates: dict[int, Fate] = {}
        self._begin()

    def step(self, place: int) -> None:
        """Deliver what a step says."""
        step = self._schedule.steps[place]
        update = self._links[step.link][0]
        if step.restart:
            self._begin()
        # A late payload of an earlier delivery has come by now.
        self._fates = {link: "whole" if fate == "late" else fate for link, fate in self._fates.items()}
        self._fates[step.link] = step.fate
        if not step.forged:
            self._log.append(update)
            self._follower.offer(update)
        self._go_on()

    def arrive_late(self) -> None:
        """Let come what was late, and look once more."""
        self._fates = {link: "whole" if fate == "late" else fate for link, fate in self._fates.items()}
        self._go_on()

    def _begin(self) -> None:
        self._weights = ToyWeights()
        self._follower = ChainFollower(
            self._payload,
            self._weights.apply,
            lambda update, reason, told: self.outcome.reasons.append(str(reason)),
            snapshots=self._stored,
            may_fork=lambda update: self._schedule.may_fork,
        )
        known = KnownUpdates()
        for update in self._log:
            known.add(update)
        self._follower.begin(self._log, known.way(NOTHING, self._stored(0)))
        self._go_on()

    def _go_on(self) -> None:
        self._follower.advance()
        held = self._weights.name
        self.outcome.held.append(held)
        if held != self._follower.present or self._weights.value != self._truth.get(held):
            self.outcome.is_wrong = True

    def _payload(self, update: ModelUpdate, fresh: bool) -> bytes | NotYet | None:
        # A manifest names its payload by where it lies, and so is the link told by it.
        number = update.payload_offset
        payload = self._links[number][1]
        if fresh and update.kind == "snapshot" and self._schedule.stored[number] == "whole":
            return payload
        fate = self._fates.get(number, "missing")
        if fate == "late":
            return NOT_YET
        if fate == "missing":
            return None
        if fate == "truncated":
            return payload[:-1]
        return payload if fate == "whole" else bytes([payload[0] ^ 1]) + payload[1:]

    def _stored(self, version: int) -> list[ModelUpdate]:
        found = [
            update
            for (update, _), stored in zip(self._links, self._schedule.stored, strict=True)
            if update.kind == "snapshot" and update.version > version and stored != "no"
        ]
        return sorted(found, key=lambda update: update.version, reverse=True)[:3]


def make_chain(schedule: Schedule) -> tuple[list[Link], dict[Name, bytes]]:
    """Return the links of a schedule with their payloads, and the weights that each version truly has."""
    weights = ToyWeights()
    truth = {NOTHING: weights.value}
    links: list[Link] = []
    past: list[tuple[Name, bytes]] = []
    for number, kind in enumerate(schedule.links):
        if isinstance(kind, int) and past:
            weights.name, weights.value = past[max(0, len(past) - kind)]
        if kind == "s":
            # The first snapshot starts the chain; later ones repeat the version that is there.
            name = weights.name if weights.name != NOTHING else (1, hashlib.sha256(b"first").hexdigest())
            payload = weights.value + b"whole" if weights.name != NOTHING else hashlib.sha256(b"weights").digest() + b"whole"
            update = _manifest("snapshot", payload, number, name, name)
        else:
            payload = hashlib.sha256(f"delta {number}".encode()).digest()
            digest = hashlib.sha256(payload).hexdigest()
            version = max(name[0] for name in truth) + 1
            chained = hashlib.sha256(f"{weights.name[1]}{digest}".encode()).hexdigest()
            update = _manifest("delta", payload, number, (version, chained), weights.name)
        weights.apply(update, payload)
        truth[weights.name] = weights.value
        past.append((weights.name, weights.value))
        links.append((update, payload))
    return links, truth


def _manifest(kind: str, payload: bytes, number: int, name: Name, base: Name) -> ModelUpdate:
    return ModelUpdate(
        model="next-item",
        kind="delta" if kind == "delta" else "snapshot",
        version=name[0],
        base_version=base[0],
        weights_sha256=name[1],
        base_sha256=base[1],
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        payload_bytes=len(payload),
        payload_parts=1,
        payload_offset=number,
        trigger="count",
        feature_service="next_item",
        created_ms=number,
        learned_events=0,
        learned_offsets={},
        learned_published_ms=[],
        holdout_loss=None,
        live_holdout_loss=None,
    )
