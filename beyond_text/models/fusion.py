"""Fuses the text vector and the image vector of a product; one dict names the variants.

Every variant takes unit vectors and two flags per sample, which say what exists, and returns unit
vectors. In the formulas x is the text vector, y the image vector, o the elementwise product.

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
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.models.layers import Chunkwise, identity_linear, signed_root, zero_linear
from beyond_text.models.uniecs import GatedEncoder

Vectors = Float[Tensor, "rows dim"]
Products = Float[Tensor, "rows rank"]
Flags = Bool[Tensor, "rows"]
Column = Float[Tensor, "rows 1"]


class Fusion(nn.Module):
    """Zeroes what is missing, combines and normalises; a variant overrides only `combine`.

    Attributes:
        uses: the modalities that a variant reads; a tower that no sample needs is not run. A
            control that uses one modality falls back on the other where its own is missing.
        tokens: whether the variant takes sequences of tokens instead of vectors.
    """

    uses: ClassVar[tuple[str, ...]] = ("text", "image")
    tokens: ClassVar[bool] = False

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.dim = dim
        self.rank = rank

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the vector before normalisation; x, y are zero where missing, flags are 0/1."""
        return x + y

    def forward(self, text: Vectors, image: Vectors, has_text: Flags, has_image: Flags) -> Vectors:
        """Returns unit product vectors in float32 [rows, dim]."""
        with torch.autocast(text.device.type, enabled=False):
            text_flag = has_text.unsqueeze(1).float()
            image_flag = has_image.unsqueeze(1).float()
            x = torch.where(has_text.unsqueeze(1), text.float(), 0.0)
            y = torch.where(has_image.unsqueeze(1), image.float(), 0.0)
            return F.normalize(self.combine(x, y, text_flag, image_flag), dim=1)


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


class ResidualFusion(Fusion):
    """Computes z = normalise(W_t x + W_v y + term); W_t = W_v = I and term = 0 at the start.

    The skips W_t x and W_v y keep what a product of the two would lose: it is zero when a modality
    is missing.

    Attributes:
        term_share: mean length of the term over that of the skips' sum, in the last training step.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text = identity_linear(dim)
        self.image = identity_linear(dim)
        self.term_share: Tensor | None = None

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the term that is added to the skips; x, y and it have entries of about one."""
        raise NotImplementedError

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Adds the term to the skips."""
        scale = self.dim**0.5
        term = self.term(x * scale, y * scale, has_text, has_image) / scale
        skips = self.text(x) + self.image(y)
        if self.training:
            self.term_share = term.detach().norm(dim=1).mean() / skips.detach().norm(dim=1).mean()
        return skips + term


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


class MoeFusion(BilinearFusion):
    """Computes z = normalise(W_t x + W_v y + W_o gelu(W_h [mix; tanh(U x) o tanh(V y)])).

    mix = sum_m p_m E_m [x; y; flags], p = softmax(W [x; y; x o y; flags]): a mixture of linear
    experts beside the bilinear product. It follows what a secondary source says of the paper's
    second version, whose equations are not public. Ours: the residual, W_o = 0 at the start, the
    flags for router and experts, and the sizes: four experts together as wide as `rank`, product
    and hidden layer half as wide. With one modality the product is zero, but the mixture stays.
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
        """Returns the weight of each expert for each sample; the weights sum to one."""
        return self.router(torch.cat([x, y, x * y, has_text, has_image], dim=1)).softmax(dim=1)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Applies the hidden layer to the mixture and the product, which is zero without both."""
        joined = torch.cat([x, y, has_text, has_image], dim=1)
        outputs = self.expert(joined).unflatten(1, (self.experts, -1))
        mix = (self.shares(x, y, has_text, has_image).unsqueeze(2) * outputs).sum(1)
        product = has_text * has_image * self.product(x, y)
        return self.out(F.gelu(self.hidden(torch.cat([mix, product], dim=1))))


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
    "moe": MoeFusion,
    "mutan": MutanFusion,
    "block": BlockFusion,
    "lmf": LmfFusion,
    "uniecs": UniecsFusion,
    "sum": SumFusion,
    "text": TextFusion,
    "image": ImageFusion,
}
