"""Text vector and image vector in, product vector out; one dict names the variants.

Every variant takes unit vectors and, per sample, which of the two exist; it returns unit vectors.
All that learn start as the plain sum of the two vectors (`gated` nearly), so that each begins in
the aligned space and the ablation compares what a block learns, not where it starts; x and y are
text and image vectors, o is the elementwise product. A sample with one modality never sees a term
made of both. Learned terms, but for the tanh of `gated`, take x and y times sqrt(dim), whose
entries are of about one, and pass weights that are zero at first. `rank` sets their width;
parameters are counted at dim 384 and rank 512.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.models.layers import Chunkwise, identity, signed_root, zero_linear
from beyond_text.models.uniecs import GatedEncoder

Vectors = Float[Tensor, "rows dim"]
Products = Float[Tensor, "rows rank"]
Flags = Bool[Tensor, "rows"]
Column = Float[Tensor, "rows 1"]


class Fusion(nn.Module):
    """Masks what is missing, combines, normalises; a variant only says how to combine.

    `uses` names the modalities a variant looks at: a tower that no sample needs is not run. A
    control that uses one modality falls back on the other where its own is missing. `tokens` says
    that a variant takes sequences of tokens instead of vectors.
    """

    uses: ClassVar[tuple[str, ...]] = ("text", "image")
    tokens: ClassVar[bool] = False

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.dim = dim
        self.rank = rank

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """The fused vector before normalisation; x, y are zero where missing, flags are 0/1."""
        return x + y

    def forward(self, text: Vectors, image: Vectors, has_text: Flags, has_image: Flags) -> Vectors:
        """Unit product vectors, in float32 [rows, dim]."""
        with torch.autocast(text.device.type, enabled=False):
            text_flag = has_text.unsqueeze(1).float()
            image_flag = has_image.unsqueeze(1).float()
            x = torch.where(has_text.unsqueeze(1), text.float(), 0.0)
            y = torch.where(has_image.unsqueeze(1), image.float(), 0.0)
            return F.normalize(self.combine(x, y, text_flag, image_flag), dim=1)


class SumFusion(Fusion):
    """z = normalise(x + y): the parameter-free control."""


class TextFusion(Fusion):
    """z = x, or y for a product without text: the text-only control."""

    uses = ("text",)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """The text vector; where there is no text, the image vector."""
        return x + (1 - has_text) * y


class ImageFusion(Fusion):
    """z = y, or x for a product without picture: the image-only control."""

    uses = ("image",)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """The image vector; where there is no picture, the text vector."""
        return y + (1 - has_image) * x


class ResidualFusion(Fusion):
    """z = normalise(W_t x + W_v y + term), W_t = W_v = I and term = 0 at the start.

    The skips keep what a term alone would lose: a product is zero when a modality is missing.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text = identity(dim)
        self.image = identity(dim)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """What joins the skips; x, y and the term itself have entries of about one."""
        raise NotImplementedError

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Linear skips plus the term."""
        scale = self.dim**0.5
        term = self.term(x * scale, y * scale, has_text, has_image)
        return self.text(x) + self.image(y) + term / scale


class ConcatFusion(ResidualFusion):
    """z = normalise(W [x; y] + W2 gelu(W1 [x; y; flags])): a residual MLP of the concatenation.

    W = [I I] and W2 = 0 at the start; the flags say which of the two is there. 0.9M parameters.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.hidden = nn.Linear(2 * dim + 2, rank)
        self.out = zero_linear(rank, dim)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """One hidden layer."""
        joined = torch.cat([x, y, has_text, has_image], dim=1)
        return self.out(F.gelu(self.hidden(joined)))


class GatedFusion(Fusion):
    """z = normalise(g o tanh(U x) + (1 - g) o tanh(V y)), g = sigmoid(W [x; y]).

    The gated multimodal unit (Arevalo et al. 2017, arXiv 1702.01992). U = V = I and W = 0 at the
    start, where g is one half and tanh nearly linear. With one modality the gate is fully its own.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text = identity(dim)
        self.image = identity(dim)
        self.gate = zero_linear(2 * dim, dim)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Elementwise gate between the two."""
        both = has_text * has_image
        gate = torch.sigmoid(self.gate(torch.cat([x, y], dim=1) * self.dim**0.5))
        gate = both * gate + (1 - both) * has_text
        return gate * torch.tanh(self.text(x)) + (1 - gate) * torch.tanh(self.image(y))


class BilinearFusion(ResidualFusion):
    """z = normalise(W_t x + W_v y + W_o (tanh(U x) o tanh(V y))).

    The paper's block is bilinear; the full tensor would hold dim^3 weights, so the form is the
    low-rank one of MLB (Kim et al. 2017, arXiv 1610.04325) with `rank` factors, and a residual:
    W_o = 0, W_t = W_v = I at first. 0.9M parameters.
    """

    # Products that are summed before W_o.
    terms: ClassVar[int] = 1

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text_factor = self.factor()
        self.image_factor = self.factor()
        self.out = zero_linear(rank, dim)

    def factor(self) -> nn.Module:
        """One modality's side of the products, end to end: [rows, dim] to [rows, terms * rank]."""
        return nn.Linear(self.dim, self.terms * self.rank)

    def product(self, x: Vectors, y: Vectors) -> Products:
        """The sum of the products, before W_o."""
        left = torch.tanh(self.text_factor(x))
        right = torch.tanh(self.image_factor(y))
        return (left * right).unflatten(1, (self.terms, self.rank)).sum(1)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """The factorised product, which only products with both have."""
        return has_text * has_image * self.out(self.product(x, y))


class MoeFusion(BilinearFusion):
    """z = normalise(W_t x + W_v y + W_o gelu(W_h [mix; tanh(U x) o tanh(V y)])).

    mix = sum_m p_m E_m [x; y; flags], p = softmax(W [x; y; x o y; flags]): a mixture of linear
    experts beside the bilinear product, as the paper's second version is told of by a secondary
    source (its equations are not public). Ours: the residual, W_o = 0 at the start, the flags for
    router and experts, and the sizes: four experts together as wide as `rank`, product and hidden
    layer half as wide. With one modality the product is zero, the mixture of what is there stays.
    1.1M parameters.
    """

    experts: ClassVar[int] = 4

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, max(1, rank // 2))
        width = max(1, rank // self.experts)
        self.router = nn.Linear(3 * dim + 2, self.experts)
        self.expert = nn.Linear(2 * dim + 2, self.experts * width)
        self.hidden = nn.Linear(width + self.rank, self.rank)

    def shares(
        self, x: Vectors, y: Vectors, has_text: Column, has_image: Column
    ) -> Float[Tensor, "rows experts"]:
        """How much of each expert a sample takes; sums to one."""
        return self.router(torch.cat([x, y, x * y, has_text, has_image], dim=1)).softmax(dim=1)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """A hidden layer over the mixture and the product, zero where a modality is missing."""
        joined = torch.cat([x, y, has_text, has_image], dim=1)
        answers = self.expert(joined).unflatten(1, (self.experts, -1))
        mix = (self.shares(x, y, has_text, has_image).unsqueeze(2) * answers).sum(1)
        product = has_text * has_image * self.product(x, y)
        return self.out(F.gelu(self.hidden(torch.cat([mix, product], dim=1))))


class MutanFusion(BilinearFusion):
    """z = normalise(W_t x + W_v y + W_o sum_r (tanh(M_r x) o tanh(N_r y))).

    MUTAN (Ben-younes et al. 2017, arXiv 1705.06676): the core of a Tucker decomposition, of rank R
    in each slice. Ours: the projections before the core are part of M_r and N_r, and the residual
    with W_o = 0 at the start. R = 2 products of width `rank`: 1.3M parameters.
    """

    terms = 2


class BlockFusion(BilinearFusion):
    """z = normalise(W_t x + W_v y + W_o [p_1; ...; p_C]), p_c = normalise(signed root of s_c).

    s_c = sum_r (tanh(M_cr x_c) o tanh(N_cr y_c)), with x_c and y_c the c-th of C chunks of U x and
    V y: BLOCK (Ben-younes et al. 2019, arXiv 1902.00038), whose tensor has C blocks of rank R on
    its diagonal. Ours: tanh as in MUTAN, the slope of the root at 0 and the residual, W_o = 0 at
    the start. C = 16 chunks of `rank` / 16 entries and R = 8: 1.2M parameters.
    """

    chunks: ClassVar[int] = 16
    terms = 8

    def __init__(self, dim: int, rank: int) -> None:
        # A chunk of one entry would be nothing but its sign once it is normalised.
        super().__init__(dim, self.chunks * max(2, rank // self.chunks))

    def factor(self) -> nn.Module:
        """A projection, then the maps of its chunks."""
        maps = Chunkwise(self.chunks, self.rank // self.chunks, self.terms)
        return nn.Sequential(nn.Linear(self.dim, self.rank), maps)

    def product(self, x: Vectors, y: Vectors) -> Products:
        """Unit chunks, end to end."""
        cut = super().product(x, y).unflatten(1, (self.chunks, -1))
        return F.normalize(signed_root(cut), dim=2).flatten(1)


class LmfFusion(Fusion):
    """z = normalise(sum_r w_r o (F_r [x; 1] o G_r [y; 1])).

    Low-rank multimodal fusion (Liu et al. 2018, arXiv 1806.00064): the appended 1 keeps the terms
    of one modality. So the start as the sum needs no residual: the first factor is x o 1, the
    second 1 o y, and w_r is zero for the others. A missing modality is [0; 1], which leaves of
    every product a linear map of the other. Ours: w_r is a vector where theirs is a number, and
    there is no bias beside it. A factor is as wide as z, so `rank` is not used: R = 4 factors are
    1.2M parameters.
    """

    factors: ClassVar[int] = 4

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        # The layers' biases are the columns that the appended 1 meets.
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
        """The weighted sum of the factors' products."""
        scale = self.dim**0.5
        left = self.text_factors(x * scale).unflatten(1, (self.factors, self.dim))
        right = self.image_factors(y * scale).unflatten(1, (self.factors, self.dim))
        return (self.weights * left * right).sum(1)


class UniecsFusion(Fusion):
    """UniECS's encoder over the tokens of text and picture; see `uniecs.GatedEncoder`.

    `encoder` takes token sequences, and gives the vectors of text and picture too. `rank` is the
    width inside its residual MLPs; it has 8 heads, or as many up to 8 as divide dim.
    """

    tokens = True

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        heads = max(count for count in range(1, 9) if dim % count == 0)
        self.encoder = GatedEncoder(dim, heads, rank)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """The fused vector of two sequences of one token each."""
        text, image = x.unsqueeze(1), y.unsqueeze(1)
        return self.encoder(text, has_text > 0, image, has_image > 0).product


FUSIONS: dict[str, type[Fusion]] = {
    "bilinear": BilinearFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "moe": MoeFusion,
    "mutan": MutanFusion,
    "block": BlockFusion,
    "lmf": LmfFusion,
    "uniecs": UniecsFusion,
    "sum": SumFusion,
    "text": TextFusion,
    "image": ImageFusion,
}
