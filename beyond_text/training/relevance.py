"""Who is relevant to whom in a batch, as matrices [anchors, candidates] of gains.

Rows are matched by 64-bit keys of their ids and texts, so a positive is recognised wherever it
stands: in another row, in another process's slice, or among the products of earlier batches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from beyond_text.shards.batch import Qrels

Matrix = Float[Tensor, "anchors candidates"]
Mask = Bool[Tensor, "anchors candidates"]


class Keys(NamedTuple):
    """64-bit keys of each row's query, product and product text; equal keys mean equal content."""

    query: Int[Tensor, " rows"]
    product: Int[Tensor, " rows"]
    text: Int[Tensor, " rows"]


def relevance_matrix(
    query_key: Int[Tensor, " queries"], qrels: Qrels, rows: int
) -> Float[Tensor, "queries rows"]:
    """Returns [i, j]: the gain of product row j for query i, 0 where not judged, or SELF_MATCH."""
    distinct, position = torch.unique(query_key, return_inverse=True)
    row = torch.searchsorted(distinct, qrels.query).clamp(max=len(distinct) - 1)
    in_batch = distinct[row] == qrels.query
    table = torch.zeros(len(distinct), rows, device=query_key.device)
    table[row[in_batch], qrels.product[in_batch]] = qrels.gain[in_batch]
    return table[position]


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
