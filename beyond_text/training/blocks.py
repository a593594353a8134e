"""Pieces that the losses share: sums over blocks of anchors, weighted means, cosines, masks.

A loss needs matrices [anchors, candidates]. `mean_over_blocks` computes them for one block of
anchors at a time, so a large batch needs the memory of one block of rows, not of the whole square.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from beyond_text.training.relevance import Mask, Matrix

# Anchors per block.
BLOCK = 1024
# Weighted sums over the anchors of a block, and the sums of the weights.
Sums = tuple[Float[Tensor, "*terms"], Float[Tensor, "*terms"]]


def mean_over_blocks(sums: Callable[..., Sums], *rows: Tensor) -> Float[Tensor, "*terms"]:
    """Returns the weighted mean over all anchors, with one block's matrices in memory at a time.

    `rows` are tensors with a row per anchor. `sums` takes a block of each and returns its sums.
    With several blocks, the backward pass computes each block again.
    """
    blocks = list(zip(*(row.split(BLOCK) for row in rows), strict=True))
    if len(blocks) == 1:
        return _divide(*sums(*blocks[0]))
    sums_of_blocks = [checkpoint(sums, *block, use_reentrant=False) for block in blocks]
    totals, weights = (torch.stack(parts).sum(dim=0) for parts in zip(*sums_of_blocks, strict=True))
    return _divide(totals, weights)


def weighted_mean(values: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Returns the weighted mean; 0 with zero gradient where the weights sum to 0."""
    return _divide((weight * values).sum(), weight.sum())


def _divide(total: Tensor, weight: Tensor) -> Tensor:
    """Returns total / weight; 0 with zero gradient where the weight is 0."""
    return total / weight.clamp(min=1e-12)


def cosines(
    anchors: Float[Tensor, "anchors dim"], candidates: Float[Tensor, "candidates dim"]
) -> Matrix:
    """Returns the cosine of every anchor and candidate, both unit vectors, in float32."""
    with torch.autocast(anchors.device.type, enabled=False):
        return anchors.float() @ candidates.float().T


def contrasted_pairs(
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
) -> Mask:
    """Returns which pairs take part: both views exist, and relevance is not SELF_MATCH."""
    return has_anchor[:, None] & has_candidate[None, :] & (relevance >= 0)
