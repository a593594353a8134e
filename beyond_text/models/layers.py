"""TODO models.layers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def identity(dim: int) -> nn.Linear:
    """A linear map that starts as the identity."""
    layer = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(layer.weight)
    return layer


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that starts at zero, so that its term joins only as far as it helps."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Chunkwise(nn.Module):
    """`terms` linear maps of each chunk onto itself: [rows, width] to [rows, terms * width].

    A layer whose matrix is block-diagonal, `terms` times over, of which the zeros are not stored.
    """

    def __init__(self, chunks: int, size: int, terms: int) -> None:
        super().__init__()
        bound = size**-0.5
        self.weight = nn.Parameter(torch.empty(terms, chunks, size, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(terms * chunks * size).uniform_(-bound, bound))

    def forward(self, projected: Float[Tensor, "rows width"]) -> Float[Tensor, "rows outputs"]:
        """Each chunk through its own maps; all chunks of the first map come first."""
        cut = projected.unflatten(1, self.weight.shape[1:3])
        return torch.einsum("rci,tcoi->rtco", cut, self.weight).flatten(1) + self.bias


def signed_root(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(v) sqrt(|v|) as v / sqrt(|v| + 1e-4): its slope at 0 is 100 where the root has none."""
    return values / (values.abs() + 1e-4).sqrt()
