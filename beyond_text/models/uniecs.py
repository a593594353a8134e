"""UniECS's gated multimodal encoder (arXiv 2508.13843, CIKM 2025): tokens in, unit vectors out.

It runs cross-attention between text and picture tokens, self-attention within each, a mean over
the tokens, and a small transformer over the two means. The paper gives no code that runs. Where
the paper is silent, or where its form would leak, the docstrings say what was chosen. Every
residual branch starts at zero, so at first a modality's vector is the mean of its tokens, and the
product vector is the sum of the two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.models.attention import fast_attention
from beyond_text.models.layers import identity_linear, zero_linear
from beyond_text.models.pooling import mean

States = Float[Tensor, "rows tokens dim"]
Mask = Bool[Tensor, "rows tokens"]
Text = Float[Tensor, "rows words dim"]
TextMask = Bool[Tensor, "rows words"]
Picture = Float[Tensor, "rows patches dim"]
PictureMask = Bool[Tensor, "rows patches"]
Vectors = Float[Tensor, "rows dim"]

CROSS_LAYERS, SELF_BLOCKS, JOINT_BLOCKS = 3, 2, 3
# The gates start at sigmoid(-2) = 0.12: nearly closed, yet open enough to learn.
GATE = -2.0


class Views(NamedTuple):
    """Unit vectors of each row's text alone, of its picture alone, and of all it has."""

    text: Vectors
    image: Vectors
    product: Vectors


class GatedEncoder(nn.Module):
    """Encodes token sequences as the three unit vectors of each row, in one forward pass.

    - text, image: two self-attention blocks over that modality's own tokens, a mean, a small head.
      They use no cross-attention: the contrast of text with image would be trivial for a text
      vector that has seen the picture, and a text-only product could not have such a vector.
    - product: three cross-attention layers, the same blocks and heads, a linear map of each of the
      two unit vectors, three transformer blocks over these two tokens, and their mean.

    A row has a modality if its mask marks a token: this is per sample, and a row with one modality
    is computed as if the other had never existed. `hidden` is the width inside the residual MLPs;
    each head is one such MLP (the paper gives neither). Parameters: 13.3M at dim 384 and hidden 512
    (66 dim^2 + 18 dim hidden, but for biases and norms).
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        # Whether cross-attention runs over every row, also those with one modality, whose result
        # is not used: an exported graph cannot leave rows out.
        self.crosses_all_rows = False
        self.cross = nn.ModuleList(CrossLayer(dim, heads) for _ in range(CROSS_LAYERS))
        self.text = PooledBlocks(dim, heads, hidden, SELF_BLOCKS)
        self.image = PooledBlocks(dim, heads, hidden, SELF_BLOCKS)
        self.text_head = Mlp(dim, hidden)
        self.image_head = Mlp(dim, hidden)
        self.text_map = identity_linear(dim, bias=True)
        self.image_map = identity_linear(dim, bias=True)
        self.joint = PooledBlocks(dim, heads, hidden, JOINT_BLOCKS)

    def forward(
        self,
        text: Text,
        text_mask: TextMask,
        image: Picture,
        image_mask: PictureMask,
        may_have_both: Bool[Tensor, " rows"] | None = None,
    ) -> Views:
        """Returns unit vectors [rows, dim] in float32; zero in rows that lack a view.

        Tokens have a norm of about one. A modality that no row has is one masked token per row.
        Where rows with both modalities come first, `may_have_both` tells the host how many.
        """
        text, image = self._scaled(text, text_mask), self._scaled(image, image_mask)
        alone = self._pool(text, text_mask, image, image_mask)
        flags = torch.stack([text_mask.any(dim=1), image_mask.any(dim=1)], dim=1)
        if self.crosses_all_rows:
            has_both = flags.all(dim=1, keepdim=True)
            crossed = self._cross(text, text_mask, image, image_mask)
            joint_text, joint_image = (
                torch.where(has_both, pair, single)
                for single, pair in zip(alone, crossed, strict=True)
            )
            return Views(*alone, self._join(joint_text, joint_image, flags))
        if may_have_both is None:
            both = flags.all(dim=1).nonzero().squeeze(1)
        else:
            both = torch.arange(int(may_have_both.numpy().sum()), device=text.device)
        crossed = self._cross(text[both], text_mask[both], image[both], image_mask[both])
        has_both = flags[both].all(dim=1, keepdim=True)
        joint_text, joint_image = (
            single.index_copy(0, both, torch.where(has_both, pair, single[both]))
            for single, pair in zip(alone, crossed, strict=True)
        )
        return Views(*alone, self._join(joint_text, joint_image, flags))

    def _scaled(self, tokens: States, mask: Mask) -> States:
        """Returns tokens with entries of about one; masked ones are 0, even where they are NaN."""
        return torch.where(mask.unsqueeze(2), tokens.float() * self.scale, 0.0)

    def _pool(
        self, text: Text, text_mask: TextMask, image: Picture, image_mask: PictureMask
    ) -> tuple[Vectors, Vectors]:
        """Returns the unit vectors of the text and of the picture."""
        return (
            _unit(self.text_head(self.text(text, text_mask)), text_mask),
            _unit(self.image_head(self.image(image, image_mask)), image_mask),
        )

    def _cross(
        self, text: Text, text_mask: TextMask, image: Picture, image_mask: PictureMask
    ) -> tuple[Vectors, Vectors]:
        """Returns the two unit vectors after cross-attention; every row has both modalities."""
        for layer in self.cross:
            text, image = layer(text, text_mask, image, image_mask)
        return self._pool(text, text_mask, image, image_mask)

    def _join(self, text: Vectors, image: Vectors, flags: Bool[Tensor, "rows 2"]) -> Vectors:
        """Fuses the vectors of the text and the picture, as far as a row has them."""
        mapped = self.text_map(text * self.scale), self.image_map(image * self.scale)
        return _unit(self.joint(torch.stack(mapped, dim=1), flags), flags)


class CrossLayer(nn.Module):
    """Computes v <- g o a + (1 - g) o v, a = Attn(v, t, t), g = sigmoid(W [v; a; e]).

    These are the picture tokens v; the text tokens t change in the same way. The layer is pre-norm,
    the gate is elementwise per token, and both directions read the tokens from before the layer.
    The flag e says that the other modality exists. Rows where it does not (e = 0) never enter the
    layer, and so keep their tokens; in all others e = 1, so its weights are the gate's bias.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.text_norm = nn.LayerNorm(dim)
        self.image_norm = nn.LayerNorm(dim)
        self.text_attention = Attention(dim, heads)
        self.image_attention = Attention(dim, heads)
        self.text_gate = zero_linear(2 * dim, dim, GATE)
        self.image_gate = zero_linear(2 * dim, dim, GATE)

    def forward(
        self, text: Text, text_mask: TextMask, image: Picture, image_mask: PictureMask
    ) -> tuple[Text, Picture]:
        """Returns text and picture tokens after attending to each other; every row has both."""
        x, y = self.text_norm(text), self.image_norm(image)
        from_image = self.text_attention(x, y, image_mask)
        from_text = self.image_attention(y, x, text_mask)
        return (
            self._mix(self.text_gate, text, from_image),
            self._mix(self.image_gate, image, from_text),
        )

    def _mix(self, gate_layer: nn.Linear, tokens: States, attended: States) -> States:
        gate = torch.sigmoid(gate_layer(torch.cat([tokens, attended], dim=2)))
        return gate * attended + (1 - gate) * tokens


class PooledBlocks(nn.Module):
    """Runs self-attention blocks, then takes the mean over the tokens that the mask marks."""

    def __init__(self, dim: int, heads: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, hidden) for _ in range(blocks))

    def forward(self, x: States, mask: Mask) -> Vectors:
        """Returns one vector per row; zero in rows without any token."""
        for block in self.blocks:
            x = block(x, mask)
        return mean(x, mask)


class Block(nn.Module):
    """Runs a pre-norm transformer block over the tokens that the mask marks."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: States, mask: Mask) -> States:
        """Returns new states in the shape of x."""
        normed = self.norm(x)
        return self.mlp(x + self.attention(normed, normed, mask))


class Mlp(nn.Module):
    """Computes x + W2 gelu(W1 norm(x)); W2 = 0 at the start."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, hidden)
        self.out = zero_linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Returns new states in the shape of x."""
        return x + self.out(F.gelu(self.hidden(self.norm(x))))


class Attention(nn.Module):
    """Computes multi-head Attn(x, s, s) over the tokens s in the mask; zero at the start."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = zero_linear(dim, dim)

    def forward(
        self, x: States, source: Float[Tensor, "rows source dim"], mask: Bool[Tensor, "rows source"]
    ) -> States:
        """Returns what each token of x attends to, in the shape of x."""
        # Over an empty set some kernels' softmax is NaN, so a row without a token attends to
        # padding; its result is not used.
        mask = mask | ~mask.any(dim=1, keepdim=True)
        query, key, value = (
            self._heads(layer(tokens))
            for layer, tokens in ((self.query, x), (self.key, source), (self.value, source))
        )
        with fast_attention(x.device):
            attended = F.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])
        return self.out(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: States) -> Float[Tensor, "rows heads tokens part"]:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _unit(vectors: Vectors, mask: Mask) -> Vectors:
    """Returns unit vectors in float32; zero in rows without any token."""
    return torch.where(mask.any(dim=1, keepdim=True), F.normalize(vectors.float(), dim=1), 0.0)
