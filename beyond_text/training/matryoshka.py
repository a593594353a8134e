"""Matryoshka representations: losses of vectors that are shortened to several widths.

Kusupati et al. 2022, arXiv 2205.13147: a vector's first numbers are trained to be a vector too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


def over_widths(
    widths: Sequence[tuple[int, float]],
    loss: Callable[..., Float[Tensor, ""]],
    vectors: Sequence[Tensor | Mapping[Any, Tensor]],
    *rest: Any,
    **options: Any,
) -> Float[Tensor, ""]:
    """Returns sum_w weight_w loss(vectors shortened to w, *rest) over pairs of width and weight.

    `vectors` are the first arguments of the loss: matrices [rows, dim], or such by view.
    """

    def shortened(part: Tensor | Mapping[Any, Tensor], width: int) -> Any:
        if isinstance(part, Tensor):
            return shorten(part, width)
        return {view: shorten(rows, width) for view, rows in part.items()}

    terms = [
        weight * loss(*(shortened(part, width) for part in vectors), *rest, **options)
        for width, weight in widths
    ]
    return torch.stack(terms).sum()
