"""The objectives, as functions of vectors and of who is relevant to whom; float32 throughout.

The only place where a temperature divides. A positive is known by id, never assumed from the
diagonal: `relevance[i, j]` in [0, 1] is the gain of candidate j for anchor i, so several rows of
one product, shared queries and colour variants are positives with their gain, not false negatives.
Rows and columns whose view is missing take no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from beyond_text.batch import Judged

Matrix = Float[Tensor, "anchors candidates"]


def relevance_matrix(
    query_key: Int[Tensor, " queries"], judged: Judged, rows: int
) -> Float[Tensor, "queries rows"]:
    """relevance[i, j]: the gain in [0, 1] of product row j for query i, 0 where not judged."""
    distinct, position = torch.unique(query_key, return_inverse=True)
    slot = torch.searchsorted(distinct, judged.query_key).clamp(max=len(distinct) - 1)
    asked = distinct[slot] == judged.query_key
    table = torch.zeros(len(distinct), rows, device=query_key.device)
    table[slot[asked], judged.row[asked]] = judged.gain[asked]
    return table[position]


def share_between_equals(relevance: Matrix, key: Int[Tensor, " candidates"]) -> Matrix:
    """Gives candidates of equal key the best relevance among them.

    Colour variants with one text have one text vector: what is relevant by one of them cannot be a
    negative by another.
    """
    distinct, position = torch.unique(key, return_inverse=True)
    best = relevance.new_zeros(relevance.shape[0], len(distinct))
    best = best.scatter_reduce(1, position.expand_as(relevance), relevance, "amax")
    return best[:, position]


def _one_direction(
    logits: Matrix, relevance: Matrix, candidate: Bool[Tensor, " candidates"]
) -> Float[Tensor, ""]:
    """Mean over anchors of the cross-entropy to their graded positives, by their best gain."""
    # Finite, for an infinite one gives NaN gradients where no candidate is left.
    log_probability = logits.masked_fill(~candidate, -1e9).log_softmax(dim=1)
    share = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=1e-12)
    loss = -(share * log_probability).sum(dim=1)
    weight = relevance.amax(dim=1)
    return (weight * loss).sum() / weight.sum().clamp(min=1e-12)


def _similarity(
    anchors: Float[Tensor, "anchors dim"], candidates: Float[Tensor, "candidates dim"]
) -> Matrix:
    with torch.autocast(anchors.device.type, enabled=False):
        return anchors.float() @ candidates.float().T


def info_nce(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    bias: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with graded positives, in nats; chance level is ln(candidates).

    With s = cosine / temperature and p_ij = relevance_ij / sum_k relevance_ik, an anchor's loss is
    -sum_j p_ij log(exp s_ij / sum_k exp s_ik), weighted by its best gain; the mean of both
    directions. One positive a row gives van den Oord et al. 2018 (arXiv 1807.03748) as used by
    CLIP; several give the outer sum of Khosla et al. 2020 (arXiv 2004.11362). Zero, with zero
    gradient, where there is no positive. The bias has no effect: softmax cancels it.
    """
    logits = _similarity(anchors, candidates) / temperature
    relevance = relevance * (has_anchor[:, None] & has_candidate[None, :])
    forward = _one_direction(logits, relevance, has_candidate)
    backward = _one_direction(logits.T, relevance.T, has_anchor)
    return (forward + backward) / 2


def sigmoid(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    bias: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """SigLIP's pairwise loss (Zhai et al. 2023, arXiv 2303.15343, algorithm 1), graded, in nats.

    -sum_ij w_ij log sigmoid(z_ij (cosine_ij / temperature + bias)) / anchors, z = 1 for positives
    and -1 for the rest; w is the gain for positives and 1 for the rest.
    """
    logits = _similarity(anchors, candidates) / temperature + bias
    both = has_anchor[:, None] & has_candidate[None, :]
    sign = torch.where(relevance > 0, 1.0, -1.0)
    weight = torch.where(relevance > 0, relevance, 1.0) * both
    return -(weight * F.logsigmoid(sign * logits)).sum() / has_anchor.sum().clamp(min=1)


def chance_level(candidates: int) -> float:
    """InfoNCE of a model that knows nothing, in nats: ln(candidates)."""
    return math.log(max(candidates, 1))


Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {"info_nce": info_nce, "sigmoid": sigmoid}
