"""Inner-product search, exact or approximate, over product vectors that know their product_ids.

Notable: equal scores come in trec_eval's order (product_id descending), also where the k-th score
is shared with products further down, which FAISS by itself would cut by position. Products with
the same picture and text do share scores.

A damaged FAISS file corrupts memory when it is parsed, so the bytes are compared with their
checksum first. The checksum lies beside the index: it detects damage, not malice. Whoever loads
an index from a stranger passes the digest that `save` gave, from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from jaxtyping import Float, Float32

from beyond_text.metrics.ranking import Ranking

if sys.platform == "darwin":
    # The wheels of FAISS and torch each bring an OpenMP there; two thread pools in a process crash.
    faiss.omp_set_num_threads(1)


# What FAISS asks for to place a centroid well, and what is enough for it.
LEAST_POINTS_A_CENTROID = 39
POINTS_A_CENTROID = 64
# Lists that an approximate search reads, of all that there are.
PROBED = 32

IndexKind = Literal["exact", "approximate"]
Vectors = Float32[np.ndarray, "rows dim"]


def _flat(vectors: Vectors) -> Any:
    """Makes an index that compares every product with every query."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _inverted(vectors: Vectors) -> Any:
    """Products in lists around centroids, as float16; those nearest to the query are compared.

    There are 4 sqrt(products) lists, unless that leaves a centroid too few points to learn from.
    Scores are those of the rounded vectors: of unit vectors, within 1e-3 of the exact ones.
    """
    products, dim = vectors.shape
    lists = max(1, min(int(4 * products**0.5), products // LEAST_POINTS_A_CENTROID))
    index: Any = faiss.index_factory(dim, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    shuffled = np.random.default_rng(0).permutation(products)
    index.train(vectors[shuffled[: POINTS_A_CENTROID * lists]])
    index.add(vectors)
    index.nprobe = min(PROBED, lists)
    return index


KINDS: dict[IndexKind, Callable[[Vectors], Any]] = {"exact": _flat, "approximate": _inverted}


class ProductIndex:
    """Product vectors (products, dim) in an index of FAISS, with the product_id of each row."""

    def __init__(self, product_ids: list[str], index: Any) -> None:
        self.product_ids = product_ids
        self._index = index

    def __len__(self) -> int:
        return len(self.product_ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the index, without the product_ids."""
        return len(faiss.serialize_index(self._index))

    @classmethod
    def build(
        cls,
        product_ids: list[str],
        vectors: Float[np.ndarray, "products dim"],
        kind: IndexKind = "exact",
    ) -> ProductIndex:
        """Indexes the vectors as they are (nothing is normalised), in the way that `kind` names.

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
        """Ranks the k products (all of them where there are fewer) of the largest inner product.

        An approximate index may miss some of these, but gives as many.

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
            found, positions = self._nearest(vectors[open_rows], width)
            # A row is settled once a product beyond the k-th has a smaller score than the k-th.
            settled = (found[:, -1] < found[:, k - 1]) | (width == len(self))
            for row, row_scores, row_positions in zip(
                open_rows[settled], found[settled], positions[settled], strict=True
            ):
                names = [self.product_ids[position] for position in row_positions]
                best = sorted(zip(row_scores, names, strict=True), reverse=True)[:k]
                scores[row] = [score for score, _ in best]
                product_ids[row] = [name for _, name in best]
            open_rows, width = open_rows[~settled], min(2 * width, len(self))
        return Ranking(list(query_ids), product_ids, scores)

    def _nearest(self, vectors: Vectors, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and positions of the best `width` products, [rows, width] each."""
        found, positions = self._index.search(vectors, width)
        # The lists that were read may hold fewer products than asked for.
        short = positions[:, -1] < 0
        if short.any():
            every: Any = faiss.SearchParametersIVF()
            every.nprobe = self._index.nlist
            found[short], positions[short] = self._index.search(vectors[short], width, params=every)
        return found, positions

    def save(self, folder: Path) -> str:
        """Writes index.faiss, then product_ids.json with the SHA-256 of the former; returns it."""
        folder.mkdir(parents=True, exist_ok=True)
        data = faiss.serialize_index(self._index).tobytes()
        digest = hashlib.sha256(data).hexdigest()
        (folder / "index.faiss").write_bytes(data)
        content = {"sha256": digest, "product_ids": self.product_ids}
        (folder / "product_ids.json").write_text(json.dumps(content), encoding="utf-8")
        return digest

    @classmethod
    def load(cls, folder: Path, sha256: str | None = None) -> ProductIndex:
        """Reads what `save` wrote; `sha256` is the digest to insist on instead of the stored one.

        Raises:
            ValueError: the checksum differs, or the index is of no kind known here or not of these
                products.
        """
        path = folder / "index.faiss"
        content = json.loads((folder / "product_ids.json").read_text(encoding="utf-8"))
        data = path.read_bytes()
        expected, got = sha256 or content["sha256"], hashlib.sha256(data).hexdigest()
        if got != expected:
            raise ValueError(f"{path}: expected SHA-256 {expected}, got {got}")
        index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        product_ids = content["product_ids"]
        known = (faiss.IndexFlatIP, faiss.IndexIVFScalarQuantizer)
        if not isinstance(index, known) or index.ntotal != len(product_ids):
            raise ValueError(
                f"{path}: expected {' or '.join(kind.__name__ for kind in known)} of "
                f"{len(product_ids)} products, got {type(index).__name__} of {index.ntotal}"
            )
        return cls(product_ids, index)


def _finite(identities: list[str], vectors: Float[np.ndarray, "rows dim"], view: str) -> Vectors:
    """Gives the vectors as FAISS takes them, once every row has an id and finite numbers."""
    if vectors.ndim != 2 or len(vectors) != len(identities):
        raise ValueError(f"{len(identities)} {view}_ids for vectors of shape {vectors.shape}")
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        first = identities[int(wrong.argmax())]
        raise ValueError(f"vector of {view} {first!r} is not finite ({wrong.sum()} such rows)")
    return np.ascontiguousarray(vectors, dtype=np.float32)
