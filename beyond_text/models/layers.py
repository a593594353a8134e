"""Layers that the fusion blocks share, most of which start as the identity or at zero.

At its first step a block is then the plain sum of its inputs, and each term grows only as far as
it helps.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def identity_linear(dim: int, bias: bool = False) -> nn.Linear:
    """Returns a linear layer that starts as the identity."""
    layer = nn.Linear(dim, dim, bias=bias)
    nn.init.eye_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def zero_linear(inputs: int, outputs: int, bias: float = 0.0) -> nn.Linear:
    """Returns a linear layer whose weights start at zero and whose biases start at `bias`."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)
    return layer


class Chunkwise(nn.Module):
    """Applies `terms` linear maps to each chunk: [rows, width] to [rows, terms * width].

    This is a layer of `terms` block-diagonal matrices, whose zeros are not stored.
    """

    def __init__(self, chunks: int, size: int, terms: int) -> None:
        super().__init__()
        bound = size**-0.5
        self.weight = nn.Parameter(torch.empty(terms, chunks, size, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(terms * chunks * size).uniform_(-bound, bound))

    def forward(self, projected: Float[Tensor, "rows width"]) -> Float[Tensor, "rows outputs"]:
        """Maps each chunk; the outputs of the first map, over all chunks, come first."""
        chunks = projected.unflatten(1, self.weight.shape[1:3])
        return torch.einsum("rci,tcoi->rtco", chunks, self.weight).flatten(1) + self.bias


def signed_root(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns sign(v) sqrt(|v|), computed as v / sqrt(|v| + 1e-4).

    Its slope at 0 is 100, where that of the exact root is infinite.
    """
    return values / (values.abs() + 1e-4).sqrt()


def projection(width: int, dim: int) -> nn.Linear:
    """Returns a map that starts as the identity, or as an orthogonal one for another width."""
    layer = nn.Linear(width, dim, bias=False)
    if width == dim:
        nn.init.eye_(layer.weight)
    else:
        nn.init.orthogonal_(layer.weight)
    return layer


def spread_tokens(
    tokens: tuple[Float[Tensor, "distinct length dim"], Bool[Tensor, "distinct length"]],
    row: Int[Tensor, " rows"],
) -> tuple[Float[Tensor, "rows length dim"], Bool[Tensor, "rows length"]]:
    """Returns the tokens of each row and their mask, which is empty in a row without the view."""
    states, mask = tokens
    if len(states) == 0:
        return states.new_zeros(len(row), 1, states.shape[2]), mask.new_zeros(len(row), 1)
    index = row.clamp(min=0)
    return states[index], mask[index] & (row >= 0).unsqueeze(1)
