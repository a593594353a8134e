"""Pieces that the losses share: what is contrasted, sums over blocks of anchors, weighted means.

A loss is a sum of weighted means over anchors. Each process sums over its own anchors, against the
candidates of all processes; the sums of all processes together are divided at the end. A sum needs
matrices [anchors, candidates], which `sums_over_blocks` computes for one block of anchors at a
time: a large batch needs the memory of one block, not of the whole square.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from beyond_text.training.everyone import Pool
from beyond_text.training.relevance import KEPT, Blocks, Mask, Matrix

# The most anchors in a block, and the most numbers in one of its matrices, at 4 bytes each.
BLOCK = 1024
NUMBERS = 2**23
# Weighted sums over anchors, and the sums of the weights.
Sums = tuple[Float[Tensor, "*terms"], Float[Tensor, "*terms"]]


class Direction(NamedTuple):
    """Anchors of this process, the candidates that each is contrasted with, and their relevance.

    `relevance` and `negative_weight` (None: all count 1) are made for a block of anchors. A
    candidate counts `copies` times. Vectors are shortened to `width` numbers; 0: not at all.
    `most_positives` tells how many candidates an anchor is relevant to at most (None: to all).
    """

    anchors: Float[Tensor, "anchors dim"]
    has_anchor: Bool[Tensor, " anchors"]
    candidates: Pool
    has_candidate: Bool[Tensor, " candidates"]
    relevance: Blocks
    negative_weight: Blocks | None = None
    copies: int = 1
    width: int = 0
    most_positives: Callable[[], int] | None = None

    @property
    def columns(self) -> int:
        """The number of columns of the matrices."""
        return self.candidates.rows * self.copies

    def matrices(
        self, rows: slice, anchors: Tensor, has_anchor: Tensor
    ) -> tuple[Matrix, Matrix, Mask]:
        """Returns cosines, relevance and the pairs that take part, of a block of anchors."""
        return (
            self.spread(self.candidates.cosines(anchors, self.width)),
            self.spread(relevance := self.relevance(rows)),
            self.spread(contrasted_pairs(relevance, has_anchor, self.has_candidate)),
        )

    def spread(self, matrix: Tensor) -> Tensor:
        """Returns the matrix with a column for each copy of a candidate."""
        return matrix if self.copies == 1 else matrix.repeat_interleave(self.copies, dim=1)


class Contrast(NamedTuple):
    """Two views against each other: anchors among candidates, and candidates among anchors.

    In the second direction, the anchors are candidates of this process's slice of the batch.
    Remembered candidates are anchors of nothing.
    """

    first: Direction
    second: Direction

    def at(self, width: int) -> Contrast:
        """Returns the contrast of the vectors' first `width` numbers."""
        return Contrast(*(direction._replace(width=width) for direction in self))


class Term(NamedTuple):
    """A part of a loss: `share` times the quotients of two sums over the anchors of a process.

    Where `candidates` takes part in the sums, these are computed after those of sides before it.
    `of` makes one number of several quotients.
    """

    share: float
    candidates: Pool | None
    sums: Callable[[], Sums]
    of: Callable[[Tensor], Tensor] = torch.sum


def sums_over_blocks(sums: Callable[..., Sums], columns: int, *rows: Tensor) -> Sums:
    """Returns the sums over all anchors, with one block's matrices in memory at a time.

    `rows` are tensors with a row per anchor. `sums` takes the slice of a block and its part of
    each. The backward pass computes each block again, but for a small one that is alone.
    """
    size = block_size(columns)
    starts = range(0, max(1, len(rows[0])), size)
    blocks = list(zip(*(row.split(size) for row in rows), strict=True))
    if len(blocks) == 1 and len(rows[0]) * columns <= KEPT:
        return sums(slice(0, len(rows[0])), *blocks[0])
    found = [
        checkpoint(sums, slice(start, start + size), *block, use_reentrant=False)
        for start, block in zip(starts, blocks, strict=True)
    ]
    totals, weights = (torch.stack(parts).sum(dim=0) for parts in zip(*found, strict=True))
    return totals, weights


def block_size(columns: int) -> int:
    """Returns how many anchors are in a block."""
    return max(1, min(BLOCK, NUMBERS // max(1, columns)))


def most_positives(relevance: Blocks, anchors: int, columns: int) -> Int[Tensor, ""]:
    """Returns how many of the columns an anchor is relevant to at most; waits for no device."""
    size = block_size(columns)
    starts = range(0, max(1, anchors), size)
    blocks = (relevance(slice(start, min(start + size, anchors))) for start in starts)
    found = [(block > 0).sum(dim=1) for block in blocks]
    return F.pad(torch.cat(found), (0, 1)).amax()


def weighted_sums(values: Tensor, weight: Tensor) -> Sums:
    """Returns the weighted sum of values, and the sum of the weights."""
    return (weight * values).sum(), weight.float().sum()


def losses_of(
    terms: Mapping[str, Sequence[Term]],
    over_all: Callable[[Tensor], Tensor] = lambda sums: sums,
    processes: int = 1,
) -> dict[str, Float[Tensor, ""]]:
    """Returns the losses of all anchors of all processes, 0 where the weights sum to 0.

    `over_all` adds up a tensor over the processes, once for all losses. Each process has the
    gradient of its own anchors alone, times the number of processes, as the gradients of all are
    averaged afterwards.
    """
    flat = [term for part in terms.values() for term in part]
    # In the backward pass, what is computed last is first done with.
    order = sorted(flat, key=lambda term: term.candidates is not None and term.candidates.is_later)
    found = {id(term): term.sums() for term in order}
    totals, weights = zip(*(found[id(term)] for term in flat), strict=True)
    sizes = [total.numel() for total in totals]
    total, weight = (torch.cat([part.flatten() for part in parts]) for parts in (totals, weights))
    sums = over_all(torch.stack([total.detach(), weight]))
    means = total / (least := sums[1].clamp(min=1e-12))
    if processes > 1:
        means = means * processes
        means = means + (sums[0] / least - means).detach()
    parts = iter(means.split(sizes))
    return {
        name: torch.stack([term.share * term.of(next(parts)) for term in part]).sum()
        for name, part in terms.items()
    }


def contrasted_pairs(
    relevance: Matrix,
    has_anchor: Bool[Tensor, " anchors"],
    has_candidate: Bool[Tensor, " candidates"],
) -> Mask:
    """Returns which pairs take part: both views exist, and relevance is not SELF_MATCH."""
    return has_anchor[:, None] & has_candidate[None, :] & (relevance >= 0)
