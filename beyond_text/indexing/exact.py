"""Finds the nearest vectors by comparing all of them."""

from __future__ import annotations

import numpy as np

BLOCK = 2**15


class Exact:
    """Compares every vector, or those of the allowed rows, with every query."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def search(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and rows of the k best, best first."""
        rows = np.arange(len(self.vectors)) if allowed is None else allowed
        scores = np.empty((len(queries), len(rows)), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            block = self.vectors[part] if allowed is None else self.vectors[rows[part]]
            scores[:, part] = queries @ block.astype(np.float32).T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), rows[order]
