"""What the learner's gate remembers, kept in the weight store beside the snapshots, so that a restart does not make it forget.

Three files each in the folder `gate`: `VERSION-TIME.safetensors` with the arrays, `.json.ed25519` with the signature, and `.json`,
written last, with all else, the arrays' SHA-256 and the weights that it belongs to. The two newest are kept.
"""

import hashlib
import logging
import re
from copy import deepcopy

import msgspec
from safetensors.torch import load
from torch import Tensor

from headrace.online_model.gate_state import BadGateState, Since, TunerState, decode_state, encode_state
from headrace.online_model.transformer import NextItemTransformer
from headrace.online_model.weights import REUSED, ROWS, ModelCopy
from headrace.schemas import ModelUpdate
from headrace.streams.signing import Forged, SigningKey
from headrace.streams.weight_store import WeightStore

log = logging.getLogger(__name__)

FOLDER = "gate"
KEPT = 2
ARRAYS, TOLD, SIGNATURE = ".safetensors", ".json", ".json.ed25519"
_NAMED = re.compile(rf"(?P<name>{FOLDER}/\d{{10,16}}-(?P<time>\d{{13,16}}))(?P<ending>\.safetensors|\.json|\.json\.ed25519)")


class KeptGate(msgspec.Struct, frozen=True, kw_only=True):
    """A state of the gate, and the version and name of the live weights that it was taken with."""

    version: int
    weights_sha256: str
    saved_ms: int
    arrays_sha256: str
    state: msgspec.Raw
    key_id: str | None = None


class GateStore:
    """Keeps states, signed where there is a `signing` key. Where the store has trusted keys, only what one of them has signed is read."""

    def __init__(self, store: WeightStore, signing: SigningKey | None = None) -> None:
        self._store = store
        self._signing = signing

    def put(self, state: TunerState, version: int, weights_sha256: str, saved_ms: int) -> None:
        """Keep a state, and drop the older ones. Raises OSError where the store cannot be written."""
        told, arrays = encode_state(state)
        kept = KeptGate(
            version=version,
            weights_sha256=weights_sha256,
            saved_ms=saved_ms,
            arrays_sha256=hashlib.sha256(arrays).hexdigest(),
            state=msgspec.Raw(told),
            key_id=self._signing.key_id if self._signing is not None else None,
        )
        name, value = f"{FOLDER}/{version:010d}-{saved_ms:013d}", msgspec.json.encode(kept)
        self._store.put_file(name + ARRAYS, arrays)
        if self._signing is not None:
            self._store.put_file(name + SIGNATURE, self._signing.sign(value))
        self._store.put_file(name + TOLD, value)
        self._prune()

    def newest(self) -> tuple[KeptGate, TunerState] | None:
        """Return the state that was kept last, None where there is none, or where it cannot be read or trusted, which is logged."""
        try:
            names = [match["name"] for match in self._files() if match["ending"] == TOLD]
            return self._read(names[-1]) if names else None
        except (OSError, msgspec.DecodeError, Forged, BadGateState) as error:
            log.warning("what the gate remembered cannot be used; it starts anew", extra={"reason": str(error)})
            return None

    def _read(self, name: str) -> tuple[KeptGate, TunerState]:
        value = self._store.read_file(name + TOLD)
        kept = msgspec.json.decode(value, type=KeptGate)
        if self._store.trusted is not None:
            signature = self._store.read_file(name + SIGNATURE) if kept.key_id else None
            self._store.trusted.verify(kept.key_id, value, signature)
        arrays = self._store.read_file(name + ARRAYS)
        if hashlib.sha256(arrays).hexdigest() != kept.arrays_sha256:
            raise BadGateState(f"{name}{ARRAYS} is damaged: its SHA-256 is not the one that {name}{TOLD} names")
        return kept, decode_state(bytes(kept.state), arrays)

    def _files(self) -> list[re.Match[str]]:
        """Return the files by the time of their state, the oldest first."""
        found = [match for path in self._store.files(FOLDER) if (match := _NAMED.fullmatch(path))]
        return sorted(found, key=lambda match: (int(match["time"]), match["name"]))

    def _prune(self) -> None:
        files = self._files()
        kept = list(dict.fromkeys(match["name"] for match in files))[-KEPT:]
        for match in sorted(files, key=lambda match: match["ending"] != TOLD):
            if match["name"] not in kept:
                self._store.delete_file(match[0])


class GateResumption:
    """Looks out for the weights that a kept state belongs to, while a copy takes up the chain update by update.

    Updates that came after the state was kept, as after a crash, are noted: the gate goes on as if it had let them through.
    """

    def __init__(self, kept: KeptGate, state: TunerState) -> None:
        self.version = kept.version
        self.state = state
        self._sha256 = kept.weights_sha256
        self._is_met = False
        self._model: NextItemTransformer | None = None
        self._updates: list[tuple[Tensor, list[int]]] = []

    @property
    def is_met(self) -> bool:
        """Whether the copy has come by the weights of the state and gone on from them."""
        return self._is_met

    @property
    def since(self) -> Since | None:
        """What came after the weights of the state; None where nothing did."""
        return Since(self._model, self._updates) if self._model is not None else None

    def take(self, copy: ModelCopy, update: ModelUpdate, payload: bytes) -> None:
        """Apply an update to the copy. Raises BadUpdate."""
        before = (copy.version, copy.sha256)
        if self._is_met and self._model is None and (update.version, update.weights_sha256) != before:
            # Whatever comes of this update, it is the model as it was.
            self._model = deepcopy(copy.model)
        copy.apply(update, payload)
        if (copy.version, copy.sha256) == (self.version, self._sha256):
            self._is_met, self._model, self._updates = True, None, []
        elif update.kind == "delta":
            tensors = load(payload)
            self._updates.append((tensors[ROWS], tensors[REUSED].tolist()))
        elif (copy.version, copy.sha256) != before:
            # What lies between is not known.
            self._is_met, self._model = False, None
