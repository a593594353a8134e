"""UniECS's gated multimodal encoder (arXiv 2508.13843, CIKM 2025): tokens in, unit vectors out.

Cross-attention between text and picture tokens, self-attention within each, a mean, and a small
transformer over the two means. The paper gives no code that runs; where it is silent or where its
form would leak, the docstrings say what was chosen. Every residual branch starts at zero, so that
at first a modality's vector is the mean of its tokens and the product vector the sum of the two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.models.attention import fast_attention

States = Float[Tensor, "rows tokens dim"]
Mask = Bool[Tensor, "rows tokens"]
Text = Float[Tensor, "rows words dim"]
TextMask = Bool[Tensor, "rows words"]
Picture = Float[Tensor, "rows places dim"]
PictureMask = Bool[Tensor, "rows places"]
Vectors = Float[Tensor, "rows dim"]

CROSS_LAYERS, SELF_BLOCKS, JOINT_BLOCKS = 3, 2, 3
# The gates start at sigmoid(-2) = 0.12: nearly closed, yet open enough to learn.
GATE = -2.0


class Views(NamedTuple):
    """Unit vectors of each row's text alone, of its picture alone, and of all it has."""

    text: Vectors
    image: Vectors
    product: Vectors


def _constant(layer: nn.Linear, bias: float = 0.0) -> nn.Linear:
    """The layer, starting with weights of zero and one bias."""
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def _identity(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _unit(vectors: Vectors, mask: Mask) -> Vectors:
    """Unit vectors in float32; zero in rows without any token."""
    return torch.where(mask.any(dim=1, keepdim=True), F.normalize(vectors.float(), dim=1), 0.0)


class Attention(nn.Module):
    """Attn(x, s, s), multi-head, over those tokens s that the mask names; zero at the start."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = _constant(nn.Linear(dim, dim))

    def _heads(self, x: States) -> Float[Tensor, "rows heads tokens part"]:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, x: States, seen: Float[Tensor, "rows seen dim"], mask: Bool[Tensor, "rows seen"]
    ) -> States:
        """What each token of x finds, of the shape of x."""
        # Some kernels' softmax over nothing is NaN: a row without a token finds padding instead,
        # and nobody reads it.
        mask = mask | ~mask.any(dim=1, keepdim=True)
        query, key, value = (
            self._heads(layer(tokens))
            for layer, tokens in ((self.query, x), (self.key, seen), (self.value, seen))
        )
        with fast_attention(x.device):
            found = F.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])
        return self.out(found.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """x + W2 gelu(W1 norm(x)); W2 = 0 at the start."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, hidden)
        self.out = _constant(nn.Linear(hidden, dim))

    def forward(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Of the shape of x."""
        return x + self.out(F.gelu(self.hidden(self.norm(x))))


class Block(nn.Module):
    """A pre-norm transformer block over the tokens that the mask names."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: States, mask: Mask) -> States:
        """Of the shape of x."""
        normed = self.norm(x)
        return self.mlp(x + self.attention(normed, normed, mask))


class CrossLayer(nn.Module):
    """v <- g o a + (1 - g) o v with a = Attn(v, t, t), g = sigmoid(W [v; a; e]); likewise text.

    Pre-norm; elementwise per token, both directions from the tokens before the layer. The flag e
    says that the other modality exists. Rows where it does not (e = 0) never enter the layer, which
    passes their tokens unchanged; in all others e = 1, so its weights are the gate's bias.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.text_norm = nn.LayerNorm(dim)
        self.image_norm = nn.LayerNorm(dim)
        self.text_attention = Attention(dim, heads)
        self.image_attention = Attention(dim, heads)
        self.text_gate = _constant(nn.Linear(2 * dim, dim), GATE)
        self.image_gate = _constant(nn.Linear(2 * dim, dim), GATE)

    def forward(
        self, text: Text, text_mask: TextMask, image: Picture, image_mask: PictureMask
    ) -> tuple[Text, Picture]:
        """Text and picture tokens that have looked at each other; every row has both."""
        x, y = self.text_norm(text), self.image_norm(image)
        from_image = self.text_attention(x, y, image_mask)
        from_text = self.image_attention(y, x, text_mask)
        return (
            self._mix(self.text_gate, text, from_image),
            self._mix(self.image_gate, image, from_text),
        )

    def _mix(self, layer: nn.Linear, tokens: States, found: States) -> States:
        gate = torch.sigmoid(layer(torch.cat([tokens, found], dim=2)))
        return gate * found + (1 - gate) * tokens


class Reader(nn.Module):
    """Self-attention blocks, then the mean over the tokens that the mask names."""

    def __init__(self, dim: int, heads: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, hidden) for _ in range(blocks))

    def forward(self, x: States, mask: Mask) -> Vectors:
        """One vector a row; zero in rows without any token."""
        for block in self.blocks:
            x = block(x, mask)
        weight = mask.unsqueeze(2).to(x.dtype)
        return (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


class GatedEncoder(nn.Module):
    """Token sequences to the three unit vectors of each row, by one forward.

    - text, image: two self-attention blocks over that modality's own tokens, mean, small head.
      Cross-attention stays out: a text vector that has seen the picture would make the contrast of
      text with image trivial, and a text-only product could not have it.
    - product: three cross-attention layers, the same blocks and heads, a linear map of each of the
      two unit vectors, three transformer blocks over these two tokens, and their mean.

    A row has a modality where its mask names a token: the flag is per sample, and a row with one
    modality is computed as if the other had never existed. `hidden` is the width inside the
    residual MLPs, of which the heads are one each (the paper gives neither). Parameters: 13.3M at
    dim 384 and hidden 512 (66 dim^2 + 18 dim hidden, but for biases and norms).
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.cross = nn.ModuleList(CrossLayer(dim, heads) for _ in range(CROSS_LAYERS))
        self.text = Reader(dim, heads, hidden, SELF_BLOCKS)
        self.image = Reader(dim, heads, hidden, SELF_BLOCKS)
        self.text_head = Mlp(dim, hidden)
        self.image_head = Mlp(dim, hidden)
        self.text_map = _identity(dim)
        self.image_map = _identity(dim)
        self.joint = Reader(dim, heads, hidden, JOINT_BLOCKS)

    def forward(
        self, text: Text, text_mask: TextMask, image: Picture, image_mask: PictureMask
    ) -> Views:
        """Unit vectors [rows, dim] in float32; zero in rows that lack a view.

        Tokens of norm about one; a modality that no row has is one token a row, masked out.
        """
        text, image = self._existing(text, text_mask), self._existing(image, image_mask)
        alone = self._read(text, text_mask, image, image_mask)
        flags = torch.stack([text_mask.any(dim=1), image_mask.any(dim=1)], dim=1)
        both = flags.all(dim=1).nonzero().squeeze(1)
        met = self._meet(text[both], text_mask[both], image[both], image_mask[both])
        text_joined, image_joined = (
            whole.index_copy(0, both, part) for whole, part in zip(alone, met, strict=True)
        )
        return Views(*alone, self._join(text_joined, image_joined, flags))

    def _existing(self, tokens: States, mask: Mask) -> States:
        """Tokens with entries of about one; whatever stands behind the mask, NaN included, is 0."""
        return torch.where(mask.unsqueeze(2), tokens.float() * self.scale, 0.0)

    def _read(
        self, text: Text, text_mask: TextMask, image: Picture, image_mask: PictureMask
    ) -> tuple[Vectors, Vectors]:
        """One unit vector a sequence."""
        return (
            _unit(self.text_head(self.text(text, text_mask)), text_mask),
            _unit(self.image_head(self.image(image, image_mask)), image_mask),
        )

    def _meet(
        self, text: Text, text_mask: TextMask, image: Picture, image_mask: PictureMask
    ) -> tuple[Vectors, Vectors]:
        """The same after cross-attention, of rows that have both."""
        for layer in self.cross:
            text, image = layer(text, text_mask, image, image_mask)
        return self._read(text, text_mask, image, image_mask)

    def _join(self, text: Vectors, image: Vectors, flags: Bool[Tensor, "rows 2"]) -> Vectors:
        """The unit vector of a row from those of its text and picture, as far as there are."""
        mapped = self.text_map(text * self.scale), self.image_map(image * self.scale)
        return _unit(self.joint(torch.stack(mapped, dim=1), flags), flags)
