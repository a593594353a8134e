"""The three training objectives of UniECS (arXiv 2508.13843): cmal, clal and imcl.

UniECS states them without usable equations, so each docstring gives the formula that we use. All
three take the vectors of six views and which rows have them, the relevance [queries, rows] of every
row's product for every row's query by each view of it, the keys of the rows, and a temperature. A
"trigger" is UniECS's word for a query that may be a text, a picture or both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.views import PRODUCT, QUERY, Side, View
from beyond_text.training.blocks import (
    Sums,
    contrasted_pairs,
    cosines,
    mean_over_blocks,
    weighted_mean,
)
from beyond_text.training.losses import info_nce
from beyond_text.training.relevance import Keys, Mask, Matrix, equal, share_between_equals

# The values that UniECS is known to use; margins and slack are differences of cosines.
RANKING_MARGIN = 0.3
NEIGHBOURS = 10
SLACK = 0.05
POSITIVE_MARGIN = 0.2

# A [rows, dim] matrix of unit vectors for each view, and which rows have the view.
Vectors = Mapping[View, Tensor]
Present = Mapping[View, Tensor]
# A matrix [queries, rows] for each view of a query: what is relevant for its text, its picture or
# both together.
Relevance = Mapping[View, Tensor]
Objective = Callable[[Vectors, Present, Relevance, Keys, Tensor], Tensor]


def cmal(
    vectors: Vectors,
    present: Present,
    relevance: Relevance,
    keys: Keys,
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Cross-modal alignment: aligns an item's text, picture and fused vector, and ranks products.

    UniECS (arXiv 2508.13843) states the parts and gives no equation we could use; ours is

        sum over products (t, v, m = text, image, product) and over triggers (t, v, m =
            trigger_text, trigger_image, query), of the items that have both text and picture:
            InfoNCE(t, v) + InfoNCE(t, m) + InfoNCE(v, m) + mean(1 - t.m) + mean(1 - v.m)
        + sum over a of query, trigger_image, trigger_text:
            mean over (i, j, k) with relevance_ij > 0 = relevance_ik, weighted by relevance_ij, of
            relu(0.3 - a_i.product_j + a_i.product_k)

    with every weight 1. An item with one modality has nothing to align. Positives of InfoNCE are
    the rows of one product (trigger); where a text takes part, rows of an equal text are positives
    too, and where a trigger's picture meets the fused vector, triggers of an equal picture. The
    margin is a difference of cosines, before any temperature.
    """
    total = torch.zeros_like(temperature)
    for side, item, text, image in (
        (PRODUCT, keys.product, keys.text, keys.product),
        (QUERY, keys.query.query, keys.query.trigger_text, keys.query.trigger_image),
    ):
        same_text, same_image = (equal((item, item), (part, part)) for part in (text, image))
        total = total + _alignment(vectors, present, side, same_text, same_image, temperature)
    for view in QUERY:
        total = total + _margin_ranking(
            vectors[view], vectors["product"], relevance[view], present[view], present["product"]
        )
    return total


def _alignment(
    vectors: Vectors,
    present: Present,
    views: Side,
    same_text: Float[Tensor, "rows rows"],
    same_image: Float[Tensor, "rows rows"],
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Returns the InfoNCE and cosine terms of one side, over items that have both modalities."""
    text, image, fused = views
    both = present[text] & present[image]
    total = torch.zeros_like(temperature)
    for one, other, same in (
        # A text fits the pictures of an equal text, and a picture the texts of an equal picture.
        (text, image, torch.maximum(same_text, same_image)),
        (text, fused, same_text),
        (image, fused, same_image),
    ):
        total = total + info_nce(vectors[one], vectors[other], same, both, both, temperature)
    for alone in (text, image):
        cosine = (vectors[alone].float() * vectors[fused].float()).sum(dim=1)
        total = total + weighted_mean(1 - cosine, both)
    return total


def _margin_ranking(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
) -> Float[Tensor, ""]:
    """Returns the mean of relu(margin - s_ij + s_ik) over positives j and negatives k of anchors i.

    Each term is weighted by the positive's gain. One matrix is enough memory: with an anchor's
    negatives sorted in falling order, those above s_ij - margin come first, so the sum over k is
    their running sum less their number times s_ij - margin.
    """

    def sums(anchors: Tensor, relevance: Tensor, has_anchor: Tensor) -> Sums:
        similarity = cosines(anchors, candidates)
        contrasted = contrasted_pairs(relevance, has_anchor, has_candidate)
        gain = relevance.clamp(min=0) * contrasted
        negative = contrasted & (relevance == 0)
        falling, order = similarity.masked_fill(~negative, -math.inf).sort(dim=1, descending=True)
        running = falling.masked_fill(~negative.gather(1, order), 0).cumsum(dim=1)
        running = F.pad(running, (1, 0))
        threshold = similarity - RANKING_MARGIN
        above = torch.searchsorted(-falling.detach(), -threshold.detach())
        excess = running.gather(1, above) - above * threshold
        weight = gain * negative.sum(dim=1, keepdim=True)
        return (gain * excess).sum(), weight.sum()

    return mean_over_blocks(sums, anchors, relevance, has_anchor)


def clal(
    vectors: Vectors,
    present: Present,
    relevance: Relevance,
    keys: Keys,
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Computes cohesive local alignment: text, picture and fused scores agree near each trigger.

    Our reading of UniECS (arXiv 2508.13843), which states it without an equation. With the cosines
    f = query.product, v = trigger_image.image, t = trigger_text.text and the ten products of
    highest f of each trigger (the choice has no gradient, the scores have):

        sum over (a, b) of (v, f), (t, f), (v, t): mean of relu(|a - b| - 0.05)^2

    over the pairs of a trigger and its neighbour that have both scores. A trigger that is itself a
    product is not its own neighbour. Keys and temperature have no effect.
    """

    def sums(judged: Tensor, *triggers: Tensor) -> Sums:
        scores, exists = [], []
        for trigger, has_trigger, product in zip(triggers[:3], triggers[3:], PRODUCT, strict=True):
            scores.append(cosines(trigger, vectors[product]))
            exists.append(contrasted_pairs(judged, has_trigger, present[product]))
        ranked = scores[-1].detach().masked_fill(~exists[-1], -math.inf)
        neighbours = ranked.topk(min(NEIGHBOURS, ranked.shape[1]), dim=1).indices
        scores = [score.gather(1, neighbours) for score in scores]
        # Where a trigger has fewer than ten, the rest are pairs that exist in no view.
        exists = [pairs.gather(1, neighbours) for pairs in exists]
        totals, weights = [], []
        for a, b in combinations(range(len(scores)), 2):
            both = (exists[a] & exists[b]).float()
            excess = F.relu((scores[a] - scores[b]).abs() - SLACK)
            totals.append((both * excess.square()).sum())
            weights.append(both.sum())
        return torch.stack(totals), torch.stack(weights)

    triggers = [vectors[view] for view in QUERY]
    has_triggers = [present[view] for view in QUERY]
    return mean_over_blocks(sums, relevance["query"], *triggers, *has_triggers).sum()


def imcl(
    vectors: Vectors,
    present: Present,
    relevance: Relevance,
    keys: Keys,
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Computes intra-modal contrast: picture finds picture, text finds text.

    InfoNCE(trigger_text, text) + InfoNCE'(trigger_image, image), both symmetric and graded as
    `info_nce`. In InfoNCE' each anchor keeps the more similar half of its negatives (rounded up),
    and 0.2 is taken off a positive's cosine before the temperature divides. UniECS (arXiv
    2508.13843) states both without an equation; keeping the hard half in either direction is ours.
    In the text part, products of equal text share their relevance, as they share the vector.
    """
    text = info_nce(
        vectors["trigger_text"],
        vectors["text"],
        share_between_equals(relevance["trigger_text"], keys.text),
        present["trigger_text"],
        present["text"],
        temperature,
    )
    image = info_nce(
        vectors["trigger_image"],
        vectors["image"],
        relevance["trigger_image"],
        present["trigger_image"],
        present["image"],
        temperature,
        adjust=_hardened,
    )
    return text + image


def _hardened(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> tuple[Matrix, Mask]:
    """Takes the margin off positives and drops the less similar half of the negatives."""
    kept = _without_easy_half(similarity, relevance, contrasted)
    return similarity - POSITIVE_MARGIN * (relevance > 0), kept


def _without_easy_half(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> Mask:
    """Drops the pairs of the less similar half of each anchor's negatives."""
    negative = contrasted & (relevance == 0)
    hardness = similarity.detach().masked_fill(~negative, -math.inf)
    # The rank of each candidate among its anchor's negatives, hardest first.
    rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept = (negative.sum(dim=1, keepdim=True) + 1) // 2
    return contrasted & ((relevance > 0) | (rank < kept))


OBJECTIVES: dict[str, Objective] = {"cmal": cmal, "clal": clal, "imcl": imcl}
