"""An approximate index over a very large catalogue (HNSW; Malkov and Yashunin, 2018), by usearch, which the extra 'compress' brings.

It is a choice, not a default: `coarse_units` answers exactly, and many histories together faster than one by one. An index pays for single
questions to catalogues of `PAYS_FROM` items and more that change seldom: a changed row takes 0.05 to 0.25 ms, so an update of 1,000 rows
does not come in within 5 ms. What it finds is scored exactly, so that only what it misses can be wrong. Measured recall@100: 0.997 for a
trained model of 36,000 items, 0.97 for 524,288 vectors in clusters, 0.80 for 131,072 without any; `recall` measures one's own.

The scorer does not use it. Each of its four copies (two lanes, left and right) would need one, kept up within a swap, and built anew beside
the live one after each snapshot: 100,000 rows take half a minute of a processor's time and a million many minutes, while a snapshot comes
every 20 versions. What would do is one index for all copies that is never changed, with a list of the rows that were touched since it was
built beside it, scored exactly with the copy that answers (0.4 ms for 20,000 rows); it pays where few rows change while it is built.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.online_model.row_products import row_products

# Measured by `headrace bench scorer --index-items`: here one question takes a third of the exact search's time, at 100,000 as much.
PAYS_FROM = 500_000
# Neighbours of a row, and how many are looked at while adding and while asking.
NEIGHBOURS, ADDING, ASKING = 24, 128, 256
# For k items as many candidates are asked for, since 8-bit distances confuse near ones.
ASKED_FOR = 1.5


class CatalogueIndex:
    """Finds most of the best rows of `units`, (capacity, width), without looking at all. Rows 1 to `size` - 1 are in it.

    Any number of threads may ask while nobody puts. Raises ImportError without usearch.
    """

    def __init__(self, units: Tensor, size: int, *, threads: int = 0) -> None:
        from usearch.index import Index

        self._units = units
        self._threads = threads
        self._index: Any = Index(
            ndim=units.shape[1], metric="ip", dtype="i8", connectivity=NEIGHBOURS, expansion_add=ADDING, expansion_search=ASKING
        )
        self.put(torch.arange(1, size), units)

    def __len__(self) -> int:
        return len(self._index)

    def put(self, rows: Tensor, units: Tensor) -> None:
        """Take in rows, (rows,), that are new or have changed; `units`, (capacity, width), is the table from now on."""
        self._units = units
        keys = rows.cpu().numpy().astype(np.uint64)
        if known := [int(key) for key in keys if key in self._index]:
            self._index.remove(np.array(known, np.uint64))
        self._index.add(keys, units[rows].float().cpu().numpy(), threads=self._threads)

    def best(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the `k` largest products found for each vector, (batch, width), and their rows, (batch, k), the largest first."""
        asked = min(len(self._index), int(ASKED_FOR * k))
        unit_vectors = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
        found = self._index.search(unit_vectors, asked, threads=self._threads).keys
        rows = torch.from_numpy(np.asarray(found).astype(np.int64).reshape(len(vectors), -1))
        products = torch.from_numpy(row_products(self._units, rows, vectors))
        top = products.topk(min(k, rows.shape[1]), dim=1)
        return top.values, rows.gather(1, top.indices)

    def recall(self, vectors: Tensor, k: int, size: int) -> float:
        """Return which share of the true best `k` of rows 1 to `size` - 1 is found for these vectors, (batch, width)."""
        exact = (vectors @ self._units[1:size].T).topk(k, dim=1).indices + 1
        _, rows = self.best(vectors, k)
        hits = sum(len(set(one) & set(other)) for one, other in zip(rows.tolist(), exact.tolist(), strict=True))
        return hits / (len(vectors) * k)
