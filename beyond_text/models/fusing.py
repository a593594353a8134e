"""What every fusion block is: two vectors and two flags in, one unit vector out.

Read `fusion.py` first, which names the blocks.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.models.layers import identity_linear

Vectors = Float[Tensor, "rows dim"]
Flags = Bool[Tensor, "rows"]
Column = Float[Tensor, "rows 1"]
Patches = Float[Tensor, "rows patches features"]
Real = Bool[Tensor, "rows patches"]


class Fusion(nn.Module):
    """Zeroes what is missing, combines and normalises; a variant overrides `combine`, or `look`.

    Attributes:
        uses: the modalities that a variant reads; a tower that no sample needs is not run. A
            control that uses one modality falls back on the other where its own is missing.
        tokens: whether the variant takes sequences of tokens instead of vectors.
        patches: whether it takes the picture's patches beside the two vectors.
        logged: what is worth a curve, by its name; of the last training step.
    """

    uses: ClassVar[tuple[str, ...]] = ("text", "image")
    tokens: ClassVar[bool] = False
    patches: ClassVar[bool] = False

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.dim = dim
        self.rank = rank
        self.logged: dict[str, Tensor] = {}

    def look(
        self, x: Vectors, y: Vectors, both: Flags, patches: Patches | None, real: Real | None
    ) -> Vectors:
        """Returns the picture's vector, as it is seen beside the text; `both` says who has both."""
        return y

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the vector before normalisation; x, y are zero where missing, flags are 0/1."""
        return x + y

    def forward(
        self,
        text: Vectors,
        image: Vectors,
        has_text: Flags,
        has_image: Flags,
        patches: Patches | None = None,
        real: Real | None = None,
    ) -> Vectors:
        """Returns unit product vectors in float32 [rows, dim].

        `patches` are unit vectors, and `real` says which of them exist; only a variant that takes
        patches reads them.

        Raises:
            TypeError: the variant takes patches, and they are missing.
        """
        with torch.autocast(text.device.type, enabled=False):
            text_flag = has_text.unsqueeze(1).float()
            image_flag = has_image.unsqueeze(1).float()
            x = torch.where(has_text.unsqueeze(1), text.float(), 0.0)
            y = torch.where(has_image.unsqueeze(1), image.float(), 0.0)
            y = self.look(x, y, has_text & has_image, patches, real)
            return F.normalize(self.combine(x, y, text_flag, image_flag), dim=1)


class ResidualFusion(Fusion):
    """Computes z = normalise(W_t x + W_v y + term); W_t = W_v = I and term = 0 at the start.

    The skips W_t x and W_v y keep what a product of the two would lose: it is zero when a modality
    is missing. `term_share` is logged: the mean length of the term over that of the skips' sum.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, rank)
        self.text = identity_linear(dim)
        self.image = identity_linear(dim)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Returns the term that is added to the skips; x, y and it have entries of about one."""
        raise NotImplementedError

    def combine(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Adds the term to the skips."""
        scale = self.dim**0.5
        term = self.term(x * scale, y * scale, has_text, has_image) / scale
        skips = self.text(x) + self.image(y)
        if self.training:
            self.logged["term_share"] = share_of(term, skips)
        return skips + term


def share_of(term: Vectors, whole: Vectors) -> Float[Tensor, ""]:
    """Returns the mean length of the rows of `term` over that of the rows of `whole`."""
    return term.detach().norm(dim=1).mean() / whole.detach().norm(dim=1).mean().clamp(min=1e-12)
