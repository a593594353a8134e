"""Searches product vectors by inner product, exactly or approximately, and returns product_ids.

Notable: equal scores come in trec_eval's order (product_id descending). That holds even where the
k-th product shares its score with products further down, which FAISS would cut by position.
Products with the same picture and text do share scores.

No FAISS file is ever read but one that this user's own search wrote (`store.py`): an exact index is
the vectors themselves.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Float32

from beyond_text.config.names import IndexKind as IndexKind
from beyond_text.metrics.found import Ranking

if sys.platform == "darwin":
    # The wheels of FAISS and torch each bring an OpenMP there; two thread pools in a process crash.
    faiss.omp_set_num_threads(1)

# Training vectors per centroid: the fewest that FAISS asks for, and a number that is enough.
MIN_POINTS_PER_CENTROID = 39
POINTS_PER_CENTROID = 64
# Lists that an approximate search reads for a query.
PROBED = 32

Vectors = Float32[np.ndarray, "rows dim"]


class Flat:
    """Compares every product with every query; holds the vectors as they are, mapped or not."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.d = vectors.shape[1]

    def search(self, queries: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scores and positions of the k best products of each query."""
        return faiss.knn(queries, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT)


def _inverted(vectors: Vectors) -> Any:
    """Builds an index of lists around centroids; a search reads those nearest to the query.

    There are 4 sqrt(products) lists, unless that leaves a centroid too few points to learn from.
    Vectors are stored as float16, so scores of unit vectors are within 1e-3 of the exact ones.
    """
    products, dim = vectors.shape
    lists = max(1, min(int(4 * products**0.5), products // MIN_POINTS_PER_CENTROID))
    index: Any = faiss.index_factory(dim, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    shuffled = np.random.default_rng(0).permutation(products)
    index.train(vectors[shuffled[: POINTS_PER_CENTROID * lists]])
    index.add(vectors)
    index.nprobe = min(PROBED, lists)
    return index


KINDS: dict[IndexKind, Callable[[Vectors], Any]] = {"exact": Flat, "approximate": _inverted}


class ProductIndex:
    """Holds product vectors (products, dim) in a FAISS index, with the product_id of each row."""

    def __init__(self, product_ids: Sequence[str], index: Any) -> None:
        self.product_ids = product_ids
        self._index = index

    def __len__(self) -> int:
        return len(self.product_ids)

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes, without the product_ids."""
        if isinstance(self._index, Flat):
            return self._index.vectors.nbytes
        return len(faiss.serialize_index(self._index))

    @classmethod
    def build(
        cls,
        product_ids: list[str],
        vectors: Float[np.ndarray, "products dim"],
        kind: IndexKind = "exact",
    ) -> ProductIndex:
        """Builds an index of one of `KINDS`; the vectors are not normalised.

        Raises:
            ValueError: no product, another number of ids than of vectors, an id that comes twice,
                or a vector that is not finite; names the product.
        """
        vectors = _finite(product_ids, vectors, "product")
        if not product_ids:
            raise ValueError("no product to index")
        if len(set(product_ids)) < len(product_ids):
            double, times = Counter(product_ids).most_common(1)[0]
            raise ValueError(f"product_id {double!r} comes {times} times in {len(product_ids)}")
        return cls(list(product_ids), KINDS[kind](vectors))

    def search(
        self, query_vectors: Float[np.ndarray, "queries dim"], query_ids: list[str], k: int
    ) -> Ranking:
        """Returns the k products with the largest inner products; all where there are fewer.

        An approximate index may miss some of them, but returns as many.

        Raises:
            ValueError: k below 1, another dim than the index, another number of query_ids than
                of vectors, or a vector that is not finite; names the query.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        vectors = _finite(query_ids, query_vectors, "query")
        if vectors.shape[1] != self._index.d:
            raise ValueError(f"query vectors of dim {vectors.shape[1]}, index of {self._index.d}")
        k = min(k, len(self))
        product_ids: list[list[str]] = [[] for _ in query_ids]
        scores = np.zeros((len(query_ids), k), dtype=np.float32)
        open_rows, width = np.arange(len(query_ids)), min(k + 1, len(self))
        while len(open_rows):
            nearest, positions = self._nearest(vectors[open_rows], width)
            # A row is settled once a product beyond the k-th has a smaller score than the k-th.
            settled = (nearest[:, -1] < nearest[:, k - 1]) | (width == len(self))
            for row, row_scores, row_positions in zip(
                open_rows[settled], nearest[settled], positions[settled], strict=True
            ):
                names = [self.product_ids[position] for position in row_positions]
                best = sorted(zip(row_scores, names, strict=True), reverse=True)[:k]
                scores[row] = [score for score, _ in best]
                product_ids[row] = [name for _, name in best]
            open_rows, width = open_rows[~settled], min(2 * width, len(self))
        return Ranking(list(query_ids), product_ids, scores)

    def _nearest(self, vectors: Vectors, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and positions of the best `width` products, [rows, width] each."""
        scores, positions = self._index.search(vectors, width)
        # The lists that were read may hold fewer than `width` products.
        short = positions[:, -1] < 0
        if short.any():
            all_lists: Any = faiss.SearchParametersIVF()
            all_lists.nprobe = self._index.nlist
            scores[short], positions[short] = self._index.search(
                vectors[short], width, params=all_lists
            )
        return scores, positions


def _finite(ids: list[str], vectors: Float[np.ndarray, "rows dim"], view: str) -> Vectors:
    """Returns the vectors as FAISS takes them; refuses rows without an id or finite numbers."""
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise ValueError(f"{len(ids)} {view}_ids for vectors of shape {vectors.shape}")
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        first = ids[int(wrong.argmax())]
        raise ValueError(f"vector of {view} {first!r} is not finite ({wrong.sum()} such rows)")
    return np.ascontiguousarray(vectors, dtype=np.float32)
