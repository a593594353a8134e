"""Exact inner-product search over product vectors that know their product_ids.

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
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float, Float32

from beyond_text.metrics import Ranking

if sys.platform == "darwin":
    # The wheels of FAISS and torch each bring an OpenMP there; two thread pools in a process crash.
    faiss.omp_set_num_threads(1)


class ProductIndex:
    """Product vectors (products, dim) in a `faiss.IndexFlatIP`, with the product_id of each row."""

    def __init__(self, product_ids: list[str], index: faiss.IndexFlatIP) -> None:
        self.product_ids = product_ids
        self._index = index

    def __len__(self) -> int:
        return len(self.product_ids)

    @classmethod
    def build(
        cls, product_ids: list[str], vectors: Float[np.ndarray, "products dim"]
    ) -> ProductIndex:
        """Indexes the vectors as they are (nothing is normalised), in float32.

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
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return cls(list(product_ids), index)

    def search(
        self, query_vectors: Float[np.ndarray, "queries dim"], query_ids: list[str], k: int
    ) -> Ranking:
        """Ranks the k products (all of them where there are fewer) of the largest inner product.

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
            found, positions = self._index.search(vectors[open_rows], width)
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
            ValueError: the checksum differs, or the index is not flat or not of these products.
        """
        path = folder / "index.faiss"
        content = json.loads((folder / "product_ids.json").read_text(encoding="utf-8"))
        data = path.read_bytes()
        expected, got = sha256 or content["sha256"], hashlib.sha256(data).hexdigest()
        if got != expected:
            raise ValueError(f"{path}: expected SHA-256 {expected}, got {got}")
        index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        product_ids = content["product_ids"]
        if not isinstance(index, faiss.IndexFlatIP) or index.ntotal != len(product_ids):
            raise ValueError(
                f"{path}: expected an IndexFlatIP of {len(product_ids)} products, "
                f"got {type(index).__name__} of {index.ntotal}"
            )
        return cls(product_ids, index)


def _finite(
    identities: list[str], vectors: Float[np.ndarray, "rows dim"], view: str
) -> Float32[np.ndarray, "rows dim"]:
    """Gives the vectors as FAISS takes them, once every row has an id and finite numbers."""
    if vectors.ndim != 2 or len(vectors) != len(identities):
        raise ValueError(f"{len(identities)} {view}_ids for vectors of shape {vectors.shape}")
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        first = identities[int(wrong.argmax())]
        raise ValueError(f"vector of {view} {first!r} is not finite ({wrong.sum()} such rows)")
    return np.ascontiguousarray(vectors, dtype=np.float32)
