"""The contrastive losses of two views: InfoNCE, ranked InfoNCE and SigLIP's sigmoid loss.

Each takes vectors of anchors and candidates, and `relevance[i, j]` in [0, 1], the gain of candidate
j for anchor i. Positives are known by id, never assumed from the diagonal: several rows of one
product, shared queries and colour variants are positives with their gain, not false negatives.
Relevance below 0 (SELF_MATCH: the query is that product itself) excludes a pair. Rows and columns
whose view is missing take no part. All arithmetic is in float32. Cosines are divided by a
temperature here and nowhere else.
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

from beyond_text.config.views import PAIRS
from beyond_text.training.blocks import Sums, contrasted_pairs, cosines, mean_over_blocks
from beyond_text.training.relevance import Mask, Matrix

# The logit of a masked candidate. An infinite one gives NaN gradients where no candidate is left.
MASKED = -1e9
# Takes logits, relevance and the pairs that take part; returns the cross-entropy of each candidate.
CrossEntropy = Callable[[Matrix, Matrix, Mask], Matrix]
# Takes cosines, relevance and the pairs that take part; returns changed cosines and pairs.
Adjustment = Callable[[Matrix, Matrix, Mask], tuple[Matrix, Mask]]
Loss = Callable[..., Tensor]


def _cross_entropy_over_all(logits: Matrix, relevance: Matrix, contrasted: Mask) -> Matrix:
    """Returns -log softmax_ij over all candidates j that take part."""
    return -logits.masked_fill(~contrasted, MASKED).log_softmax(dim=1)


def _cross_entropy_over_lower_grades(logits: Matrix, relevance: Matrix, contrasted: Mask) -> Matrix:
    """Returns -log(exp s_ij / (exp s_ij + sum_{k: relevance_ik < relevance_ij} exp s_ik)).

    It is 0 where j is no positive. Positives of one grade do not compete (in-batch positives are
    masked, as is usual), but an exact match still ranks above a partial one. With one positive a
    row it equals `_cross_entropy_over_all`.
    """
    # Not `zeros`: where there is no positive, the gradient must exist and be zero.
    loss = 0 * logits
    for grade in relevance[relevance > 0].unique():
        lower = logits.masked_fill(~(contrasted & (relevance < grade)), MASKED).logsumexp(dim=1)
        # Computed for the positives alone, which are few.
        positives = (relevance == grade).nonzero(as_tuple=True)
        loss = loss.index_put(positives, F.softplus(lower[positives[0]] - logits[positives]))
    return loss


def _unchanged(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> tuple[Matrix, Mask]:
    return similarity, contrasted


def _one_direction(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    negative_weight: Matrix | None,
    cross_entropy: CrossEntropy,
    adjust: Adjustment,
) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy of the positives; anchors are weighted by their best gain."""

    def sums(anchors: Tensor, relevance: Tensor, has_anchor: Tensor, *weight: Tensor) -> Sums:
        contrasted = contrasted_pairs(relevance, has_anchor, has_candidate)
        relevance = relevance * contrasted
        similarity, kept = adjust(cosines(anchors, candidates), relevance, contrasted)
        logits = similarity / temperature
        for factor in weight:
            logits = logits + factor.log() * (relevance == 0)
        share = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=1e-12)
        loss = (share * cross_entropy(logits, relevance, kept)).sum(dim=1)
        best = relevance.amax(dim=1)
        return (best * loss).sum(), best.sum()

    weights = [] if negative_weight is None else [negative_weight]
    return mean_over_blocks(sums, anchors, relevance, has_anchor, *weights)


def info_nce(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    bias: Float[Tensor, ""] | None = None,
    fresh: int | None = None,
    negative_weight: Matrix | None = None,
    cross_entropy: CrossEntropy = _cross_entropy_over_all,
    adjust: Adjustment = _unchanged,
) -> Float[Tensor, ""]:
    """Returns symmetric InfoNCE with graded positives, in nats; `chance_level` gives its scale.

    With s = cosine / temperature and p_ij = relevance_ij / sum_k relevance_ik, an anchor's loss is
    -sum_j p_ij log(exp s_ij / sum_k exp s_ik), weighted by its best gain; the result is the mean of
    both directions. One positive a row gives van den Oord et al. 2018 (arXiv 1807.03748) as used by
    CLIP; several give the outer sum of Khosla et al. 2020 (arXiv 2004.11362). Zero, with zero
    gradient, where there is no positive. The bias has no effect: softmax cancels it.

    The first `fresh` candidates (None: all) are of this batch and are the anchors of the second
    direction. Those after them are remembered from earlier batches: they are positives and
    negatives of the first direction only.

    With `negative_weight` u_ik > 0, a negative k counts u_ik times: u_ik exp s_ik stands in the
    sum. None: all count 1.
    """
    options: Any = {"temperature": temperature, "cross_entropy": cross_entropy, "adjust": adjust}
    forward = _one_direction(
        anchors,
        candidates,
        relevance,
        has_anchor,
        has_candidate,
        negative_weight=negative_weight,
        **options,
    )
    backward = _one_direction(
        candidates[:fresh],
        anchors,
        relevance[:, :fresh].T,
        has_candidate[:fresh],
        has_anchor,
        negative_weight=None if negative_weight is None else negative_weight[:, :fresh].T,
        **options,
    )
    return (forward + backward) / 2


# Symmetric InfoNCE of each positive against all of lower relevance; otherwise as `info_nce`.
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
    negative_weight: Matrix | None = None,
) -> Float[Tensor, ""]:
    """Returns SigLIP's pairwise loss with graded positives, in nats.

    Zhai et al. 2023 (arXiv 2303.15343, algorithm 1):
    -sum_ij w_ij log sigmoid(z_ij (cosine_ij / temperature + bias)) / anchors, with z = 1 for
    positives and -1 for the rest. Ours is graded: w is the gain for positives, and for the rest
    `negative_weight`, or 1 without it. The loss has one direction, so `fresh` has no effect.
    """

    def sums(anchors: Tensor, relevance: Tensor, has_anchor: Tensor, *factors: Tensor) -> Sums:
        logits = cosines(anchors, candidates) / temperature + bias
        sign = torch.where(relevance > 0, 1.0, -1.0)
        weight = torch.where(relevance > 0, relevance, factors[0] if factors else 1.0)
        weight = weight * contrasted_pairs(relevance, has_anchor, has_candidate)
        return -(weight * F.logsigmoid(sign * logits)).sum(), has_anchor.float().sum()

    weights = [] if negative_weight is None else [negative_weight]
    return mean_over_blocks(sums, anchors, relevance, has_anchor, *weights)


def chance_level(anchors: int, candidates: int) -> float:
    """Returns InfoNCE of a model that knows nothing: (ln(candidates) + ln(anchors)) / 2 nats.

    One term for each direction. For `ranked_nce` it is an upper bound, as positives do not compete.
    """
    return (math.log(max(candidates, 1)) + math.log(max(anchors, 1))) / 2


def temperature_name(objective: str) -> str:
    """Returns the pair of views whose temperature an objective uses; UniECS's use text_image's."""
    return objective if objective in PAIRS else "text_image"


LOSSES: dict[str, Loss] = {"info_nce": info_nce, "ranked_nce": ranked_nce, "sigmoid": sigmoid}
