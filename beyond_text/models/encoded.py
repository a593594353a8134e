"""What a batch's inputs were encoded as: each distinct text, picture, and pair of both once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from beyond_text.models.layers import spread_tokens
from beyond_text.shards.batch import rows_of

Numbers = Int[Tensor, " rows"]


class Encoded(NamedTuple):
    """What the model reads of the distinct inputs of a view, and which of them each row has.

    `parts` have a row for each input; a row of the batch without the view has the number -1.
    """

    parts: tuple[Tensor, ...]
    row: Numbers

    def vectors(self, row: Numbers) -> Tensor:
        """Returns the first part in the order of `row`, which are numbers of inputs."""
        return rows_of(self.parts[0], row)

    def tokens(self, row: Numbers) -> tuple[Tensor, Tensor]:
        """Returns the last two parts, tokens and their mask, in the order of `row`."""
        tokens, mask = self.parts[-2:]
        return spread_tokens((tokens, mask), row)


class Pairs(NamedTuple):
    """The distinct pairs of a text and a picture, by their numbers, and the pair of each row.

    A product stands in a row for each of its queries; its pair is fused once.
    """

    text: Numbers
    image: Numbers
    of_row: Numbers


def pairs_of(text: Encoded, image: Encoded) -> Pairs:
    """Returns the pairs of the rows."""
    pairs, of_row = torch.stack([text.row, image.row]).unique(dim=1, return_inverse=True)
    return Pairs(pairs[0], pairs[1], of_row)
