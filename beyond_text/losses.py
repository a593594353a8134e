"""The objectives, as functions of vectors and of who is relevant to whom; float32 throughout.

The only place where a temperature divides. A positive is known by id, never assumed from the
diagonal: `relevance[i, j]` in [0, 1] is the gain of candidate j for anchor i, so several rows of
one product, shared queries and colour variants are positives with their gain, not false negatives.
Below 0 (OWN: the query is that product) the two are not contrasted at all. Rows and columns whose
view is missing take no part. `LOSSES` contrast two views; `OBJECTIVES`, the three of UniECS, are
built out of the same pieces. All are sums over anchors, taken a block of them at a time, so that a
large batch costs the memory of a block of its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from beyond_text.batch import Judged
from beyond_text.config import PRODUCT, QUERY, Side, View

Matrix = Float[Tensor, "anchors candidates"]
Mask = Bool[Tensor, "anchors candidates"]


class Keys(NamedTuple):
    """64-bit keys of the query, product and product text of each row, for who equals whom."""

    query: Int[Tensor, " rows"]
    product: Int[Tensor, " rows"]
    text: Int[Tensor, " rows"]


def relevance_matrix(
    query_key: Int[Tensor, " queries"], judged: Judged, rows: int
) -> Float[Tensor, "queries rows"]:
    """relevance[i, j]: the gain of product row j for query i, 0 where not judged; OWN stays OWN."""
    distinct, position = torch.unique(query_key, return_inverse=True)
    slot = torch.searchsorted(distinct, judged.query_key).clamp(max=len(distinct) - 1)
    asked = distinct[slot] == judged.query_key
    table = torch.zeros(len(distinct), rows, device=query_key.device)
    table[slot[asked], judged.row[asked]] = judged.gain[asked]
    return table[position]


def share_between_equals(relevance: Matrix, key: Int[Tensor, " candidates"]) -> Matrix:
    """Gives candidates of equal key the best relevance among them, or else OWN if one has it.

    Colour variants with one text have one text vector: what is relevant by one of them cannot be a
    negative by another, and neither can a query's own text.
    """
    distinct, position = torch.unique(key, return_inverse=True)
    place, empty = position.expand_as(relevance), relevance.new_zeros(len(relevance), len(distinct))
    best, least = (
        empty.scatter_reduce(1, place, relevance, extreme, include_self=False)
        for extreme in ("amax", "amin")
    )
    return torch.where(best > 0, best, least)[:, position]


def equal(*keys: tuple[Int[Tensor, " anchors"], Int[Tensor, " candidates"]]) -> Matrix:
    """1 where an anchor and a candidate agree in one of their keys at least, else 0."""
    return torch.stack([one[:, None] == other[None, :] for one, other in keys]).any(dim=0).float()


def _mean(values: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Weighted mean; zero, with zero gradient, where no weight is left."""
    return _ratio((weight * values).sum(), weight.sum())


def _ratio(total: Tensor, weight: Tensor) -> Tensor:
    return total / weight.clamp(min=1e-12)


# Anchors whose rows of a matrix are held at a time.
BLOCK = 1024
# Sums over the anchors of a block, and what they are divided by once all blocks are added.
Sums = tuple[Float[Tensor, "*terms"], Float[Tensor, "*terms"]]


def _over_blocks(sums: Callable[..., Sums], *rows: Tensor) -> Float[Tensor, "*terms"]:
    """What `sums` makes of the rows of all anchors, with one block's matrices alive at a time.

    With several blocks, each is computed once more for its gradients.
    """
    blocks = list(zip(*(row.split(BLOCK) for row in rows), strict=True))
    if len(blocks) == 1:
        return _ratio(*sums(*blocks[0]))
    found = [checkpoint(sums, *block, use_reentrant=False) for block in blocks]
    totals, weights = (torch.stack(parts).sum(dim=0) for parts in zip(*found, strict=True))
    return _ratio(totals, weights)


# Finite, for an infinite one gives NaN gradients where no candidate is left.
NEVER = -1e9
Surprise = Callable[[Tensor, Tensor, Tensor], Tensor]


def _among_all(logits: Matrix, relevance: Matrix, contrasted: Mask) -> Matrix:
    """-log of each candidate's share in the softmax over all that take part."""
    return -logits.masked_fill(~contrasted, NEVER).log_softmax(dim=1)


def _among_lesser(logits: Matrix, relevance: Matrix, contrasted: Mask) -> Matrix:
    """-log(exp s_ij / (exp s_ij + sum_{k: relevance_ik < relevance_ij} exp s_ik)) of positives j.

    Positives of one grade do not compete (in-batch positives are masked, as is usual), an exact
    match still stands before a partial one. Equal to `_among_all` with one positive a row.
    """
    # Zeros with a gradient of zero, for there may be no positive.
    found = 0 * logits
    for level in relevance[relevance > 0].unique():
        lesser = logits.masked_fill(~(contrasted & (relevance < level)), NEVER).logsumexp(dim=1)
        # Positives are few.
        place = (relevance == level).nonzero(as_tuple=True)
        found = found.index_put(place, F.softplus(lesser[place[0]] - logits[place]))
    return found


def _similarity(
    anchors: Float[Tensor, "anchors dim"], candidates: Float[Tensor, "candidates dim"]
) -> Matrix:
    with torch.autocast(anchors.device.type, enabled=False):
        return anchors.float() @ candidates.float().T


def _contrasted(
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
) -> Mask:
    """The pairs that take part: both are there, and they are not one and the same."""
    return has_anchor[:, None] & has_candidate[None, :] & (relevance >= 0)


# Cosines, relevance and who takes part, to logits before the temperature divides and who is left.
Shape = Callable[[Matrix, Matrix, Mask], tuple[Matrix, Mask]]


def _as_they_are(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> tuple[Matrix, Mask]:
    return similarity, contrasted


def _one_direction(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    surprise: Surprise,
    shape: Shape,
) -> Float[Tensor, ""]:
    """Mean over anchors of the surprise at their graded positives, by their best gain."""

    def sums(anchors: Tensor, relevance: Tensor, has_anchor: Tensor) -> Sums:
        contrasted = _contrasted(relevance, has_anchor, has_candidate)
        relevance = relevance * contrasted
        similarity, kept = shape(_similarity(anchors, candidates), relevance, contrasted)
        share = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=1e-12)
        loss = (share * surprise(similarity / temperature, relevance, kept)).sum(dim=1)
        best = relevance.amax(dim=1)
        return (best * loss).sum(), best.sum()

    return _over_blocks(sums, anchors, relevance, has_anchor)


def info_nce(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
    temperature: Float[Tensor, ""],
    bias: Float[Tensor, ""] | None = None,
    fresh: int | None = None,
    surprise: Surprise = _among_all,
    shape: Shape = _as_they_are,
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
    how: Any = {"temperature": temperature, "surprise": surprise, "shape": shape}
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
ranked_nce = partial(info_nce, surprise=_among_lesser)


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
        logits = _similarity(anchors, candidates) / temperature + bias
        sign = torch.where(relevance > 0, 1.0, -1.0)
        weight = torch.where(relevance > 0, relevance, 1.0)
        weight = weight * _contrasted(relevance, has_anchor, has_candidate)
        return -(weight * F.logsigmoid(sign * logits)).sum(), has_anchor.float().sum()

    return _over_blocks(sums, anchors, relevance, has_anchor)


def chance_level(anchors: int, candidates: int) -> float:
    """InfoNCE of a model that knows nothing, in nats: (ln(candidates) + ln(anchors)) / 2.

    One for each direction; of `ranked_nce` it is an upper bound, as positives do not compete.
    """
    return (math.log(max(candidates, 1)) + math.log(max(anchors, 1))) / 2


Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {"info_nce": info_nce, "ranked_nce": ranked_nce, "sigmoid": sigmoid}

# What UniECS (arXiv 2508.13843) is known to set, all on the scale of cosines.
RANKING_MARGIN = 0.3
NEIGHBOURS = 10
SLACK = 0.05
POSITIVE_MARGIN = 0.2
Vectors = Mapping[View, Tensor]
Present = Mapping[View, Tensor]


def _alignment(
    vectors: Vectors,
    present: Present,
    views: Side,
    same_text: Float[Tensor, "rows rows"],
    same_item: Float[Tensor, "rows rows"],
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Contrast of the three views of items that have both modalities, and their cosine terms."""
    text, image, fused = views
    both = present[text] & present[image]
    total = torch.zeros_like(temperature)
    for one, other, same in (
        (text, image, same_text),
        (text, fused, same_text),
        (image, fused, same_item),
    ):
        total = total + info_nce(vectors[one], vectors[other], same, both, both, temperature)
    for alone in (text, image):
        cosine = (vectors[alone].float() * vectors[fused].float()).sum(dim=1)
        total = total + _mean(1 - cosine, both)
    return total


def _margin_ranking(
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "candidates dim"],
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
) -> Float[Tensor, ""]:
    """Mean of relu(margin - s_ij + s_ik) over positives j and negatives k of anchors i, by gain.

    In the memory of one matrix: of negatives in falling order, those above s_ij - margin come
    first, so the sum over k is their running sum less their number times s_ij - margin.
    """

    def sums(anchors: Tensor, relevance: Tensor, has_anchor: Tensor) -> Sums:
        similarity = _similarity(anchors, candidates)
        contrasted = _contrasted(relevance, has_anchor, has_candidate)
        gain = relevance.clamp(min=0) * contrasted
        negative = contrasted & (relevance == 0)
        falling, order = similarity.masked_fill(~negative, -math.inf).sort(dim=1, descending=True)
        running = falling.masked_fill(~negative.gather(1, order), 0).cumsum(dim=1)
        running = F.pad(running, (1, 0))
        least = similarity - RANKING_MARGIN
        above = torch.searchsorted(-falling.detach(), -least.detach())
        excess = running.gather(1, above) - above * least
        weight = gain * negative.sum(dim=1, keepdim=True)
        return (gain * excess).sum(), weight.sum()

    return _over_blocks(sums, anchors, relevance, has_anchor)


def cmal(
    vectors: Vectors,
    present: Present,
    relevance: Float[Tensor, "queries rows"],
    keys: Keys,
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Cross-modal alignment: an item's text, picture and fused vector agree, and so they rank.

    UniECS (arXiv 2508.13843) states the parts and gives no equation we could use; ours is

        sum over products (t, v, m = text, image, product) and over triggers (t, v, m =
            trigger_text, trigger_image, query), of the items that have both text and picture:
            InfoNCE(t, v) + InfoNCE(t, m) + InfoNCE(v, m) + mean(1 - t.m) + mean(1 - v.m)
        + sum over a of query, trigger_image, trigger_text:
            mean over (i, j, k) with relevance_ij > 0 = relevance_ik, weighted by relevance_ij, of
            relu(0.3 - a_i.product_j + a_i.product_k)

    with every weight 1. An item with one modality has nothing to align. Positives of InfoNCE are
    the rows of one product (trigger); where a text takes part also those of an equal product text.
    The margin is one of cosines, before any temperature.
    """
    same_query, same_product = (equal((key, key)) for key in (keys.query, keys.product))
    same_text = equal((keys.product, keys.product), (keys.text, keys.text))
    total = _alignment(vectors, present, PRODUCT, same_text, same_product, temperature)
    total = total + _alignment(vectors, present, QUERY, same_query, same_query, temperature)
    for view in QUERY:
        total = total + _margin_ranking(
            vectors[view], vectors["product"], relevance, present[view], present["product"]
        )
    return total


def clal(
    vectors: Vectors,
    present: Present,
    relevance: Float[Tensor, "queries rows"],
    keys: Keys,
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Cohesive local alignment: near a trigger, text, picture and fused vector score alike.

    Our reading of UniECS (arXiv 2508.13843), which states it without an equation. With the cosines
    f = query.product, v = trigger_image.image, t = trigger_text.text and the ten products of
    highest f of each trigger (the choice has no gradient, the scores have):

        sum over (a, b) of (v, f), (t, f), (v, t): mean of relu(|a - b| - 0.05)^2

    over the pairs of a trigger and its neighbour that have both scores. A trigger that is itself a
    product is not its own neighbour. Keys and temperature have no effect.
    """

    def sums(relevance: Tensor, *triggers: Tensor) -> Sums:
        scores, exists = [], []
        for trigger, asked, product in zip(triggers[:3], triggers[3:], PRODUCT, strict=True):
            scores.append(_similarity(trigger, vectors[product]))
            exists.append(_contrasted(relevance, asked, present[product]))
        ranked = scores[-1].detach().masked_fill(~exists[-1], -math.inf)
        near = ranked.topk(min(NEIGHBOURS, ranked.shape[1]), dim=1).indices
        scores = [score.gather(1, near) for score in scores]
        # Where a trigger has fewer than ten, the rest are pairs that do not exist in any view.
        exists = [there.gather(1, near) for there in exists]
        totals, weights = [], []
        for a, b in combinations(range(len(scores)), 2):
            both = (exists[a] & exists[b]).float()
            excess = F.relu((scores[a] - scores[b]).abs() - SLACK)
            totals.append((both * excess.square()).sum())
            weights.append(both.sum())
        return torch.stack(totals), torch.stack(weights)

    asking = [vectors[view] for view in QUERY]
    return _over_blocks(sums, relevance, *asking, *(present[view] for view in QUERY)).sum()


def _without_easy_half(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> Mask:
    """The pairs that stay when each anchor keeps the more similar half of its negatives."""
    negative = contrasted & (relevance == 0)
    ranked = similarity.detach().masked_fill(~negative, -math.inf)
    # The place of each candidate among its anchor's negatives, the hardest first.
    place = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept = (negative.sum(dim=1, keepdim=True) + 1) // 2
    return contrasted & ((relevance > 0) | (place < kept))


def imcl(
    vectors: Vectors,
    present: Present,
    relevance: Float[Tensor, "queries rows"],
    keys: Keys,
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Intra-modal contrast: a trigger's picture finds the product's picture, its text the text.

    InfoNCE(trigger_text, text) + InfoNCE'(trigger_image, image), both symmetric and graded as
    `info_nce`. In InfoNCE' each anchor keeps the more similar half of its negatives (rounded up),
    and a positive's cosine is lessened by 0.2 before the temperature divides. UniECS (arXiv
    2508.13843) states both without an equation; keeping the hard half in either direction is ours.
    Products of equal text share what is relevant in the text part, as they share the vector.
    """
    text = info_nce(
        vectors["trigger_text"],
        vectors["text"],
        share_between_equals(relevance, keys.text),
        present["trigger_text"],
        present["text"],
        temperature,
    )
    image = info_nce(
        vectors["trigger_image"],
        vectors["image"],
        relevance,
        present["trigger_image"],
        present["image"],
        temperature,
        shape=_hardened,
    )
    return text + image


def _hardened(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> tuple[Matrix, Mask]:
    """Positives less the margin, and the more similar half of each anchor's negatives."""
    kept = _without_easy_half(similarity, relevance, contrasted)
    return similarity - POSITIVE_MARGIN * (relevance > 0), kept


Objective = Callable[[Vectors, Present, Tensor, Keys, Tensor], Tensor]
OBJECTIVES: dict[str, Objective] = {"cmal": cmal, "clal": clal, "imcl": imcl}


class LossWeights(nn.Module):
    """How much each objective counts: a fixed weight, or that and a learned uncertainty.

    Fixed: sum_i w_i L_i. Learned: sum_i w_i (L_i exp(-s_i) / 2 + s_i / 2) with s_i = 0 at first,
    the homoscedastic weighting of Kendall et al. 2018 (arXiv 1705.07115), s the log-variance; our
    choice for what UniECS calls adaptive without an equation.
    """

    def __init__(self, weights: Mapping[str, float], learned: bool) -> None:
        super().__init__()
        self.fixed = dict(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if learned else None

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum of the losses of all objectives."""
        if self.log_variance is None:
            return torch.stack([w * losses[name] for name, w in self.fixed.items()]).sum()
        terms = []
        for (name, weight), s in zip(self.fixed.items(), self.log_variance, strict=True):
            term = weight * (losses[name] * (-s).exp() / 2 + s / 2)
            # Nothing to compare in this batch is no certainty: s would fall without end.
            terms.append(torch.where(losses[name] == 0, 0.0, term))
        return torch.stack(terms).sum()

    def learned(self) -> dict[str, Float[Tensor, ""]]:
        """What each loss is multiplied by now; nothing where that is fixed."""
        if self.log_variance is None:
            return {}
        scales = (-self.log_variance.detach()).exp() / 2
        return {
            name: w * scale for (name, w), scale in zip(self.fixed.items(), scales, strict=True)
        }
