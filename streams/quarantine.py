"""Candidates that the gate refused, kept with what they were learned from so that a person can look into them.

Three files each in the folder `quarantine` of the weight store: `VERSION-TIME.jsonl` has the batch, an event a line, `.safetensors` the
delta that would have gone out, and `.json`, written last, what was wrong. The newest 100 are kept.
"""

import hashlib
import logging
import re
from collections.abc import Sequence

import msgspec

from headrace.online_model.judgement import Verdict
from headrace.schemas import HistoryEntry
from headrace.schemas.model_updates import Trigger
from headrace.streams.training_buffer import Example
from headrace.streams.weight_store import WeightStore

log = logging.getLogger(__name__)

FOLDER = "quarantine"
KEPT = 100
# A delta of a usual round has less than a megabyte.
LARGEST_PAYLOAD_BYTES = 16 * 2**20
_NAMED = re.compile(rf"{FOLDER}/(\d{{10,16}}-\d{{13,16}})\.(json|jsonl|safetensors)")


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was refused: `version` is the one that it would have become, `base_version` what it was learned from.

    `check` names what refused it, `items` those at fault where there are such. `first_offsets` and `last_offsets` tell, for each
    `topic/partition`, which events its batch has. The payload's place is None where it was too large to be kept.
    """

    version: int
    base_version: int
    base_sha256: str
    refused_ms: int
    trigger: Trigger
    check: str
    reason: str
    metrics: dict[str, float]
    items: list[str]
    candidate_loss: float | None
    live_loss: float | None
    events: int
    first_offsets: dict[str, int]
    last_offsets: dict[str, int]
    batch_uri: str
    payload_bytes: int
    payload_sha256: str
    payload_uri: str | None


class QuarantinedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a batch, with the place that it has in Kafka."""

    source: str
    offset: int
    shopper_id: str
    time_ms: int
    published_ms: int
    steps: tuple[HistoryEntry, ...]


class Quarantine:
    """Where the trainer puts what was refused. `largest_bytes` is the largest payload that is kept."""

    def __init__(self, store: WeightStore, kept: int = KEPT, largest_bytes: int = LARGEST_PAYLOAD_BYTES) -> None:
        self._store = store
        self._kept = kept
        self._largest_bytes = largest_bytes

    def put(
        self,
        verdict: Verdict,
        payload: bytes,
        batch: Sequence[Example],
        *,
        version: int,
        base_version: int,
        base_sha256: str,
        trigger: Trigger,
        refused_ms: int,
    ) -> Quarantined:
        """Keep a candidate, and drop the oldest beyond the newest so many. Raises OSError where the store cannot be written."""
        name = f"{FOLDER}/{version:010d}-{refused_ms:013d}"
        is_kept = len(payload) <= self._largest_bytes
        sources = {example.source for example in batch}
        found = Quarantined(
            version=version,
            base_version=base_version,
            base_sha256=base_sha256,
            refused_ms=refused_ms,
            trigger=trigger,
            check=verdict.check,
            reason=verdict.reason,
            metrics=verdict.metrics,
            items=list(verdict.items),
            candidate_loss=verdict.candidate_loss,
            live_loss=verdict.live_loss,
            events=len(batch),
            first_offsets={source: min(one.offset for one in batch if one.source == source) for source in sources},
            last_offsets={source: max(one.offset for one in batch if one.source == source) for source in sources},
            batch_uri=f"{name}.jsonl",
            payload_bytes=len(payload),
            payload_sha256=hashlib.sha256(payload).hexdigest(),
            payload_uri=f"{name}.safetensors" if is_kept else None,
        )
        if is_kept:
            self._store.put_file(f"{name}.safetensors", payload)
        self._store.put_file(f"{name}.jsonl", b"".join(_line(example) for example in batch))
        self._store.put_file(f"{name}.json", msgspec.json.encode(found))
        self._prune()
        return found

    def _prune(self) -> None:
        files = [(match[1], path) for path in self._store.files(FOLDER) if (match := _NAMED.fullmatch(path))]
        names = sorted({name for name, _ in files}, key=_by_time)
        gone = set(names[: max(0, len(names) - self._kept)])
        for name, path in files:
            if name in gone:
                self._store.delete_file(path)


def read_quarantine(store: WeightStore) -> list[Quarantined]:
    """Return what is kept, the newest first. Files that cannot be read are passed over with a warning."""
    found = []
    for path in store.files(FOLDER):
        match = _NAMED.fullmatch(path)
        if match and match[2] == "json":
            try:
                found.append(msgspec.json.decode(store.read_file(path), type=Quarantined))
            except FileNotFoundError:
                # Pruned since it was listed.
                continue
            except msgspec.DecodeError as error:
                log.warning("a file of the quarantine cannot be read", extra={"file": path, "reason": str(error)})
    return sorted(found, key=lambda one: one.refused_ms, reverse=True)


def read_batch(store: WeightStore, candidate: Quarantined) -> list[QuarantinedEvent]:
    """Return the events that a candidate was learned from. Raises FileNotFoundError where it was pruned."""
    lines = store.read_file(candidate.batch_uri).splitlines()
    return [msgspec.json.decode(line, type=QuarantinedEvent) for line in lines]


def _line(example: Example) -> bytes:
    event = QuarantinedEvent(
        source=example.source,
        offset=example.offset,
        shopper_id=example.shopper_id,
        time_ms=example.time_ms,
        published_ms=example.published_ms,
        steps=example.steps,
    )
    return msgspec.json.encode(event) + b"\n"


def _by_time(name: str) -> tuple[int, int]:
    version, _, time_ms = name.partition("-")
    return int(time_ms), int(version)
