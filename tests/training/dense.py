"""The losses as functions of whole matrices of relevance, on one process: what tests compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from beyond_text.config.views import View
from beyond_text.shards.batch import Embeddings
from beyond_text.training import losses, uniecs_losses
from beyond_text.training.blocks import Contrast, Direction, losses_of
from beyond_text.training.everyone import Everyone, Pools
from beyond_text.training.gathered import pools_of
from beyond_text.training.processes import Processes
from beyond_text.training.relevance import Judged, Keys, Relevance, Sides, judged_relevance
from beyond_text.training.uniecs_losses import Scene


def both_ways(matrix: Tensor) -> Relevance:
    """Returns a matrix [queries, products] of gains as what a loss reads in blocks."""
    return Relevance(matrix.__getitem__, matrix.T.__getitem__)


def loss_of_pair(
    loss: Callable[..., Any],
    anchors: Tensor,
    candidates: Tensor,
    relevance: Tensor,
    has_anchor: Tensor,
    has_candidate: Tensor,
    temperature: Tensor,
    bias: Tensor | None = None,
    fresh: int | None = None,
) -> Tensor:
    """Returns a loss of two views; candidates from number `fresh` on are remembered."""
    rows, columns = both_ways(relevance).first, both_ways(relevance[:, :fresh]).second
    alone, own = Processes(), candidates[:fresh]
    queries = Everyone({"query": anchors}, alone)
    older = None if fresh is None else candidates[fresh:].detach()
    products = Everyone({"product": own}, alone, queries).pool("product")._replace(older=older)
    contrast = Contrast(
        Direction(
            anchors,
            has_anchor,
            products,
            has_candidate,
            rows,
            # The other direction does not say it.
            most_positives=lambda: int((relevance > 0).sum(dim=1).max()),
        ),
        Direction(own, has_candidate[:fresh], queries.pool("query"), has_anchor, columns),
    )
    return losses_of({"loss": loss(contrast, temperature, bias)})["loss"]


def scene_of(
    vectors: dict[View, Tensor],
    present: dict[View, Tensor],
    relevance: Mapping[View, Tensor],
    keys: Keys,
) -> Scene:
    """Returns a scene in which every row is a product with its one query."""
    rows = Embeddings(vectors, present)
    judged = {view: both_ways(matrix) for view, matrix in relevance.items()}
    shared = both_ways(sharing(relevance.get("trigger_text", relevance["query"]), keys.text))
    everyone = Pools(pools_of(vectors, Processes()), present)
    return Scene(rows, everyone, judged, shared, keys, keys)


def sharing(relevance: Tensor, key: Tensor) -> Tensor:
    """Returns relevance where candidates of equal key share the best one among them."""
    queries = torch.arange(1, len(relevance) + 1)
    rows, columns = relevance.nonzero(as_tuple=True)
    judged = Judged(queries[rows], columns, relevance[rows, columns])
    sides = Sides(queries, queries, 0, len(key), key)
    return judged_relevance(judged, sides, shared=True).first(slice(None))


def objective(function: Callable[..., Any], *scene: Any) -> Tensor:
    """Returns an objective of UniECS of a dense scene and a temperature."""
    *parts, temperature = scene
    return losses_of({"loss": function(scene_of(*parts), temperature)})["loss"]


LOSSES = {name: partial(loss_of_pair, loss) for name, loss in losses.LOSSES.items()}
OBJECTIVES = {
    name: partial(objective, function) for name, function in uniecs_losses.OBJECTIVES.items()
}
