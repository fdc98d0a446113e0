"""Attacks on the way of weights, with no Kafka between: corrupted messages and files, and deliveries in any order.

What is attacked is what the parts run: the opening of manifests, `streams.chain`, `ModelCopy.apply`, and the weight store in a folder.
All that happens follows from a seed, but for the keys.
"""

import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace

from headrace.deploy.bench.attacked_chain import Author, Message, Receiver
from headrace.deploy.bench.deliveries import run_schedule
from headrace.deploy.bench.schedules import random_schedule
from headrace.schemas import ModelUpdate, encode
from headrace.streams.signed_records import open_record
from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.weight_store import WeightStore

KINDS = ("bit", "cut", "swap", "extend", "replay", "wrong key")
PLACES = ("manifest", "signature", "payload")
KEPT_MESSAGES = 20

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Attack:
    """What is done: to a message on its way or to a stored file, to which place in it, and in which way."""

    stored: bool
    place: str
    kind: str


ATTACKS = tuple(Attack(stored, place, kind) for kind in KINDS for place in PLACES for stored in (False, True))


def corruptions(count: int, seed: int = 1, tell: Tell = lambda done: None) -> int:
    """Return how many of so many corruptions of messages and stored files were taken in; `tell` is told how many are done.

    After each the sound update must be taken in: RuntimeError where it is not, since then a refusal would say nothing.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="headrace-attacks-") as folder, _refusals_unsaid():
        key, stranger = SigningKey.create(Path(folder, "keys")), SigningKey.create(Path(folder, "strangers"))
        trusted = TrustedKeys(Path(folder, "keys", "trusted"))
        on_the_way = _MessageAttacks(Author(key, draw), Receiver(trusted), stranger, draw)
        in_the_store = _FileAttacks(Author(key, draw), WeightStore(Path(folder, "weights"), trusted), stranger, draw)
        accepted = 0
        for number in range(count):
            attack = ATTACKS[number % len(ATTACKS)]
            accepted += (in_the_store if attack.stored else on_the_way).run(attack)
            tell(number + 1)
    return accepted


def schedules(count: int, seed: int = 1, tell: Tell = lambda done: None) -> int:
    """Return in how many of so many random delivery schedules a follower held other weights than those that it named."""
    draw = random.Random(seed)
    wrong = 0
    for number in range(count):
        wrong += run_schedule(random_schedule(draw)).is_wrong
        tell(number + 1)
    return wrong


@contextmanager
def _refusals_unsaid() -> Iterator[None]:
    """Keep the store's warnings out of the log: each is what is hoped for here."""
    log = logging.getLogger("headrace.streams.weight_store")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


class _MessageAttacks:
    def __init__(self, author: Author, receiver: Receiver, stranger: SigningKey, draw: random.Random) -> None:
        self._author, self._receiver, self._stranger, self._draw = author, receiver, stranger, draw
        update, first = author.snapshot()
        receiver.receive(first, update.payload_offset)
        self._past = [first]

    def run(self, attack: Attack) -> bool:
        """Deliver a spoilt message, then the sound one; return whether the spoilt one changed anything."""
        update, sound = self._author.delta()
        before = self._receiver.state()
        self._receiver.receive(spoilt(sound, attack, self._past, self._stranger, self._draw), update.payload_offset)
        accepted = self._receiver.state() != before
        self._receiver.receive(sound, update.payload_offset)
        if self._receiver.copy.sha256 != self._author.copy.sha256:
            raise RuntimeError(f"the sound version {update.version} was refused after an attack by {attack.kind} on its {attack.place}")
        self._past = [*self._past[1 - KEPT_MESSAGES :], sound]
        return accepted


class _FileAttacks:
    def __init__(self, author: Author, store: WeightStore, stranger: SigningKey, draw: random.Random) -> None:
        self._author, self._store, self._stranger, self._draw = author, store, stranger, draw

    def run(self, attack: Attack) -> bool:
        """Store a sound snapshot and a newer, spoilt one; return whether the store gives out any of the latter."""
        update, good = self._author.snapshot()
        self._author.delta()
        newer, sound = self._author.snapshot()
        found = spoilt(sound, attack, [good], self._stranger, self._draw)
        self._store.put(update, good.payload, good.value, good.signature)
        self._store.put(newer, found.payload, found.value, found.signature)
        given = self._store.newest()
        if given is None:
            raise RuntimeError(f"the sound version {update.version} was not given out after an attack by {attack.kind}")
        self._store.prune(newest=0)
        return given != (update, good.payload)


def spoilt(sound: Message, attack: Attack, past: Sequence[Message], stranger: SigningKey, draw: random.Random) -> Message:
    """Return a message that is not the sound one, by an attack with what was there in the `past`."""
    other = draw.choice(past)
    if attack.kind == "replay":
        # An old message as a whole, an old manifest with the new bytes, or the new manifest with old bytes.
        replayed = {"manifest": other, "signature": Message(other.value, other.signature, sound.parts)}
        return replayed.get(attack.place, Message(sound.value, sound.signature, other.parts))
    if attack.kind == "wrong key":
        named = sound.value if attack.place == "signature" else encode(_named(sound, stranger.key_id))
        return Message(named, stranger.sign(named), sound.parts)
    if attack.place == "manifest":
        return Message(_changed(sound.value, attack.kind, draw, other.value), sound.signature, sound.parts)
    if attack.place == "signature":
        return Message(sound.value, _changed(sound.signature, attack.kind, draw, other.signature), sound.parts)
    parts = list(sound.parts)
    number = draw.randrange(len(parts))
    if attack.kind == "swap":
        swapped = [*parts[number:], *parts[:number]] if number else parts[::-1]
        return Message(sound.value, sound.signature, tuple(swapped))
    parts[number] = _changed(parts[number], attack.kind, draw, other.parts[number])
    return Message(sound.value, sound.signature, tuple(parts))


def _changed(value: bytes, kind: str, draw: random.Random, other: bytes) -> bytes:
    """Return other bytes than `value`."""
    if kind == "bit":
        flipped = bytearray(value)
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if kind == "cut":
        return value[: draw.randrange(len(value))]
    if kind == "extend":
        return value + draw.randbytes(draw.randint(1, 40))
    # Swapped for that of another message, or its halves for each other.
    half = len(value) // 2
    return other if draw.random() < 0.5 else value[half:] + value[:half]


def _named(message: Message, key_id: str) -> ModelUpdate:
    return replace(open_record(ModelUpdate, message.value, [], None), key_id=key_id)
