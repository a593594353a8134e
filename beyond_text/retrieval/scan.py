"""Searches vectors where they lie, in memory or in a mapped file, by comparing each of them.

Notable: FAISS reads the vectors in place. Its flat indexes hold codes that they own or that they
view; a float16 or float32 array is such codes already, so nothing is copied, whatever its size.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int64

# As many queries or more are compared with blocks by a matrix product, in float32.
MANY_QUERIES = 32
BLOCK_BYTES = 64 << 20
# So few allowed rows are gathered; a scan would look at each of the others' bits.
FEW_ROWS = 1024

Found = tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]


class Scan:
    """Compares queries with every vector, or with those of the allowed rows."""

    def __init__(self, vectors: Float[np.ndarray, "rows dim"]) -> None:
        """Takes float16 or float32 vectors, mapped or not; reads none of them.

        Raises:
            ValueError: no row, or numbers of another type or order.
        """
        if vectors.ndim != 2 or not vectors.size:
            raise ValueError(f"no vectors to search: their shape is {vectors.shape}")
        if vectors.dtype not in (np.float16, np.float32) or not vectors.flags.c_contiguous:
            raise ValueError(f"expected rows of float16 or float32, got {vectors.dtype}")
        # FAISS holds a bare pointer: these keep what it points to.
        self.vectors = vectors
        self.in_place = _in_place(vectors)

    def search(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        k: int,
        allowed: Int64[np.ndarray, " allowed"] | None = None,
    ) -> Found:
        """Returns scores and rows of the k best, best first; all that are allowed, if fewer."""
        rows = len(self.vectors) if allowed is None else len(allowed)
        k = min(k, rows)
        if not (k and len(queries)):
            empty = (len(queries), k)
            return np.zeros(empty, dtype=np.float32), np.zeros(empty, dtype=np.int64)
        if len(queries) < MANY_QUERIES and rows > FEW_ROWS:
            return self.in_place.search(queries, k, params=_only(allowed, len(self.vectors)))
        return self._by_blocks(queries, k, allowed)

    def _by_blocks(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Found:
        """Searches one block of rows after the other, each copied to float32."""
        rows = len(self.vectors) if allowed is None else len(allowed)
        best = faiss.ResultHeap(len(queries), k, keep_max=True)
        step = max(1, BLOCK_BYTES // (4 * self.vectors.shape[1]))
        for first in range(0, rows, step):
            part = slice(first, min(first + step, rows))
            block = self.vectors[part if allowed is None else allowed[part]]
            scores, found = faiss.knn(
                queries,
                block.astype(np.float32, copy=False),
                min(k, len(block)),
                metric=faiss.METRIC_INNER_PRODUCT,
            )
            best.add_result(scores, found + first if allowed is None else allowed[part][found])
        best.finalize()
        return best.D, best.I


def _in_place(vectors: np.ndarray) -> Any:
    """Returns a flat index of FAISS whose codes are the vectors themselves."""
    rows, dim = vectors.shape
    metric = faiss.METRIC_INNER_PRODUCT
    index: Any = (
        faiss.IndexFlat(dim, metric)
        if vectors.dtype == np.float32
        else faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, metric)
    )
    codes = index.codes
    codes.is_owned = False
    library: Any = faiss
    codes.view_data = codes.c_ptr = library.cast_integer_to_uint8_ptr(vectors.ctypes.data)
    codes.view_size = codes.c_size = vectors.nbytes
    index.ntotal = rows
    return index


def _only(allowed: np.ndarray | None, rows: int) -> Any:
    """Returns FAISS's parameters of a search among the allowed rows; None for all."""
    if allowed is None:
        return None
    library: Any = faiss
    bits = np.zeros(rows, dtype=bool)
    bits[allowed] = True
    chosen = library.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
    return library.SearchParameters(sel=chosen)
