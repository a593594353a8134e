"""Shortens vectors that were trained to be shortened (Matryoshka representations)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def truncate(vectors: Float[np.ndarray, "rows dim"], dim: int) -> Float[np.ndarray, "rows width"]:
    """Returns the first `dim` numbers of each vector, normalised again, of the same precision.

    A vector whose first numbers are all zero stays zero. See Kusupati et al., "Matryoshka
    Representation Learning", arXiv 2205.13147.

    Raises:
        ValueError: `dim` below 1, or above the width of the vectors.
    """
    width = vectors.shape[1]
    if not 1 <= dim <= width:
        raise ValueError(f"dim {dim}: expected 1 to {width}, the width of the vectors")
    if dim == width:
        return vectors
    short = vectors[:, :dim].astype(np.float32)
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    return (short / np.where(lengths > 0, lengths, 1)).astype(vectors.dtype)
