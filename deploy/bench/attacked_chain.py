"""Both ends of the way of weights with no Kafka between: an author of small weights, and one who receives them as scorers do."""

import hashlib
import random
from dataclasses import dataclass, field

import torch

from headrace.deploy.bench.manifests import manifest_of
from headrace.online_model.payload_layout import shapes_of
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import NO_WEIGHTS, BadUpdate, ModelCopy, chained_sha256, delta_payload, dense_names, snapshot_payload
from headrace.schemas import InvalidMessage, ModelUpdate, encode
from headrace.streams.chain import ChainFollower, NotYet
from headrace.streams.signed_records import open_record, signature_header
from headrace.streams.signing import Forged, SigningKey, TrustedKeys

SHAPE = TransformerShape(width=8, layers=1, heads=1, length=5, categories=16)
ITEMS = 20
PARTS = 4


@dataclass(frozen=True)
class Message:
    """An update as it travels: the manifest's bytes, its signature, and the parts of its payload."""

    value: bytes
    signature: bytes
    parts: tuple[bytes, ...]

    @property
    def payload(self) -> bytes:
        """The parts as one."""
        return b"".join(self.parts)


@dataclass
class Author:
    """Makes a chain of small weights, link by link, each split into parts and signed."""

    key: SigningKey
    random: random.Random
    copy: ModelCopy = field(default_factory=lambda: ModelCopy(SHAPE))
    offset: int = 0

    def __post_init__(self) -> None:
        self.copy.add_items([f"item-{number}" for number in range(ITEMS)])

    def snapshot(self) -> tuple[ModelUpdate, Message]:
        """Return the weights whole, as they are."""
        payload = snapshot_payload(self.copy)
        if self.copy.version == 0:
            self.copy.version, self.copy.sha256 = 1, chained_sha256(NO_WEIGHTS, hashlib.sha256(payload).hexdigest())
        return self._message("snapshot", payload, self.copy.version, self.copy.sha256)

    def delta(self) -> tuple[ModelUpdate, Message]:
        """Change the weights and return what has changed."""
        rows = torch.tensor(sorted(self.random.sample(range(1, ITEMS), 5)))
        parameters = self.copy.parameters
        for name in dense_names(self.copy.model):
            parameters[name].add_(self.random.uniform(-0.1, 0.1))
        self.copy.put_rows(rows, torch.full((5, SHAPE.width), self.random.uniform(-1.0, 1.0)))
        payload = delta_payload(self.copy, rows, [])
        name = chained_sha256(self.copy.sha256, hashlib.sha256(payload).hexdigest())
        made = self._message("delta", payload, self.copy.version + 1, name)
        self.copy.take_own(payload, [], made[0].version, name)
        return made

    def _message(self, kind: str, payload: bytes, version: int, name: str) -> tuple[ModelUpdate, Message]:
        size = -(-len(payload) // PARTS)
        base = self.copy.version, self.copy.sha256
        placed = {"payload_parts": PARTS, "payload_offset": self.offset, "created_ms": version}
        signed = {"shapes": shapes_of(payload), "key_id": self.key.key_id}
        update = manifest_of(payload, kind, base, version, name, **placed, **signed)
        self.offset += PARTS
        value = encode(update)
        parts = tuple(payload[start : start + size] for start in range(0, len(payload), size))
        return update, Message(value, self.key.sign(value), parts)


class Receiver:
    """Receives messages as a scorer does."""

    def __init__(self, trusted: TrustedKeys) -> None:
        self.copy = ModelCopy(SHAPE)
        self._trusted = trusted
        self._parts: dict[int, bytes] = {}
        self.chain = ChainFollower(self._payload, self.copy.apply, lambda update, reason, told: None, unfit=BadUpdate)

    def receive(self, message: Message, offset: int) -> None:
        """Take in parts and manifest."""
        self._parts = {offset + number: part for number, part in enumerate(message.parts)}
        try:
            self.chain.offer(open_record(ModelUpdate, message.value, signature_header(message.signature), self._trusted))
        except (InvalidMessage, Forged):
            return
        self.chain.advance()

    def state(self) -> str:
        """Return a digest of all that it serves."""
        digest = hashlib.sha256(f"{self.copy.version} {self.copy.sha256} {self.chain.present} {self.copy.items}".encode())
        for parameter in self.copy.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        return digest.hexdigest()

    def _payload(self, update: ModelUpdate, fresh: bool) -> bytes | NotYet | None:
        found = [self._parts.get(update.payload_offset + number, b"") for number in range(update.payload_parts)]
        return b"".join(found) if any(found) else None
