"""What mixture and ranking network have learned, as bytes that travel: whoever starts, or only reads along, ranks as well as the rest.

The payload is safetensors with two arrays: the mixture's weights, (contexts, parts), and the running mean of the network's
weights in one row. The counts of what the network was made for travel too, so that weights of other evidence are refused.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headrace.online_model.mixture import Mixture
from headrace.online_model.ranking_network import RankingNetwork
from headrace.online_model.weights import BadUpdate

MIXTURE, NETWORK, STEPS = "mixture", "network", "steps"


def ranking_payload(mixture: Mixture, network: RankingNetwork) -> bytes:
    """Return what both have learned so far. No other thread may teach them meanwhile."""
    arrays: dict[str, NDArray[Any]] = {MIXTURE: mixture.learned(), NETWORK: network.learned(), STEPS: np.array([network.steps], np.int64)}
    return bytes(save(arrays))


def take_up(mixture: Mixture, network: RankingNetwork, payload: bytes) -> None:
    """Put what was learned elsewhere in place of one's own. Raises BadUpdate, with nothing changed, where it does not fit."""
    try:
        found: dict[str, NDArray[np.generic]] = load(payload)
    except (SafetensorError, KeyError) as error:
        raise BadUpdate(f"ranking weights: not safetensors: {error}") from None
    for name, own in ((MIXTURE, mixture.learned()), (NETWORK, network.learned()), (STEPS, np.zeros(1, np.int64))):
        if name not in found or found[name].shape != own.shape or found[name].dtype != own.dtype:
            told = f"{found[name].shape} of {found[name].dtype}" if name in found else "nothing"
            raise BadUpdate(f"ranking weights: {name} of shape {own.shape} and {own.dtype} was expected, not {told}")
        if not np.isfinite(found[name].astype(np.float64)).all():
            raise BadUpdate(f"ranking weights: {name} holds values that are not finite numbers")
    weights = found[MIXTURE].astype(np.float64)
    if not ((weights >= 0).all() and np.allclose(weights.sum(axis=1), 1.0, atol=1e-6)):
        raise BadUpdate("ranking weights: the mixture's weights of a context do not add up to 1")
    mixture.take_up(weights)
    network.take_up(found[NETWORK].astype(np.float32), int(found[STEPS].astype(np.int64)[0]))
