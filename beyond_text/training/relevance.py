"""Who is relevant to whom, as matrices [anchors, candidates] of gains, made a block at a time.

Judgments are columns: a query, a product, a gain. Both sides are matched by 64-bit keys of their
ids and contents, so a positive is recognised wherever it stands: in another row, in the slice of
another process, or among the products of earlier batches. Nothing here depends on what the values
are, only on shapes, so a device is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from beyond_text.shards.batch import SELF_MATCH, QueryKeys

Matrix = Float[Tensor, "anchors candidates"]
Mask = Bool[Tensor, "anchors candidates"]
# Takes the slice of a block of anchors; returns the block's matrix.
Blocks = Callable[[slice], Matrix]
Key = Int[Tensor, " rows"]

# The most numbers of a matrix that is kept for the backward pass, and not made again.
KEPT = 2**22
# Stands for SELF_MATCH while the best of several judgments is found: above 0, below every gain.
SELF_CODE = 1e-30


class Keys(NamedTuple):
    """64-bit keys of queries, products and product texts; equal keys mean equal content."""

    query: QueryKeys
    product: Key
    text: Key


class Relevance(NamedTuple):
    """The gains of products for queries, in both directions.

    The rows of the first are queries of this process, and those of the second are products of it.
    """

    first: Blocks
    second: Blocks


class Judged(NamedTuple):
    """Judgments as columns: the key of a query (0: none), the number of a product, the gain."""

    query: Int[Tensor, " judgments"]
    product: Int[Tensor, " judgments"]
    gain: Float[Tensor, " judgments"]

    def zeros(self) -> Judged:
        """Returns gain 1 where a product is judged 0 for a query, and 0 elsewhere."""
        return self._replace(gain=(self.gain == 0).float())


class Sides(NamedTuple):
    """The keys that queries and products are matched by: those of this process, and those of all.

    Products are matched by number, or by a further key which several may share: `product_key` has
    that of each. The products of this process have the numbers from `first` on.
    """

    own_query: Key
    query: Key
    first: int
    own_products: int
    product_key: Int[Tensor, " products"]


def judged_relevance(judged: Judged, sides: Sides, shared: bool = False) -> Relevance:
    """Returns [i, j]: the gain of candidate j for anchor i, 0 where not judged, or SELF_MATCH.

    Where several judgments meet, as of one wording under two ids, the best gain above 0 holds, else
    SELF_MATCH if one has it. With `shared`, so it does among products of equal key: colour variants
    of one text have one text vector, so if one is relevant, another cannot be a negative, and
    neither can a query's own text.
    """
    own = slice(sides.first, sides.first + sides.own_products)
    numbers = torch.arange(len(sides.product_key), device=sides.query.device)
    product = sides.product_key if shared else numbers
    judged_product = product[judged.product]
    code = judged.gain.masked_fill(judged.gain == SELF_MATCH, SELF_CODE)
    code = code.masked_fill(judged.query == 0, 0.0)
    by_query = _Places.of(sides.query, judged.query)
    by_product = (
        _Places.of(product, judged_product) if shared else _Places(judged_product, own=None)
    )
    return Relevance(
        _blocks(sides.own_query, judged.query, by_product, len(product), code),
        _blocks(product[own], judged_product, by_query, len(sides.query), code),
    )


class _Places(NamedTuple):
    """Where keys stand among a side's sorted keys: those of judgments, and the side's own.

    `own` is None where the keys are the numbers 0, 1, 2 ...
    """

    judged: Int[Tensor, " judgments"]
    own: Int[Tensor, " side"] | None

    @classmethod
    def of(cls, keys: Tensor, judged: Tensor) -> _Places:
        """Returns the places of keys; that of a judgment whose key is not there is -1."""
        ordered = keys.sort().values
        place = torch.searchsorted(ordered, judged.contiguous()).clamp(max=len(ordered) - 1)
        found = ordered[place] == judged
        return cls(place.where(found, -1), torch.searchsorted(ordered, keys.contiguous()))


def _blocks(
    anchor: Tensor, judged_anchor: Tensor, candidate: _Places, columns: int, code: Tensor
) -> Blocks:
    """Returns what makes the matrix of a block of anchors; a small one of all anchors is kept."""
    whole: list[Tensor] = []

    def block(rows: slice) -> Matrix:
        if whole:
            return whole[0]
        places = _Places.of(anchor[rows], judged_anchor)
        assert places.own is not None
        number = len(places.own)
        # What meets no anchor or no candidate goes into a cell of its own.
        meets = (places.judged >= 0) & (candidate.judged >= 0)
        cell = (places.judged * columns + candidate.judged).where(meets, number * columns)
        empty = code.new_zeros(number * columns + 1)
        best = empty.scatter_reduce_(0, cell, code, "amax")[:-1].view(number, columns)
        best.masked_fill_(best == SELF_CODE, SELF_MATCH)
        matrix = best.index_select(0, places.own)
        if candidate.own is not None:
            matrix = matrix.index_select(1, candidate.own)
        if number == len(anchor) and number * columns <= KEPT:
            whole.append(matrix)
        return matrix

    return block


def equal(*keys: tuple[Int[Tensor, " anchors"], Int[Tensor, " candidates"]]) -> Blocks:
    """Returns blocks of 1 where an anchor and a candidate agree in one of their keys, else 0."""

    def block(rows: slice) -> Matrix:
        same = (one[rows, None] == other[None, :] for one, other in keys)
        return reduce(torch.logical_or, same).float()

    return block
