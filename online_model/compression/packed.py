"""Files of smaller models: safetensors with whole numbers in place of floats, or only the numbers that pruning has left.

Each matrix is stored under its parameter's name and a suffix that says how. Of an item only the direction of its vector is served, so its
row needs no scale: whole numbers divided by their own length are the unit vector. Ids of items are one text, compressed. The file
names the weights that it was made of; what is read is checked before it is used.
"""

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from headrace.online_model.compression.pruning import pack_mask, prune, unpack_mask
from headrace.online_model.compression.quantization import Bits, pack_nibbles, quantize, unpack_nibbles
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import ModelCopy, dense_names

FORMAT = "headrace-packed-1"
TABLE, NAMES = "items.units", "items.names"
INT8, INT4, SCALES, MASK, KEPT = ".int8", ".int4", ".scales", ".mask", ".kept"
MOST_NAME_BYTES = 1 << 31


class BadPacked(ValueError):
    """A file that is no smaller model, or a damaged one; the text says what is wrong."""


@dataclass(frozen=True)
class Packing:
    """How matrices are stored: `bits` of a number of the item table, and the share of it and of the linear layers that is pruned.

    With 8 bits all matrices have 8; with 4 the linear layers and the small tables keep 8, since they take little room.
    """

    bits: Literal[32, 8, 4] = 32
    pruned_share: float = 0.0


def packed(copy: ModelCopy, packing: Packing) -> bytes:
    """Return the file of a copy's weights."""
    parameters = copy.parameters
    tensors: dict[str, Tensor] = {}
    for name in dense_names(copy.model):
        weights = parameters[name].detach().float().cpu()
        if weights.ndim != 2:
            tensors[name] = weights.clone()
            continue
        linear = name.startswith("blocks.")
        tensors |= _stored(name, weights, 8 if packing.bits < 32 else 32, packing.pruned_share if linear else 0.0, has_scales=True)
    units = copy.units[1 : len(copy.items)].cpu()
    tensors |= _stored(TABLE, units, packing.bits, packing.pruned_share, has_scales=False)
    names = zlib.compress("\n".join(copy.items[1:]).encode(), 9)
    tensors[NAMES] = torch.frombuffer(bytearray(names), dtype=torch.uint8)
    told = {
        "format": FORMAT,
        "shape": json.dumps(asdict(copy.model.shape)),
        "items": str(len(copy.items) - 1),
        "version": str(copy.version),
        "weights_sha256": copy.sha256,
    }
    return bytes(save(tensors, told))


def unpacked(payload: bytes, device: str | torch.device = "cpu") -> ModelCopy:
    """Return a copy that serves what the file holds: `version` is that of the weights it was made of, `sha256` that of the file.

    Raises BadPacked.
    """
    told = _told(payload)
    tensors = load(payload)
    try:
        shape = TransformerShape(**json.loads(told["shape"]))
        count, version = int(told["items"]), int(told["version"])
        copy = ModelCopy(shape, device)
        copy.add_items(_names(tensors[NAMES], count))
        with torch.no_grad():
            parameters = copy.parameters
            for name in dense_names(copy.model):
                wanted = parameters[name]
                parameters[name].copy_(_finite(name, tensors[name] if name in tensors else _read(name, tensors, tuple(wanted.shape))))
        table = functional.normalize(_finite(TABLE, _read(TABLE, tensors, (count, shape.width))), dim=1)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise error if isinstance(error, BadPacked) else BadPacked(f"a file of a smaller model was expected: {error!r}") from None
    copy.put_rows(torch.arange(1, count + 1), table)
    copy.version, copy.sha256 = version, hashlib.sha256(payload).hexdigest()
    return copy


def _stored(name: str, matrix: Tensor, bits: Literal[32, 8, 4], pruned_share: float, *, has_scales: bool) -> dict[str, Tensor]:
    """Return the tensors that hold a matrix."""
    tensors: dict[str, Tensor] = {}
    kept = prune(matrix, pruned_share)
    mask = kept != 0.0
    is_sparse = pruned_share > 0.0
    if is_sparse:
        tensors[name + MASK] = pack_mask(mask)
    if bits == 32:
        tensors[name + KEPT if is_sparse else name] = kept[mask] if is_sparse else kept.contiguous()
        return tensors
    numbers, scales = quantize(kept, bits)
    if has_scales:
        tensors[name + SCALES] = scales
    flat = numbers[mask] if is_sparse else numbers.contiguous()
    tensors[name + (INT8 if bits == 8 else INT4)] = flat if bits == 8 else pack_nibbles(flat)
    return tensors


def _read(name: str, tensors: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Return the matrix that `_stored` has stored."""
    mask = unpack_mask(tensors[name + MASK], shape) if name + MASK in tensors else torch.ones(shape, dtype=torch.bool)
    if name in tensors:
        return tensors[name].view(shape)
    count = int(mask.sum())
    bits: Bits | None = 8 if name + INT8 in tensors else 4 if name + INT4 in tensors else None
    if bits is None:
        flat = tensors[name + KEPT]
    else:
        flat = tensors[name + INT8].flatten() if bits == 8 else unpack_nibbles(tensors[name + INT4], count)
    if len(flat) != count:
        raise BadPacked(f"{name}: {count} numbers were expected, the file holds {len(flat)}")
    matrix = torch.zeros(shape)
    matrix[mask] = flat.float()
    return matrix * tensors[name + SCALES][:, None] if name + SCALES in tensors else matrix


def _names(encoded: Tensor, count: int) -> list[str]:
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(encoded.numpy().tobytes(), MOST_NAME_BYTES).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise BadPacked(f"{NAMES}: compressed ids of items were expected: {error}") from None
    names = text.split("\n") if text else []
    if len(names) != count:
        raise BadPacked(f"{NAMES}: {count} ids were expected, the file holds {len(names)}")
    return names


def _finite(name: str, values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise BadPacked(f"{name}: finite numbers were expected")
    return values


def _told(payload: bytes) -> dict[str, str]:
    """Return what the file says of itself."""
    try:
        load(payload)
        size = int.from_bytes(payload[:8], "little")
        told = json.loads(payload[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadPacked(f"safetensors were expected: {error}") from None
    if told.get("format") != FORMAT:
        raise BadPacked(f"format: {FORMAT!r} was expected, the file says {told.get('format')!r}")
    return {str(key): str(value) for key, value in told.items()}
