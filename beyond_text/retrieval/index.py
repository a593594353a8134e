"""Searches product vectors by inner product, and returns product_ids (`nearest.py` finds the rows).

Notable: equal scores come in trec_eval's order (product_id descending). That holds even where the
k-th product shares its score with products further down, which FAISS would cut by position.
Products with the same picture and text do share scores.

No FAISS file is ever read but one that this user's own search wrote (`indexing/faiss_cache.py`): an
exact index is the vectors themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from beyond_text.config.names import IndexKind
from beyond_text.metrics.found import Ranking
from beyond_text.retrieval.nearest import Nearest, settled

Vectors = Float32[np.ndarray, "rows dim"]


class ProductIndex:
    """Holds product vectors (products, dim), with the product_id of each row."""

    def __init__(self, product_ids: Sequence[str], nearest: Nearest) -> None:
        self.product_ids = product_ids
        self.nearest = nearest

    def __len__(self) -> int:
        return len(self.product_ids)

    @classmethod
    def build(
        cls,
        product_ids: list[str],
        vectors: Float[np.ndarray, "products dim"],
        kind: IndexKind = "exact",
    ) -> ProductIndex:
        """Builds an index of a kind; the vectors are not normalised.

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
        return cls(list(product_ids), Nearest.build(kind, vectors))

    def search(
        self, query_vectors: Float[np.ndarray, "queries dim"], query_ids: list[str], k: int
    ) -> Ranking:
        """Returns the k products with the largest inner products; all where there are fewer.

        A kind other than exact may miss some of them, but returns as many.

        Raises:
            ValueError: k below 1, another dim than the index, another number of query_ids than
                of vectors, or a vector that is not finite; names the query.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        vectors = _finite(query_ids, query_vectors, "query")
        if vectors.shape[1] != self.nearest.dim:
            raise ValueError(
                f"query vectors of dim {vectors.shape[1]}, index of {self.nearest.dim}"
            )
        k = min(k, len(self))
        product_ids: list[list[str]] = [[] for _ in query_ids]
        scores = np.zeros((len(query_ids), k), dtype=np.float32)
        for row, row_scores, row_positions in settled(self.nearest.search, vectors, k, len(self)):
            names = [self.product_ids[position] for position in row_positions]
            best = sorted(zip(row_scores, names, strict=True), reverse=True)[:k]
            scores[row] = [score for score, _ in best]
            product_ids[row] = [name for _, name in best]
        return Ranking(list(query_ids), product_ids, scores)


def _finite(ids: list[str], vectors: Float[np.ndarray, "rows dim"], view: str) -> Vectors:
    """Returns the vectors as FAISS takes them; refuses rows without an id or finite numbers."""
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise ValueError(f"{len(ids)} {view}_ids for vectors of shape {vectors.shape}")
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        first = ids[int(wrong.argmax())]
        raise ValueError(f"vector of {view} {first!r} is not finite ({wrong.sum()} such rows)")
    return np.ascontiguousarray(vectors, dtype=np.float32)
