"""Text vector and image vector in, product vector out; one dict names the variants.

Every variant takes unit vectors and, per sample, which of the two exist; it returns unit vectors.
All start as the plain sum of the two vectors, so that each begins in the aligned space and the
ablation compares what a block learns, not where it starts; x and y are text and image vectors, o
is the elementwise product. A sample with one modality never sees a term made of both.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

Vectors = Float[Tensor, "rows dim"]
Flags = Bool[Tensor, "rows"]
Column = Float[Tensor, "rows 1"]


def _identity(dim: int) -> nn.Linear:
    """A linear map that starts as the identity."""
    layer = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(layer.weight)
    return layer


def _zero(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that starts at zero, so that its term joins only as far as it helps."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Fusion(nn.Module):
    """Masks what is missing, combines, normalises; a variant only says how to combine.

    `uses` names the modalities a variant looks at: a tower that no sample needs is not run. A
    control that uses one modality falls back on the other where its own is missing.
    """

    uses: ClassVar[tuple[str, ...]] = ("text", "image")

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


class ConcatFusion(Fusion):
    """z = normalise(W [x; y] + W2 gelu(W1 [x; y; flags])): a residual MLP of the concatenation.

    W = [I I] and W2 = 0 at the start; the flags say which of the two is there.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text = _identity(dim)
        self.image = _identity(dim)
        self.hidden = nn.Linear(2 * dim + 2, rank)
        self.out = _zero(rank, dim)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Linear skip plus one hidden layer; inputs scaled to entries of about one."""
        scale = self.dim**0.5
        joined = torch.cat([x * scale, y * scale, has_text, has_image], dim=1)
        return self.text(x) + self.image(y) + self.out(F.gelu(self.hidden(joined))) / scale


class GatedFusion(Fusion):
    """z = normalise(g o tanh(U x) + (1 - g) o tanh(V y)), g = sigmoid(W [x; y]).

    The gated multimodal unit (Arevalo et al. 2017, arXiv 1702.01992). U = V = I and W = 0 at the
    start, where g is one half and tanh nearly linear. With one modality the gate is fully its own.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text = _identity(dim)
        self.image = _identity(dim)
        self.gate = _zero(2 * dim, dim)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Elementwise gate between the two."""
        both = has_text * has_image
        gate = torch.sigmoid(self.gate(torch.cat([x, y], dim=1) * self.dim**0.5))
        gate = both * gate + (1 - both) * has_text
        return gate * torch.tanh(self.text(x)) + (1 - gate) * torch.tanh(self.image(y))


class BilinearFusion(Fusion):
    """z = normalise(W_t x + W_v y + W_o (tanh(U x) o tanh(V y))).

    The paper's block is bilinear; the full tensor would hold dim^3 weights, so the form is the
    low-rank one of MLB (Kim et al. 2017, arXiv 1610.04325) with `rank` factors, and a residual:
    a pure product collapses to zero when a modality is missing. W_o = 0, W_t = W_v = I at first.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text = _identity(dim)
        self.image = _identity(dim)
        self.text_factor = nn.Linear(dim, rank)
        self.image_factor = nn.Linear(dim, rank)
        self.out = _zero(rank, dim)

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Residual plus the factorised product, which only products with both have."""
        scale = self.dim**0.5
        left = torch.tanh(self.text_factor(x * scale))
        right = torch.tanh(self.image_factor(y * scale))
        both = has_text * has_image
        return self.text(x) + self.image(y) + both * self.out(left * right) / scale


FUSIONS: dict[str, type[Fusion]] = {
    "bilinear": BilinearFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "sum": SumFusion,
    "text": TextFusion,
    "image": ImageFusion,
}
