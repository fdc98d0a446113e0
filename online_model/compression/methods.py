"""The methods by name, and what each makes of a model: the file that is stored, which `packed.unpacked` makes a served copy of."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from headrace.online_model.compression.packed import Packing, packed
from headrace.online_model.weights import ModelCopy


class UnknownMethod(ValueError):
    """A name that is none of the methods'."""


class Method(NamedTuple):
    """Whether the student is stored in place of the model itself, in how many bits, and whether its small numbers are left out."""

    has_student: bool
    packing: Packing
    is_pruned: bool


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "full": Method(False, Packing(32), False),
        "int8": Method(False, Packing(8), False),
        "int4": Method(False, Packing(4), False),
        "pruned": Method(False, Packing(32), True),
        "pruned+int8": Method(False, Packing(8), True),
        "student": Method(True, Packing(32), False),
        "student+int8": Method(True, Packing(8), False),
        "student+pruned+int8": Method(True, Packing(8), True),
        "student+int4": Method(True, Packing(4), False),
    }
)
PUBLISHED = ("int8", "int4")


def require_known(names: Sequence[str]) -> None:
    """Raise UnknownMethod where a name is none of the methods'."""
    if unknown := [name for name in names if name not in METHODS]:
        raise UnknownMethod(f"methods: some of {', '.join(METHODS)} were expected, not {', '.join(unknown)}")


def compressed(copy: ModelCopy, method: str, *, student: ModelCopy | None = None, pruned_share: float = 0.0) -> bytes:
    """Return the file of a model by a method. `pruned_share` is the share of small numbers that is left out by methods that prune.

    Raises UnknownMethod; ValueError where the method needs a student and none is given.
    """
    require_known([method])
    asked = METHODS[method]
    if asked.has_student and student is None:
        raise ValueError(f"method {method}: a student was expected; distil one from examples first (compression.distillation)")
    stored = student if asked.has_student and student is not None else copy
    return packed(stored, Packing(asked.packing.bits, pruned_share if asked.is_pruned else 0.0))


def compressed_siblings(
    copy: ModelCopy, methods: Sequence[str] = PUBLISHED, *, student: ModelCopy | None = None, pruned_share: float = 0.0
) -> dict[str, bytes]:
    """Return the files of a version that go beside its snapshot, by method. Raises what `compressed` raises.

    Those of `PUBLISHED` need nothing but the weights, and a tenth of a second for 40,000 items: they can be made at each snapshot.
    """
    require_known(methods)
    return {method: compressed(copy, method, student=student, pruned_share=pruned_share) for method in methods}
