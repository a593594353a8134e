"""Matryoshka representations: losses of vectors that are shortened to several widths.

Kusupati et al. 2022, arXiv 2205.13147: a vector's first numbers are trained to be a vector too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def shorten(vectors: Float[Tensor, "rows dim"], width: int) -> Float[Tensor, "rows width"]:
    """Returns the first `width` numbers of unit vectors, normalised again in float32.

    Vectors of that width are returned as they are.
    """
    if width == vectors.shape[1]:
        return vectors
    with torch.autocast(vectors.device.type, enabled=False):
        return F.normalize(vectors[:, :width].float(), dim=1)
