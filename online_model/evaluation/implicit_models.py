"""Outside peers: matrix factorisation by the package `implicit`, refitted on a schedule. Needs the extra `evaluate`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.online_model.evaluation.baselines import Popularity, best
from headrace.schemas import HistoryEntry

FACTORS = 64
# The weight of a seen pair against an unseen one: the paper's own choice, and the best of 1, 10 and 40 on the first 40,000 events of
# retailrocket_sessions and yoochoose_clicks (NDCG@20 0.141 against 0.059 with the package's default of 1; 0.294 against 0.198).
ALPHA = 40.0
# On the same events BPR learned next to nothing in its 100 rounds with the default, 0.01 (0.003 against 0.151; 0.159 against 0.255).
LEARNING_RATE = 0.1


class _Refitted(ABC):
    """A factorisation of all (shopper, item) pairs so far, made anew after each `refit_every` steps.

    Before the first fit, and for a shopper of whom no item is known to it, popular items are the answer.
    """

    def __init__(self, refit_every: int, seed: int) -> None:
        _keep_blas_to_one_thread()
        self._refit_every = refit_every
        self._seed = seed
        self._popular = Popularity()
        self._shopper_numbers: dict[str, int] = {}
        self._item_numbers: dict[str, int] = {}
        self._pairs: list[tuple[int, int]] = []
        # The names of the items that the last fit knows; numbers of later ones lie beyond its end.
        self._fitted: list[str] = []

    def rank(self, shopper_id: str, history: Sequence[HistoryEntry], k: int) -> Sequence[str]:
        """Return the items that fit the history best, as of the last fit."""
        numbers = (self._item_numbers.get(entry.item_id) for entry in history)
        known = [number for number in numbers if number is not None and number < len(self._fitted)]
        if not known:
            return self._popular.rank(shopper_id, history, k)
        ranked = self._best(np.array(known), min(k + 1, len(self._fitted)))
        return best((self._fitted[number] for number in ranked.tolist()), history[-1].item_id, k)

    def learn(self, shopper_id: str, history: Sequence[HistoryEntry], step: HistoryEntry) -> None:
        """Note the pair, and fit all pairs anew where it is time."""
        self._popular.learn(shopper_id, history, step)
        shopper = self._shopper_numbers.setdefault(shopper_id, len(self._shopper_numbers))
        self._pairs.append((shopper, self._item_numbers.setdefault(step.item_id, len(self._item_numbers))))
        if len(self._pairs) % self._refit_every == 0:
            from scipy.sparse import csr_matrix

            shoppers, items = np.array(self._pairs).T
            counts = csr_matrix((np.ones(len(items), dtype=np.float32), (shoppers, items)))
            self._fit(counts)
            self._fitted = list(self._item_numbers)

    @abstractmethod
    def _fit(self, counts: Any) -> None:
        """Factorise the counts (shoppers, items)."""

    @abstractmethod
    def _best(self, known: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return the numbers of the `count` best items, best first, for a history of the items `known`, repeats included."""


class AlternatingLeastSquares(_Refitted):
    """Implicit ALS (Hu, Koren and Volinsky, ICDM 2008). A shopper's vector is solved for from the history at each question."""

    _model: Any

    def _fit(self, counts: Any) -> None:
        from implicit.cpu.als import AlternatingLeastSquares as Fit

        self._model = Fit(factors=FACTORS, alpha=ALPHA, num_threads=1, random_state=self._seed)
        self._model.fit(counts, show_progress=False)

    def _best(self, known: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        from scipy.sparse import csr_matrix

        row = csr_matrix(
            (np.ones(len(known), dtype=np.float32), (np.zeros(len(known), dtype=np.int64), known)), shape=(1, len(self._fitted))
        )
        numbers: NDArray[np.int64]
        numbers, _ = self._model.recommend(0, row, N=count, filter_already_liked_items=False, recalculate_user=True)
        return numbers


class BayesianPersonalisedRanking(_Refitted):
    """BPR (Rendle, Freudenthaler, Gantner and Schmidt-Thieme, UAI 2009). A shopper's vector is the mean of the history's items."""

    _items: NDArray[np.float32]

    def _fit(self, counts: Any) -> None:
        from implicit.cpu.bpr import BayesianPersonalizedRanking as Fit

        model = Fit(factors=FACTORS, learning_rate=LEARNING_RATE, num_threads=1, random_state=self._seed)
        model.fit(counts, show_progress=False)
        self._items = model.item_factors

    def _best(self, known: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        shopper = self._items[known].mean(axis=0)
        # The last column is the items' bias, which enters every score as it is.
        shopper[-1] = 1.0
        scores = self._items @ shopper
        found = np.argpartition(-scores, count - 1)[:count]
        ordered: NDArray[np.int64] = found[np.argsort(-scores[found], kind="stable")]
        return ordered


def _keep_blas_to_one_thread() -> None:
    """Limit BLAS in this process, as implicit asks for: with two threads on busy cores a question takes fifty times as long."""
    from threadpoolctl import threadpool_limits

    # Only what is loaded already is limited.
    import_module("implicit.cpu.als")
    threadpool_limits(1, "blas")
