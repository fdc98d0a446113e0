"""Loops over arrays at the speed of C: Numba, with the settings that all of ours share."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


_SETTINGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}


def compiled(function: F) -> F:
    """Compile a function of numbers and NumPy arrays at its first call, and keep the machine code on disk for later processes.

    It runs without the interpreter's lock. Sums may be taken in another order than written, so results are equal to rounding only.
    The code is kept beside the source, or in `NUMBA_CACHE_DIR`; where neither can be written, each process compiles for itself.
    """
    return _compiled(function, _SETTINGS)


def compiled_for_finite(function: F) -> F:
    """Do as `compiled`, for a function that meets no infinite number and no NaN: only then is a largest one found several at a time."""
    return _compiled(function, _SETTINGS | {"fastmath": True})


def _compiled(function: F, settings: dict[str, Any]) -> F:
    try:
        return cast(F, numba.njit(cache=True, **settings)(function))
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return cast(F, numba.njit(**settings)(function))
