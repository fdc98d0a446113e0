"""The models that can be evaluated, by name."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import NamedTuple

from headrace.online_model.evaluation.baselines import Covisitation, Popularity, SessionNeighbours
from headrace.online_model.evaluation.held_models import EachNight, EachSteps, Frozen, Renewed
from headrace.online_model.evaluation.stream_model import StreamModel
from headrace.online_model.evidence import NETWORK, PARTS

REFITS = 10


class UnknownModel(ValueError):
    """A name that no model has."""


class MissingPackage(ImportError):
    """A model needs a package that is not installed."""


class StreamContext(NamedTuple):
    """What a factory may know of the stream: how long it is."""

    events: int
    steps: int

    @property
    def steps_per_refit(self) -> int:
        """Steps between two of the fits, of which there are ten in a stream."""
        return max(1, self.steps // REFITS)


Factory = Callable[[int, StreamContext], StreamModel]


def _headrace(seed: int, context: StreamContext, left_out: Sequence[str] = (), steps: int | None = None) -> StreamModel:
    from headrace.online_model.fine_tuning import TuningPlan

    plan = TuningPlan() if steps is None else TuningPlan(steps=steps)
    model: StreamModel = import_module("headrace.online_model.next_item").NextItemModel(seed, plan, left_out=left_out)
    return model


def _als(seed: int, context: StreamContext) -> StreamModel:
    from headrace.online_model.evaluation.implicit_models import AlternatingLeastSquares

    require_package("implicit", "the model als")
    return AlternatingLeastSquares(context.steps_per_refit, seed)


def _bpr(seed: int, context: StreamContext) -> StreamModel:
    from headrace.online_model.evaluation.implicit_models import BayesianPersonalisedRanking

    require_package("implicit", "the model bpr")
    return BayesianPersonalisedRanking(context.steps_per_refit, seed)


MODELS: dict[str, Factory] = {
    "popularity": lambda seed, context: Popularity(),
    "covisitation": lambda seed, context: Covisitation(),
    "session_knn": lambda seed, context: SessionNeighbours(),
    "als": _als,
    "bpr": _bpr,
    "headrace": _headrace,
    # What each part of the model is worth.
    **{f"headrace_without_{part}": partial(_headrace, left_out=(part,)) for part in (*PARTS, NETWORK)},
    # What more and fewer optimizer steps a round cost and bring; usually there are 3.
    **{f"headrace_with_{steps}_steps": partial(_headrace, steps=steps) for steps in (1, 2, 8)},
}

Holding = Callable[[StreamModel, StreamContext], StreamModel]

# Any model can be had with one of these behind its name and an underscore.
HOLDINGS: dict[str, Holding] = {
    "frozen": lambda model, context: Frozen(model, context.steps // 2),
    "refit": lambda model, context: Renewed(model, EachSteps(context.steps_per_refit)),
    "nightly": lambda model, context: Renewed(model, EachNight()),
}


def build(name: str, seed: int, context: StreamContext) -> StreamModel:
    """Return a new model. Raises UnknownModel, and MissingPackage where it needs one that is not installed."""
    require_known([name])
    if name in MODELS:
        return MODELS[name](seed, context)
    base, _, holding = name.rpartition("_")
    return HOLDINGS[holding](MODELS[base](seed, context), context)


def require_known(names: Sequence[str]) -> None:
    """Raise UnknownModel, which names the known ones, where a model is not known."""
    for name in names:
        base, _, holding = name.rpartition("_")
        if name not in MODELS and not (base in MODELS and holding in HOLDINGS):
            endings = ", ".join(f"_{ending}" for ending in HOLDINGS)
            known = ", ".join(MODELS)
            raise UnknownModel(f"models: one of {known}, or one of these with {endings} behind its name, was expected, not {name!r}")


def require_package(package: str, what: str) -> None:
    """Raise MissingPackage, which says how to install it, where a package of the extra `evaluate` is not there; `what` needs it."""
    try:
        import_module(package)
    except ImportError:
        raise MissingPackage(f"{what} needs the package {package}; install it with: pip install 'headrace[evaluate]'") from None
