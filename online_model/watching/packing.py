"""Arrays as JSON can hold them: type, shape, and compressed bytes in base64."""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = ("<f8", "<i8", "|b1")


def packed(array: NDArray[Any]) -> dict[str, Any]:
    """Return an array of float64, int64 or bool as JSON can hold it."""
    kind = array.dtype.newbyteorder("<").str
    data = np.ascontiguousarray(array, np.dtype(kind))
    return {"type": kind, "shape": list(array.shape), "bytes": base64.b64encode(zlib.compress(data.tobytes(), 1)).decode()}


def unpacked(saved: Mapping[str, Any]) -> NDArray[Any]:
    """Return the array that was packed. Raises ValueError where that is none of ours."""
    if saved.get("type") not in _TYPES:
        raise ValueError(f"type: one of {', '.join(_TYPES)} was expected; the value is {saved.get('type')!r}")
    data = zlib.decompress(base64.b64decode(saved["bytes"]))
    return np.frombuffer(data, np.dtype(saved["type"])).reshape(saved["shape"]).copy()
