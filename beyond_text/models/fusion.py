"""Fuses the text vector and the image vector of a product; one dict names the variants.

Every variant takes unit vectors and two flags per sample, which say what exists, and returns unit
vectors; `attended` takes the picture's patches too, and `uniecs` takes tokens instead. In the
formulas x is the text vector, y the image vector, o the elementwise product.

- Every variant that learns starts as the plain sum of the two vectors (`gated` nearly). So each
  begins in the aligned space, and the ablation compares what a block learns, not where it starts.
- A sample with one modality gets no term made of both.
- Learned terms, but for the tanh of `gated`, take x and y times sqrt(dim), whose entries are about
  one, and pass through weights that start at zero.
- `rank` sets the width of the terms. Parameters are counted at dim 384 and rank 512.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from beyond_text.models.attended import AttendedFusion
from beyond_text.models.bilinear import BilinearFusion, BlockFusion, MutanFusion
from beyond_text.models.fusing import Column, Fusion, ResidualFusion, Vectors
from beyond_text.models.layers import identity_linear, zero_linear
from beyond_text.models.moe import MoeFusion
from beyond_text.models.uniecs import GatedEncoder


class SumFusion(Fusion):
    """Computes z = normalise(x + y): the control without parameters."""


class TextFusion(Fusion):
    """Computes z = x, or y for a product without text: the text-only control."""

    uses = ("text",)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the text vector, or the image vector where there is no text."""
        return x + (1 - has_text) * y


class ImageFusion(Fusion):
    """Computes z = y, or x for a product without picture: the image-only control."""

    uses = ("image",)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the image vector, or the text vector where there is no picture."""
        return y + (1 - has_image) * x


class ConcatFusion(ResidualFusion):
    """Computes z = normalise(W [x; y] + W2 gelu(W1 [x; y; flags])): a residual MLP.

    W = [I I] and W2 = 0 at the start; the flags say which of the two exist. 0.9M parameters.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.hidden = nn.Linear(2 * dim + 2, rank)
        self.out = zero_linear(rank, dim)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Applies one hidden layer to the concatenation."""
        joined = torch.cat([x, y, has_text, has_image], dim=1)
        return self.out(F.gelu(self.hidden(joined)))


class GatedFusion(Fusion):
    """Computes z = normalise(g o tanh(U x) + (1 - g) o tanh(V y)), g = sigmoid(W [x; y]).

    The gated multimodal unit (Arevalo et al. 2017, arXiv 1702.01992). U = V = I and W = 0 at the
    start, where g is one half and tanh nearly linear. A single modality has weight 1.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text = identity_linear(dim)
        self.image = identity_linear(dim)
        self.gate = zero_linear(2 * dim, dim)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Mixes the two vectors by an elementwise gate."""
        both = has_text * has_image
        gate = torch.sigmoid(self.gate(torch.cat([x, y], dim=1) * self.dim**0.5))
        gate = both * gate + (1 - both) * has_text
        return gate * torch.tanh(self.text(x)) + (1 - gate) * torch.tanh(self.image(y))


class LmfFusion(Fusion):
    """Computes z = normalise(sum_r w_r o (F_r [x; 1] o G_r [y; 1])).

    Low-rank multimodal fusion (Liu et al. 2018, arXiv 1806.00064): the appended 1 keeps the terms
    of one modality, so the block starts as the sum without a residual: the first product is x o 1,
    the second 1 o y, and w_r is zero for the others. A missing modality is [0; 1], which turns
    every product into a linear map of the other. Ours: w_r is a vector where theirs is a number,
    and has no bias beside it. A factor is as wide as z, so `rank` is not used: R = 4 factors have
    1.2M parameters.
    """

    factors: ClassVar[int] = 4

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        # The layers' biases are the columns that multiply the appended 1.
        self.text_factors = nn.Linear(dim, self.factors * dim)
        self.image_factors = nn.Linear(dim, self.factors * dim)
        self.weights = nn.Parameter(torch.zeros(self.factors, dim))
        nn.init.ones_(self.weights[:2])
        sides = self.text_factors, self.image_factors
        for number, (own, other) in enumerate((sides, sides[::-1])):
            rows = slice(number * dim, (number + 1) * dim)
            nn.init.eye_(own.weight[rows])
            nn.init.zeros_(own.bias[rows])
            nn.init.zeros_(other.weight[rows])
            nn.init.ones_(other.bias[rows])

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the weighted sum of the factors' products."""
        scale = self.dim**0.5
        left = self.text_factors(x * scale).unflatten(1, (self.factors, self.dim))
        right = self.image_factors(y * scale).unflatten(1, (self.factors, self.dim))
        return (self.weights * left * right).sum(1)


class UniecsFusion(Fusion):
    """Runs UniECS's encoder over the tokens of text and picture; see `uniecs.GatedEncoder`.

    `encoder` takes token sequences, and returns the vectors of text and picture too. `rank` is the
    width inside its residual MLPs. It has the largest number of heads, up to 8, that divides dim.
    """

    tokens = True

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        heads = max(count for count in range(1, 9) if dim % count == 0)
        self.encoder = GatedEncoder(dim, heads, rank)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the fused vector of two sequences of one token each."""
        text, image = x.unsqueeze(1), y.unsqueeze(1)
        return self.encoder(text, has_text > 0, image, has_image > 0).product


FUSIONS: dict[str, type[Fusion]] = {
    "bilinear": BilinearFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "attended": AttendedFusion,
    "moe": MoeFusion,
    "mutan": MutanFusion,
    "block": BlockFusion,
    "lmf": LmfFusion,
    "uniecs": UniecsFusion,
    "sum": SumFusion,
    "text": TextFusion,
    "image": ImageFusion,
}


def build_fusion(name: str, dim: int, rank: int, features: int) -> Fusion:
    """Builds a fusion block; `features` are the numbers of a picture's patch."""
    fusion = FUSIONS[name]
    return fusion(dim, rank, features) if issubclass(fusion, AttendedFusion) else fusion(dim, rank)
