"""A chain of small weights for tests: published as the learner does, and kept so that any version can be made again."""

import hashlib

import torch
from msgspec.structs import replace

from headrace.deploy.bench.manifests import manifest_of
from headrace.online_model.weights import NO_WEIGHTS, ModelCopy, chained_sha256, delta_payload, dense_names, snapshot_payload
from headrace.schemas import ModelUpdate
from headrace.streams.signing import SigningKey
from headrace.streams.weight_store import WeightStore
from headrace.streams.weights_channel import WeightsPublisher


class Chain:
    """Publishes snapshots and random deltas. `links` holds every update with its payload, in order."""

    def __init__(self, bootstrap: str, items: int = 30, *, signing: SigningKey | None = None, store: WeightStore | None = None) -> None:
        torch.manual_seed(1)
        self.copy = ModelCopy()
        self.copy.add_items([f"item-{number}" for number in range(items)])
        self.links: list[tuple[ModelUpdate, bytes]] = []
        self.publisher = WeightsPublisher(bootstrap, "test-learner", signing=signing, store=store)

    def snapshot(self) -> ModelUpdate:
        """Publish the weights whole; the first get their name here."""
        payload = snapshot_payload(self.copy)
        if self.copy.version == 0:
            self.copy.version = 1
            self.copy.sha256 = chained_sha256(NO_WEIGHTS, hashlib.sha256(payload).hexdigest())
        return self._publish("snapshot", payload, self.copy.version, self.copy.sha256)

    def delta(self, *new_items: str, version: int | None = None) -> ModelUpdate:
        """Change the dense weights and some rows, and publish the difference as the next version, or the one that is told."""
        base = (self.copy.version, self.copy.sha256)
        self.copy.add_items(new_items)
        touched = torch.unique(torch.cat([torch.randint(1, len(self.copy.items), (8,)), torch.arange(len(self.copy.items))[-1:]]))
        parameters = dict(self.copy.model.named_parameters())
        with torch.no_grad():
            for name in dense_names(self.copy.model):
                parameters[name].add_(0.05 * torch.randn_like(parameters[name]))
            parameters["items.weight"][touched] += 0.2 * torch.randn(len(touched), self.copy.model.shape.width)
        payload = delta_payload(self.copy, touched, new_items)
        name = chained_sha256(base[1], hashlib.sha256(payload).hexdigest())
        update = self._publish("delta", payload, version or base[0] + 1, name)
        # What is sent is rounded, and the author goes on from what was sent.
        self.copy.take_own(payload, (), update.version, name)
        return update

    def manifest(self, kind: str, payload: bytes, version: int, name: str, offset: int, parts: int) -> ModelUpdate:
        """Return what announces a payload that builds on the weights as they are."""
        base = self.copy.version, self.copy.sha256
        return manifest_of(payload, kind, base, version, name, payload_offset=offset, payload_parts=parts, created_ms=1)

    def at(self, version: int) -> ModelCopy:
        """Make the weights of a version again from what was published."""
        copy = ModelCopy()
        for update, payload in self.links:
            if copy.version < update.version <= version:
                copy.apply(update, payload)
        return copy

    def resend(self, update: ModelUpdate, **changes: object) -> None:
        """Send a manifest once more, with changes."""
        self.publisher.send_manifest(replace(update, **changes))

    def _publish(self, kind: str, payload: bytes, version: int, name: str) -> ModelUpdate:
        update = self.publisher.publish(self.manifest(kind, payload, version, name, 0, 1), payload)
        self.links.append((update, payload))
        return update
