"""Loops over arrays at the speed of C: Numba, with the settings that all of ours share."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile a function of numbers and NumPy arrays at its first call, and keep the machine code on disk for later processes.

    It runs without the interpreter's lock. Sums may be taken in another order than written, so results are equal to rounding only.
    """
    return cast(F, numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")(function))
