"""The contrastive losses of two views: InfoNCE, ranked InfoNCE and SigLIP's sigmoid loss.

Each takes a `Contrast`: vectors of anchors and candidates, and relevance[i, j] in [0, 1], the gain
of candidate j for anchor i. Positives are known by id, never assumed from the diagonal: several
rows of one product, shared queries and colour variants are positives with their gain, not false
negatives. Relevance below 0 (SELF_MATCH: the query is that product itself) excludes a pair. Rows
and columns whose view is missing take no part. All arithmetic is in float32. Cosines are divided by
a temperature here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.views import PAIRS
from beyond_text.training.blocks import Contrast, Direction, Sums, Term, sums_over_blocks
from beyond_text.training.relevance import Mask, Matrix

# The logit of a masked candidate. An infinite one gives NaN gradients where no candidate is left.
MASKED = -1e9
# Takes logits, relevance, the pairs that take part, the share of each in its anchor's loss, and the
# direction that these are of; returns the cross-entropy of each anchor.
CrossEntropy = Callable[[Matrix, Matrix, Mask, Matrix, Direction], Float[Tensor, " anchors"]]
# Takes cosines, relevance and the pairs that take part; returns changed cosines and pairs.
Adjustment = Callable[[Matrix, Matrix, Mask], tuple[Matrix, Mask]]
Loss = Callable[..., list[Term]]


def _cross_entropy_over_all(
    logits: Matrix, relevance: Matrix, contrasted: Mask, share: Matrix, direction: Direction
) -> Float[Tensor, " anchors"]:
    """Returns the shares of -log softmax_ij over all candidates j that take part, added up."""
    return -(share * logits.masked_fill(~contrasted, MASKED).log_softmax(dim=1)).sum(dim=1)


def _cross_entropy_over_lower_grades(
    logits: Matrix, relevance: Matrix, contrasted: Mask, share: Matrix, direction: Direction
) -> Float[Tensor, " anchors"]:
    """Returns the shares of -log(exp s_ij / (exp s_ij + sum_{k: lower} exp s_ik)), added up.

    Lower is relevance_ik < relevance_ij. Positives of one grade do not compete (in-batch positives
    are masked, as is usual), but an exact match still ranks above a partial one. With one positive
    a row it equals `_cross_entropy_over_all`. Positives are few beside the candidates: they alone
    are put in the order of their grades, of which there may be as many as positives.
    """
    negatives = _log_sum_exp(logits.masked_fill((relevance > 0) | ~contrasted, MASKED))
    most = direction.most_positives() if direction.most_positives else relevance.shape[1]
    gain, place = (part.flip(1).contiguous() for part in relevance.topk(most, dim=1))
    positive = logits.gather(1, place)
    # The negatives first, then each positive; rows with fewer positives begin with none.
    parts = [negatives[:, None], positive.masked_fill(gain <= 0, MASKED)]
    sums = torch.cat(parts, dim=1).logcumsumexp(dim=1)
    lower = sums.gather(1, torch.searchsorted(gain, gain))
    return (share.gather(1, place) * F.softplus(lower - positive)).sum(dim=1)


def _log_sum_exp(logits: Matrix) -> Float[Tensor, " anchors"]:
    """Returns log sum_k exp s_ik, on a CPU in a third of the time of PyTorch's own."""
    largest = logits.max(dim=1)
    return largest.values + F.cross_entropy(logits, largest.indices, reduction="none")


def unchanged(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> tuple[Matrix, Mask]:
    """Changes neither cosines nor pairs."""
    return similarity, contrasted


def _one_direction(
    direction: Direction,
    temperature: Float[Tensor, ""],
    cross_entropy: CrossEntropy,
    adjust: Adjustment,
) -> Sums:
    """Sums the cross-entropy of the positives; anchors are weighted by their best gain."""

    def sums(rows: slice, anchors: Tensor, has_anchor: Tensor) -> Sums:
        similarity, relevance, contrasted = direction.matrices(rows, anchors, has_anchor)
        relevance = relevance * contrasted
        similarity, kept = adjust(similarity, relevance, contrasted)
        logits = similarity / temperature
        if direction.negative_weight is not None:
            logits = logits + direction.negative_weight(rows).log() * (relevance == 0)
        share = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=1e-12)
        loss = cross_entropy(logits, relevance, kept, share, direction)
        best = relevance.amax(dim=1)
        return (best * loss).sum(), best.sum()

    rows = direction.anchors, direction.has_anchor
    return sums_over_blocks(sums, direction.columns, *rows)


def info_nce(
    contrast: Contrast,
    temperature: Float[Tensor, ""],
    bias: Float[Tensor, ""] | None = None,
    cross_entropy: CrossEntropy = _cross_entropy_over_all,
    adjust: Adjustment = unchanged,
) -> list[Term]:
    """Returns symmetric InfoNCE with graded positives, in nats; `chance_level` gives its scale.

    With s = cosine / temperature and p_ij = relevance_ij / sum_k relevance_ik, an anchor's loss is
    -sum_j p_ij log(exp s_ij / sum_k exp s_ik), weighted by its best gain; the result is the mean of
    both directions. One positive a row gives van den Oord et al. 2018 (arXiv 1807.03748) as used by
    CLIP; several give the outer sum of Khosla et al. 2020 (arXiv 2004.11362). Zero, with zero
    gradient, where there is no positive. The bias has no effect: softmax cancels it.

    With negative weights u_ik > 0, a negative k counts u_ik times: u_ik exp s_ik stands in the sum.
    """
    return [
        Term(
            0.5,
            direction.candidates,
            partial(_one_direction, direction, temperature, cross_entropy, adjust),
        )
        for direction in contrast
    ]


# Symmetric InfoNCE of each positive against all of lower relevance; otherwise as `info_nce`.
ranked_nce = partial(info_nce, cross_entropy=_cross_entropy_over_lower_grades)


def sigmoid(
    contrast: Contrast,
    temperature: Float[Tensor, ""],
    bias: Float[Tensor, ""],
) -> list[Term]:
    """Returns SigLIP's pairwise loss with graded positives, in nats.

    Zhai et al. 2023 (arXiv 2303.15343, algorithm 1):
    -sum_ij w_ij log sigmoid(z_ij (cosine_ij / temperature + bias)) / anchors, with z = 1 for
    positives and -1 for the rest. Ours is graded: w is the gain for positives, and for the rest
    the negative weight, or 1 without it. The loss has one direction, the first.
    """
    direction = contrast.first

    def sums(rows: slice, anchors: Tensor, has_anchor: Tensor) -> Sums:
        similarity, relevance, contrasted = direction.matrices(rows, anchors, has_anchor)
        logits = similarity / temperature + bias
        sign = torch.where(relevance > 0, 1.0, -1.0)
        of_negatives = direction.negative_weight(rows) if direction.negative_weight else 1.0
        weight = torch.where(relevance > 0, relevance, of_negatives) * contrasted
        return -(weight * F.logsigmoid(sign * logits)).sum(), has_anchor.float().sum()

    rows = direction.anchors, direction.has_anchor
    over_blocks = partial(sums_over_blocks, sums, direction.columns, *rows)
    return [Term(1.0, direction.candidates, over_blocks)]


def chance_level(anchors: int, candidates: int) -> float:
    """Returns InfoNCE of a model that knows nothing: (ln(candidates) + ln(anchors)) / 2 nats.

    One term for each direction. For `ranked_nce` it is an upper bound, as positives do not compete.
    """
    return (math.log(max(candidates, 1)) + math.log(max(anchors, 1))) / 2


def temperature_name(objective: str) -> str:
    """Returns the pair of views whose temperature an objective uses; UniECS's use text_image's."""
    return objective if objective in PAIRS else "text_image"


LOSSES: dict[str, Loss] = {"info_nce": info_nce, "ranked_nce": ranked_nce, "sigmoid": sigmoid}
