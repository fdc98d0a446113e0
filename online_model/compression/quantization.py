"""Numbers of 8 or 4 bits in place of floats, with a scale of its own for each row.

A row is divided by its scale and rounded to whole numbers from -127 to 127, or from -7 to 7. With 8 bits the scale lets the row's largest
number just fit. With 4 bits that would waste the few steps on one number, so the scale is the one of several that keeps the row's
direction best: what is far off is clipped.
"""

from typing import Literal

import torch
from torch import Tensor

Bits = Literal[8, 4]
LARGEST: dict[Bits, int] = {8: 127, 4: 7}
# The share of a row's largest number that still fits.
CLIPPED_TO = (1.0, 0.9, 0.8, 0.7, 0.6)
SMALLEST_SCALE = 1e-12


def quantize(matrix: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """Return whole numbers as int8, of the matrix's shape (rows, width), and what each row is to be multiplied by, (rows,)."""
    ranges = matrix.abs().amax(dim=1).clamp_min(SMALLEST_SCALE * LARGEST[bits])
    best, best_scales = _rounded(matrix, ranges / LARGEST[bits], bits), ranges / LARGEST[bits]
    if bits == 8:
        return best.to(torch.int8), best_scales
    nearest = _cosines(matrix, best)
    for share in CLIPPED_TO[1:]:
        scales = share * ranges / LARGEST[bits]
        numbers = _rounded(matrix, scales, bits)
        cosines = _cosines(matrix, numbers)
        better = cosines > nearest
        nearest = torch.where(better, cosines, nearest)
        best = torch.where(better[:, None], numbers, best)
        best_scales = torch.where(better, scales, best_scales)
    return best.to(torch.int8), best_scales


def pack_nibbles(numbers: Tensor) -> Tensor:
    """Return whole numbers from -7 to 7, of any shape, two to a byte, as one row of uint8; an odd one is followed by a 0."""
    flat = numbers.flatten().to(torch.int16) + 8
    if len(flat) % 2:
        flat = torch.cat([flat, flat.new_tensor([8])])
    return (flat[0::2] | (flat[1::2] << 4)).to(torch.uint8)


def unpack_nibbles(packed: Tensor, count: int) -> Tensor:
    """Return the first `count` whole numbers, (count,), of what `pack_nibbles` gave, as int8."""
    pairs = torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count]
    return pairs.to(torch.int8) - 8


def _rounded(matrix: Tensor, scales: Tensor, bits: Bits) -> Tensor:
    return (matrix / scales[:, None]).round_().clamp_(-LARGEST[bits], LARGEST[bits])


def _cosines(matrix: Tensor, numbers: Tensor) -> Tensor:
    return torch.cosine_similarity(matrix, numbers, dim=1)
