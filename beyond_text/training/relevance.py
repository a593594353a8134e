"""Who is relevant to whom in a batch, as matrices [anchors, candidates] of gains.

Rows are matched by 64-bit keys of their ids and texts, so a positive is recognised wherever it
stands: in another row, in another process's slice, or among the products of earlier batches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from beyond_text.config.views import View
from beyond_text.shards.batch import Qrels, QueryKeys

Matrix = Float[Tensor, "anchors candidates"]
Mask = Bool[Tensor, "anchors candidates"]


class Keys(NamedTuple):
    """64-bit keys of each row's query, product and product text; equal keys mean equal content."""

    query: QueryKeys
    product: Int[Tensor, " rows"]
    text: Int[Tensor, " rows"]


def relevance_matrix(
    keys: QueryKeys, qrels: Qrels, rows: int, view: View = "query"
) -> Float[Tensor, "queries rows"]:
    """Returns [i, j]: the gain of product row j for query i, 0 where not judged, or SELF_MATCH.

    Queries are matched by what they are in a `view`: their text, their picture or both. Where
    several judgments meet, as of one wording under two ids, the best gain above 0 holds.
    """
    key, judged = getattr(keys, view), getattr(qrels.query, view)
    distinct, position = torch.unique(key, return_inverse=True)
    row = torch.searchsorted(distinct, judged).clamp(max=len(distinct) - 1)
    in_batch = (distinct[row] == judged) & (judged != 0)
    cell = row[in_batch] * rows + qrels.product[in_batch]
    empty = torch.zeros(len(distinct) * rows, device=key.device)
    best, least = (
        empty.scatter_reduce(0, cell, qrels.gain[in_batch], extreme) for extreme in ("amax", "amin")
    )
    return torch.where(best > 0, best, least).view(len(distinct), rows)[position]


def judged_zero(
    keys: QueryKeys, qrels: Qrels, rows: int, view: View = "query"
) -> Float[Tensor, "queries rows"]:
    """Returns 1 where a product row is judged 0 for a query, else 0."""
    return relevance_matrix(keys, qrels._replace(gain=(qrels.gain == 0).float()), rows, view)


def share_between_equals(relevance: Matrix, key: Int[Tensor, " candidates"]) -> Matrix:
    """Gives candidates of equal key the best relevance among them, else SELF_MATCH if one has it.

    Colour variants with one text have one text vector: if one variant is relevant, another cannot
    be a negative, and neither can a query's own text.
    """
    distinct, position = torch.unique(key, return_inverse=True)
    group = position.expand_as(relevance)
    empty = relevance.new_zeros(len(relevance), len(distinct))
    best, least = (
        empty.scatter_reduce(1, group, relevance, extreme, include_self=False)
        for extreme in ("amax", "amin")
    )
    return torch.where(best > 0, best, least)[:, position]


def equal(*keys: tuple[Int[Tensor, " anchors"], Int[Tensor, " candidates"]]) -> Matrix:
    """Returns 1 where an anchor and a candidate agree in at least one of their keys, else 0."""
    return torch.stack([one[:, None] == other[None, :] for one, other in keys]).any(dim=0).float()
