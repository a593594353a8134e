"""The fusion blocks that multiply text and picture: the bilinear one, and those that extend it."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.models.fusing import Column, ResidualFusion, Vectors
from beyond_text.models.layers import Chunkwise, signed_root, zero_linear

Products = Float[Tensor, "rows rank"]


class BilinearFusion(ResidualFusion):
    """Computes z = normalise(W_t x + W_v y + W_o (tanh(U x) o tanh(V y))).

    The paper's block is bilinear. The full tensor would hold dim^3 weights, so this is the
    low-rank form of MLB (Kim et al. 2017, arXiv 1610.04325) with `rank` factors and a residual:
    W_o = 0 and W_t = W_v = I at the start. 0.9M parameters.
    """

    # Number of products that are summed before W_o.
    terms: ClassVar[int] = 1

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text_factor = self.factor()
        self.image_factor = self.factor()
        self.out = zero_linear(rank, dim)

    def factor(self) -> nn.Module:
        """Builds one modality's side of the products: [rows, dim] to [rows, terms * rank]."""
        return nn.Linear(self.dim, self.terms * self.rank)

    def product(self, x: Vectors, y: Vectors) -> Products:
        """Returns the sum of the products, before W_o."""
        left = torch.tanh(self.text_factor(x))
        right = torch.tanh(self.image_factor(y))
        return (left * right).unflatten(1, (self.terms, self.rank)).sum(1)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the factorised product; zero where a modality is missing."""
        return has_text * has_image * self.out(self.product(x, y))


class MutanFusion(BilinearFusion):
    """Computes z = normalise(W_t x + W_v y + W_o sum_r (tanh(M_r x) o tanh(N_r y))).

    MUTAN (Ben-younes et al. 2017, arXiv 1705.06676): the core of a Tucker decomposition, of rank R
    in each slice. Ours: the projections before the core are part of M_r and N_r, and the residual
    with W_o = 0 at the start. R = 2 products of width `rank`: 1.3M parameters.
    """

    terms = 2


class BlockFusion(BilinearFusion):
    """Computes z = normalise(W_t x + W_v y + W_o [p_1; ...; p_C]), p_c = normalise(root of s_c).

    s_c = sum_r (tanh(M_cr x_c) o tanh(N_cr y_c)), with x_c and y_c the c-th of C chunks of U x and
    V y; the root is `signed_root`. BLOCK (Ben-younes et al. 2019, arXiv 1902.00038): its tensor has
    C blocks of rank R on the diagonal. Ours: tanh as in MUTAN, the root's slope at 0, and the
    residual, W_o = 0 at the start. C = 16 chunks of `rank` / 16 entries and R = 8: 1.2M parameters.
    """

    chunks: ClassVar[int] = 16
    terms = 8

    def __init__(self, dim: int, rank: int) -> None:
        # A normalised chunk of one entry would hold only a sign.
        super().__init__(dim, self.chunks * max(2, rank // self.chunks))

    def factor(self) -> nn.Module:
        """Builds a projection followed by the maps of its chunks."""
        maps = Chunkwise(self.chunks, self.rank // self.chunks, self.terms)
        return nn.Sequential(nn.Linear(self.dim, self.rank), maps)

    def product(self, x: Vectors, y: Vectors) -> Products:
        """Returns the chunks' products, each as a unit vector, concatenated."""
        chunks = super().product(x, y).unflatten(1, (self.chunks, -1))
        return F.normalize(signed_root(chunks), dim=2).flatten(1)
