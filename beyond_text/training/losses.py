"""The objectives, as functions of vectors and of who is relevant to whom; float32 throughout.

The only place where a temperature divides. A positive is known by id, never assumed from the
diagonal: `relevance[i, j]` in [0, 1] is the gain of candidate j for anchor i, so several rows of
one product, shared queries and colour variants are positives with their gain, not false negatives.
Below 0 (SELF_MATCH: the query is that product) the two are not contrasted at all. Rows and columns
whose view is missing take no part. `LOSSES` contrast two views; `OBJECTIVES`, the three of UniECS, are
built out of the same pieces. All are sums over anchors, taken a block of them at a time, so that a
large batch costs the memory of a block of its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from beyond_text.training.relevance import (
    Mask,
    Matrix,
)


def weighted_mean(values: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Weighted mean; zero, with zero gradient, where no weight is left."""
    return divided((weight * values).sum(), weight.sum())


def divided(total: Tensor, weight: Tensor) -> Tensor:
    """Returns total / weight, and 0 with zero gradient where the weight is 0."""
    return total / weight.clamp(min=1e-12)


# Anchors whose rows of a matrix are held at a time.
BLOCK = 1024
# Sums over the anchors of a block, and what they are divided by once all blocks are added.
Sums = tuple[Float[Tensor, "*terms"], Float[Tensor, "*terms"]]


def over_blocks(sums: Callable[..., Sums], *rows: Tensor) -> Float[Tensor, "*terms"]:
    """What `sums` makes of the rows of all anchors, with one block's matrices alive at a time.

    With several blocks, each is computed once more for its gradients.
    """
    blocks = list(zip(*(row.split(BLOCK) for row in rows), strict=True))
    if len(blocks) == 1:
        return divided(*sums(*blocks[0]))
    found = [checkpoint(sums, *block, use_reentrant=False) for block in blocks]
    totals, weights = (torch.stack(parts).sum(dim=0) for parts in zip(*found, strict=True))
    return divided(totals, weights)


# Finite, for an infinite one gives NaN gradients where no candidate is left.
MASKED = -1e9
CrossEntropy = Callable[[Tensor, Tensor, Tensor], Tensor]


def _cross_entropy_over_all(logits: Matrix, relevance: Matrix, contrasted: Mask) -> Matrix:
    """-log of each candidate's share in the softmax over all that take part."""
    return -logits.masked_fill(~contrasted, MASKED).log_softmax(dim=1)


def _cross_entropy_over_lower_grades(logits: Matrix, relevance: Matrix, contrasted: Mask) -> Matrix:
    """-log(exp s_ij / (exp s_ij + sum_{k: relevance_ik < relevance_ij} exp s_ik)) of positives j.

    Positives of one grade do not compete (in-batch positives are masked, as is usual), an exact
    match still stands before a partial one. With one positive a row it equals
    `_cross_entropy_over_all`.
    """
    # Zeros with a gradient of zero, for there may be no positive.
    found = 0 * logits
    for level in relevance[relevance > 0].unique():
        lesser = logits.masked_fill(~(contrasted & (relevance < level)), MASKED).logsumexp(dim=1)
        # Positives are few.
        place = (relevance == level).nonzero(as_tuple=True)
        found = found.index_put(place, F.softplus(lesser[place[0]] - logits[place]))
    return found


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
    """The pairs that take part: both are there, and they are not one and the same."""
    return has_anchor[:, None] & has_candidate[None, :] & (relevance >= 0)


# Cosines, relevance and who takes part, to logits before the temperature divides and who is left.
LogitShape = Callable[[Matrix, Matrix, Mask], tuple[Matrix, Mask]]


def _unchanged(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> tuple[Matrix, Mask]:
    return similarity, contrasted


def _one_direction(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    cross_entropy: CrossEntropy,
    shape: LogitShape,
) -> Float[Tensor, ""]:
    """Mean over anchors of the cross-entropy at their graded positives, by their best gain."""

    def sums(anchors: Tensor, relevance: Tensor, has_anchor: Tensor) -> Sums:
        contrasted = contrasted_pairs(relevance, has_anchor, has_candidate)
        relevance = relevance * contrasted
        similarity, kept = shape(cosines(anchors, candidates), relevance, contrasted)
        share = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=1e-12)
        loss = (share * cross_entropy(similarity / temperature, relevance, kept)).sum(dim=1)
        best = relevance.amax(dim=1)
        return (best * loss).sum(), best.sum()

    return over_blocks(sums, anchors, relevance, has_anchor)


def info_nce(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    bias: Float[Tensor, ""] | None = None,
    fresh: int | None = None,
    cross_entropy: CrossEntropy = _cross_entropy_over_all,
    shape: LogitShape = _unchanged,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with graded positives, in nats; see `chance_level`.

    With s = cosine / temperature and p_ij = relevance_ij / sum_k relevance_ik, an anchor's loss is
    -sum_j p_ij log(exp s_ij / sum_k exp s_ik), weighted by its best gain; the mean of both
    directions. One positive a row gives van den Oord et al. 2018 (arXiv 1807.03748) as used by
    CLIP; several give the outer sum of Khosla et al. 2020 (arXiv 2004.11362). Zero, with zero
    gradient, where there is no positive. The bias has no effect: softmax cancels it.

    The first `fresh` candidates (None: all) are the anchors of the second direction. Those after
    them are remembered from earlier batches: positives and negatives of the first direction alone.
    """
    how: Any = {"temperature": temperature, "cross_entropy": cross_entropy, "shape": shape}
    forward = _one_direction(anchors, candidates, relevance, has_anchor, has_candidate, **how)
    backward = _one_direction(
        candidates[:fresh],
        anchors,
        relevance[:, :fresh].T,
        has_candidate[:fresh],
        has_anchor,
        **how,
    )
    return (forward + backward) / 2


# Symmetric InfoNCE of each positive against all of less relevance; else as `info_nce`.
ranked_nce = partial(info_nce, cross_entropy=_cross_entropy_over_lower_grades)


def sigmoid(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    fresh: int | None = None,
) -> Float[Tensor, ""]:
    """SigLIP's pairwise loss (Zhai et al. 2023, arXiv 2303.15343, algorithm 1), graded, in nats.

    -sum_ij w_ij log sigmoid(z_ij (cosine_ij / temperature + bias)) / anchors, z = 1 for positives
    and -1 for the rest; w is the gain for positives and 1 for the rest. It has one direction, so
    `fresh` has no effect.
    """

    def sums(anchors: Tensor, relevance: Tensor, has_anchor: Tensor) -> Sums:
        logits = cosines(anchors, candidates) / temperature + bias
        sign = torch.where(relevance > 0, 1.0, -1.0)
        weight = torch.where(relevance > 0, relevance, 1.0)
        weight = weight * contrasted_pairs(relevance, has_anchor, has_candidate)
        return -(weight * F.logsigmoid(sign * logits)).sum(), has_anchor.float().sum()

    return over_blocks(sums, anchors, relevance, has_anchor)


def chance_level(anchors: int, candidates: int) -> float:
    """InfoNCE of a model that knows nothing, in nats: (ln(candidates) + ln(anchors)) / 2.

    One for each direction; of `ranked_nce` it is an upper bound, as positives do not compete.
    """
    return (math.log(max(candidates, 1)) + math.log(max(anchors, 1))) / 2


Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {"info_nce": info_nce, "ranked_nce": ranked_nce, "sigmoid": sigmoid}
