"""Magnitude pruning: numbers below a threshold become 0, and the others are stored beside a mask of one bit for each place.

Han et al., "Learning both weights and connections", NeurIPS 2015. The threshold of a matrix is told as the share of its numbers that lie
below it; `chosen_share` takes the largest share by which a model is not noticeably worse on histories kept for validation.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOLERATED_LOSS = 0.01


def chosen_share(quality: Callable[[float], float], tolerated_loss: float = TOLERATED_LOSS, shares: Sequence[float] = SHARES) -> float:
    """Return the largest of the shares before the first that costs more than the tolerated part of the quality at share 0; else 0.

    `quality` tells how good the model is with this share of its numbers pruned.
    """
    whole, chosen = quality(0.0), 0.0
    for share in shares:
        if quality(share) < (1.0 - tolerated_loss) * whole:
            break
        chosen = share
    return chosen


def prune(matrix: Tensor, share: float) -> Tensor:
    """Return the matrix with the `share` of its numbers that are smallest in magnitude set to 0."""
    count = int(share * matrix.numel())
    if not count:
        return matrix
    magnitudes = matrix.abs().flatten().numpy()
    threshold = float(np.partition(magnitudes, count - 1)[count - 1])
    return torch.where(matrix.abs() <= threshold, 0.0, matrix)


def pack_mask(mask: Tensor) -> Tensor:
    """Return a mask of any shape as bits, eight to a byte, as one row of uint8."""
    return torch.from_numpy(np.packbits(mask.flatten().numpy()))


def unpack_mask(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the mask of this shape."""
    bits = np.unpackbits(packed.numpy(), count=int(np.prod(shape)))
    return torch.from_numpy(bits.astype(bool)).view(shape)
