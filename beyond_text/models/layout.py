"""Says what a model reads of a tower, and lays it out as one row of numbers for each input."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# A tower gives the model its vector, its tokens, or, of a picture, the vector and the patches.
Gives = Literal["vector", "tokens", "both"]
Rows = Float[Tensor, "inputs size"]
Tokens = Float[Tensor, "inputs tokens features"]


class Layout(NamedTuple):
    """The sizes of what the model reads of one input; 0 is what it does not read.

    Attributes:
        vector: numbers of the pooled vector.
        tokens: the largest number of tokens: of a text's tokens, or of a picture's patches.
        features: numbers of a token.
    """

    vector: int = 0
    tokens: int = 0
    features: int = 0

    @property
    def projected(self) -> int:
        """The width of what the tower's projection maps: the vector, or without one a token."""
        return self.vector or self.features

    @property
    def size(self) -> int:
        """The numbers of one input."""
        return self.vector + self.tokens * self.features

    @property
    def in_words(self) -> str:
        """The sizes, for a person."""
        tokens = f"{self.tokens} tokens of {self.features:,} numbers" if self.tokens else ""
        vector = f"a vector of {self.vector:,} numbers" if self.vector else ""
        return " and ".join(filter(None, (vector, tokens)))

    def joined(self, vectors: Float[Tensor, "inputs vector"], tokens: Tokens) -> Rows:
        """Returns a row for each input: its vector, then its tokens, filled with zeros."""
        filled = F.pad(tokens, (0, 0, 0, self.tokens - tokens.shape[1]))
        return torch.cat([vectors, filled.flatten(1)], dim=1)

    def parted(self, rows: Rows) -> tuple[Float[Tensor, "inputs vector"], Tokens]:
        """Returns the vectors and the tokens that rows hold."""
        tokens = rows[:, self.vector :].unflatten(1, (self.tokens, self.features))
        return rows[:, : self.vector], tokens
