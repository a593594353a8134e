"""TODO training.relevance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from beyond_text.shards.batch import Qrels

Matrix = Float[Tensor, "anchors candidates"]
Mask = Bool[Tensor, "anchors candidates"]


class Keys(NamedTuple):
    """64-bit keys of the query, product and product text of each row, for who equals whom."""

    query: Int[Tensor, " rows"]
    product: Int[Tensor, " rows"]
    text: Int[Tensor, " rows"]


def relevance_matrix(
    query_key: Int[Tensor, " queries"], qrels: Qrels, rows: int
) -> Float[Tensor, "queries rows"]:
    """Returns [i, j]: the gain of product row j for query i, 0 where not judged, or SELF_MATCH."""
    distinct, position = torch.unique(query_key, return_inverse=True)
    slot = torch.searchsorted(distinct, qrels.query).clamp(max=len(distinct) - 1)
    asked = distinct[slot] == qrels.query
    table = torch.zeros(len(distinct), rows, device=query_key.device)
    table[slot[asked], qrels.product[asked]] = qrels.gain[asked]
    return table[position]


def share_between_equals(relevance: Matrix, key: Int[Tensor, " candidates"]) -> Matrix:
    """Gives candidates of equal key the best relevance among them, else SELF_MATCH if one has it.

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
