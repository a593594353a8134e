"""The three training objectives of UniECS (arXiv 2508.13843): cmal, clal and imcl.

UniECS states them without usable equations, so each docstring gives the formula that we use. All
three take a `Scene` of six views and a temperature. A "trigger" is UniECS's word for a query that
may be a text, a picture or both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.views import PRODUCT, QUERY, Side, View
from beyond_text.shards.batch import Embeddings
from beyond_text.training.blocks import (
    Contrast,
    Direction,
    Sums,
    Term,
    sums_over_blocks,
    weighted_sums,
)
from beyond_text.training.everyone import Pools
from beyond_text.training.losses import info_nce, unchanged
from beyond_text.training.matryoshka import shorten
from beyond_text.training.relevance import (
    Blocks,
    Key,
    Keys,
    Mask,
    Matrix,
    Relevance,
    equal,
)

# The values that UniECS is known to use; margins and slack are differences of cosines.
RANKING_MARGIN = 0.3
NEIGHBOURS = 10
SLACK = 0.05
POSITIVE_MARGIN = 0.2


class Scene(NamedTuple):
    """What the objectives contrast: queries and products of this process, and those of all.

    `relevance` is that of a query's text, its picture and both together, and `text_relevance` that
    of its text where products of equal text share theirs. A product stands once, and counts as a
    candidate `copies` times: once for each query slot. Vectors are shortened to `width` numbers; 0:
    not at all.
    """

    own: Embeddings
    everyone: Pools
    relevance: Mapping[View, Relevance]
    text_relevance: Relevance
    own_keys: Keys
    keys: Keys
    copies: int = 1
    width: int = 0

    def at(self, width: int) -> Scene:
        """Returns the scene of the vectors' first `width` numbers."""
        return self._replace(width=width)

    def direction(self, anchor: View, candidate: View, relevance: Blocks) -> Direction:
        """Returns the anchors of one view among the candidates of another."""
        return Direction(
            self.own.vectors[anchor],
            self.own.present[anchor],
            self.everyone.pools[candidate],
            self.everyone.present[candidate],
            relevance,
            copies=self.copies if candidate in PRODUCT else 1,
            width=self.width,
        )


Objective = Callable[[Scene, Tensor], list[Term]]


def cmal(scene: Scene, temperature: Float[Tensor, ""]) -> list[Term]:
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
    terms = []
    for side in (PRODUCT, QUERY):
        terms += _alignment(scene, side, temperature)
    for view, relevance in scene.relevance.items():
        direction = scene.direction(view, "product", relevance.first)
        # As many copies of each product as of every other change no mean.
        direction = direction._replace(copies=1)
        terms.append(Term(1.0, direction.candidates, partial(_margin_ranking, direction)))
    return terms


def _alignment(scene: Scene, side: Side, temperature: Float[Tensor, ""]) -> list[Term]:
    """Returns the InfoNCE and cosine terms of one side, over items that have both modalities."""
    own, everyone = (_keys_of(keys, side) for keys in (scene.own_keys, scene.keys))
    item, text, image = zip(own, everyone, strict=True)
    scene = scene._replace(
        own=scene.own._replace(present=_with_both(scene.own.present, side)),
        everyone=scene.everyone._replace(present=_with_both(scene.everyone.present, side)),
    )
    terms = []
    for one, other, same in (
        # A text fits the pictures of an equal text, and a picture the texts of an equal picture.
        (side.text, side.image, equal(item, text, image)),
        (side.text, side.fused, equal(item, text)),
        (side.image, side.fused, equal(item, image)),
    ):
        pairs = (one, other), (other, one)
        contrast = Contrast(*(scene.direction(*pair, same) for pair in pairs))
        terms += info_nce(contrast, temperature)
    vectors = {view: scene.own.vectors[view] for view in side}
    if scene.width:
        vectors = {view: shorten(rows, scene.width) for view, rows in vectors.items()}
    for alone in (side.text, side.image):
        agree = partial(_apart, vectors[alone], vectors[side.fused], scene.own.present[alone])
        terms.append(Term(1.0, None, agree))
    return terms


def _apart(one: Tensor, other: Tensor, has_both: Tensor) -> Sums:
    """Sums 1 - cosine over items that have both views."""
    return weighted_sums(1 - (one.float() * other.float()).sum(dim=1), has_both)


def _keys_of(keys: Keys, side: Side) -> tuple[Key, Key, Key]:
    """Returns the keys of a side's items, of their texts and of their pictures."""
    if side is PRODUCT:
        return keys.product, keys.text, keys.product
    return keys.query.query, keys.query.trigger_text, keys.query.trigger_image


def _with_both(present: Mapping[View, Tensor], side: Side) -> dict[View, Tensor]:
    """Returns a side's views as missing where an item has one modality only."""
    return {**present, **dict.fromkeys(side, present[side.text] & present[side.image])}


def _margin_ranking(direction: Direction) -> Sums:
    """Sums relu(margin - s_ij + s_ik) over positives j and negatives k of anchors i.

    Each term is weighted by the positive's gain. One matrix is enough memory: with an anchor's
    negatives sorted in falling order, those above s_ij - margin come first, so the sum over k is
    their running sum less their number times s_ij - margin.
    """

    def sums(rows: slice, anchors: Tensor, has_anchor: Tensor) -> Sums:
        similarity, relevance, contrasted = direction.matrices(rows, anchors, has_anchor)
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

    rows = direction.anchors, direction.has_anchor
    return sums_over_blocks(sums, direction.columns, *rows)


def clal(scene: Scene, temperature: Float[Tensor, ""]) -> list[Term]:
    """Computes cohesive local alignment: text, picture and fused scores agree near each trigger.

    Our reading of UniECS (arXiv 2508.13843), which states it without an equation. With the cosines
    f = query.product, v = trigger_image.image, t = trigger_text.text and the ten products of
    highest f of each trigger (the choice has no gradient, the scores have):

        sum over (a, b) of (v, f), (t, f), (v, t): mean of relu(|a - b| - 0.05)^2

    over the pairs of a trigger and its neighbour that have both scores. A trigger that is itself a
    product is not its own neighbour. Keys and temperature have no effect.
    """
    directions = [
        scene.direction(trigger, product, scene.relevance["query"].first)
        for trigger, product in zip(QUERY, PRODUCT, strict=True)
    ]

    def sums(rows: slice, *triggers: Tensor) -> Sums:
        scores, exists = [], []
        for direction, *own in zip(directions, triggers[:3], triggers[3:], strict=True):
            score, _, pairs = direction.matrices(rows, *own)
            scores.append(score)
            exists.append(pairs)
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

    triggers = [scene.own.vectors[view] for view in QUERY]
    has_triggers = [scene.own.present[view] for view in QUERY]
    over_blocks = partial(sums_over_blocks, sums, directions[0].columns, *triggers, *has_triggers)
    return [Term(1.0, directions[0].candidates, over_blocks)]


def imcl(scene: Scene, temperature: Float[Tensor, ""]) -> list[Term]:
    """Computes intra-modal contrast: picture finds picture, text finds text.

    InfoNCE(trigger_text, text) + InfoNCE'(trigger_image, image), both symmetric and graded as
    `info_nce`. In InfoNCE' each anchor keeps the more similar half of its negatives (rounded up),
    and 0.2 is taken off a positive's cosine before the temperature divides. UniECS (arXiv
    2508.13843) states both without an equation; keeping the hard half in either direction is ours.
    In the text part, products of equal text share their relevance, as they share the vector.
    """
    terms = []
    for trigger, product, relevance, adjust in (
        (QUERY.text, PRODUCT.text, scene.text_relevance, unchanged),
        (QUERY.image, PRODUCT.image, scene.relevance["trigger_image"], _hardened),
    ):
        contrast = Contrast(
            scene.direction(trigger, product, relevance.first),
            scene.direction(product, trigger, relevance.second),
        )
        terms += info_nce(contrast, temperature, adjust=adjust)
    return terms


def _hardened(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> tuple[Matrix, Mask]:
    """Takes the margin off positives and drops the less similar half of the negatives."""
    kept = _without_easy_half(similarity, relevance, contrasted)
    return similarity - POSITIVE_MARGIN * (relevance > 0), kept


def _without_easy_half(similarity: Matrix, relevance: Matrix, contrasted: Mask) -> Mask:
    """Drops the pairs of the less similar half of each anchor's negatives."""
    negative = contrasted & (relevance == 0)
    hardness = similarity.detach().masked_fill(~negative, -math.inf)
    order = hardness.argsort(dim=1, descending=True, stable=True)
    kept = (negative.sum(dim=1, keepdim=True) + 1) // 2
    is_hard = torch.arange(order.shape[1], device=order.device) < kept
    return contrasted & ((relevance > 0) | is_hard.scatter(1, order, is_hard))


OBJECTIVES: dict[str, Objective] = {"cmal": cmal, "clal": clal, "imcl": imcl}
